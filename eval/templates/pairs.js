"use strict";
// Episodes side by side: filters (all ticked ones have to hold), and j / k to walk. The page works without it.
const episodes = [...document.querySelectorAll("details.episode")];
const visible = () => episodes.filter((episode) => !episode.hidden);

function walk(by) {
  const shown = visible();
  const here = shown.findIndex((episode) => episode.contains(document.activeElement));
  focusSummary(shown[here < 0 ? 0 : here + by], "center");
}

function apply() {
  for (const episode of episodes) {
    const tags = episode.dataset.tags.split(" ");
    episode.hidden = !ticked().every((tag) => tags.includes(tag));
  }
  document.querySelector(".count").textContent = `${visible().length} of ${episodes.length} shown`;
}

if (episodes.length) {
  onKeys({ j: () => walk(1), k: () => walk(-1) });
  onFilters(document.querySelector(".toolbar"), apply, visible);
  apply();
}
