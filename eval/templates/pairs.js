"use strict";
// Filters (all pressed ones have to hold), and j / k to walk through the episodes. The page works without it.
const episodes = [...document.querySelectorAll("details.episode")];
const filters = [...document.querySelectorAll("button[data-filter]")];
const count = document.querySelector(".count");
const visible = () => episodes.filter((episode) => !episode.hidden);

function apply() {
  const wanted = filters.filter((b) => b.getAttribute("aria-pressed") === "true").map((b) => b.dataset.filter);
  for (const episode of episodes) {
    const tags = episode.dataset.tags.split(" ");
    episode.hidden = !wanted.every((tag) => tags.includes(tag));
  }
  if (count) count.textContent = `${visible().length} of ${episodes.length} shown`;
}

for (const button of filters) {
  button.addEventListener("click", () => {
    button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
    apply();
  });
}

document.querySelector("button[data-unfold]")?.addEventListener("click", (event) => {
  const open = visible().some((episode) => !episode.open);
  for (const episode of visible()) episode.open = open;
  event.currentTarget.textContent = open ? "close all" : "open all";
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]") || (event.key !== "j" && event.key !== "k")) return;
  const shown = visible();
  const here = shown.findIndex((episode) => episode.contains(document.activeElement));
  const next = here < 0 ? 0 : here + (event.key === "j" ? 1 : -1);
  if (next < 0 || next >= shown.length) return;
  const summary = shown[next].querySelector("summary");
  summary.focus();
  summary.scrollIntoView({ block: "center" });
});

document.querySelector(".toolbar")?.removeAttribute("hidden");
apply();
