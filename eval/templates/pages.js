"use strict";
// What every page has: pictures at full size with their boxes, charts that say their values, hints that more is beside
// what is seen, keys and filters. It stands before the page's own script, where there is one.
const help = () => document.getElementById("help")?.showModal();

// What keys do: nothing while a dialog is open or somebody types; `leave` follows after Escape has left a field.
function onKeys(keys, leave = () => {}) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.target.matches("input:not([type=checkbox]), select")) {
      if (event.key !== "Escape") return;
      event.target.blur();
      leave();
    } else if (event.key === "?" || Object.hasOwn(keys, event.key)) {
      event.preventDefault();
      (event.key === "?" ? help : keys[event.key])();
    }
  });
}

// Filters that a script applies, whenever one of them changes, and the button that opens all of what is shown.
const ticked = () => [...document.querySelectorAll(".toolbar [name=show]:checked")].map((box) => box.value);

function onFilters(toolbar, apply, shown) {
  toolbar.hidden = false;
  toolbar.addEventListener("submit", (event) => event.preventDefault());
  toolbar.addEventListener("input", apply);
  toolbar.querySelector("[data-unfold]").addEventListener("click", () => {
    const open = shown().some((episode) => !episode.open);
    for (const episode of shown()) episode.open = open;
  });
}

function focusSummary(episode, block) {
  const summary = episode?.querySelector("summary");
  summary?.focus({ preventScroll: true });
  summary?.scrollIntoView({ block });
}

{
  const SVG = "http://www.w3.org/2000/svg";

  function make(tag, attributes, ...children) {
    const made = tag === "svg" || tag === "image" ? document.createElementNS(SVG, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  // A picture fills the window; `box` is the part that is seen, in pixels of the source that its boxes are given in.
  const stage = make("svg", { class: "stage", role: "img", tabindex: "0" });
  const caption = make("p", { class: "small", role: "status" });
  const actions = {
    "−": ["zoom out", "-", () => zoom(1.25)],
    "+": ["zoom in", "+", () => zoom(0.8)],
    fit: ["fit into the window", "0", () => fit()],
    "1:1": ["a pixel for a pixel", "1", () => zoom(full.width / full.pixels / scale())],
    boxes: ["boxes", "b", () => stage.classList.toggle("plain")],
    "←": ["previous picture", "k", () => turn(-1)],
    "→": ["next picture", "j", () => turn(1)],
    close: ["close", "Esc", () => light.close()],
  };
  const bar = make("div", { class: "bar" }, caption);
  for (const [text, [name, key, act]] of Object.entries(actions)) {
    const button = make("button", { type: "button", title: `${name} (${key})`, "aria-label": name }, text);
    button.addEventListener("click", act);
    bar.append(button);
  }
  const light = make("dialog", { id: "lightbox", "aria-label": "picture at full size" }, stage, bar);
  document.body.append(light);
  let opener;
  let full;
  let box;
  let numbers;
  const clamp = (value, least, most) => Math.max(least, Math.min(value, most));

  // How many pixels of the source one pixel of the window shows.
  const scale = () => Math.max(box.width / stage.clientWidth, box.height / stage.clientHeight);

  function draw() {
    stage.setAttribute("viewBox", `${box.x} ${box.y} ${box.width} ${box.height}`);
    // Numbers stay as large as they are while the picture grows: at their box, and inside what is shown of it.
    for (const [number, badge, corner] of numbers) {
      const grown = (24 * scale()) / badge.height;
      const below = badge.y >= corner.y + corner.height ? corner.height : 0;
      const x = corner.x + (badge.x - corner.x) * grown;
      const y = corner.y + below + (badge.y - corner.y - below) * grown;
      const inside = [clamp(x, full.x, full.x + full.width - badge.width * grown), clamp(y, full.y, full.y + full.height - badge.height * grown)];
      number.setAttribute("transform", `translate(${inside[0] - badge.x * grown} ${inside[1] - badge.y * grown}) scale(${grown})`);
    }
    stage.classList.toggle("tiny", scale() < full.width / full.pixels / 2);
  }

  function place(event) {
    const matrix = stage.getScreenCTM().inverse();
    return new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix);
  }

  function zoom(factor, at = { x: box.x + box.width / 2, y: box.y + box.height / 2 }) {
    const width = clamp(box.width * factor, full.width / 400, full.width * 4);
    factor = width / box.width;
    box = { x: at.x - (at.x - box.x) * factor, y: at.y - (at.y - box.y) * factor, width, height: box.height * factor };
    draw();
  }

  function pan(x, y) {
    box.x = clamp(box.x + x, full.x - box.width / 2, full.x + full.width - box.width / 2);
    box.y = clamp(box.y + y, full.y - box.height / 2, full.y + full.height - box.height / 2);
    draw();
  }

  function fit() {
    // Small pictures grow, but not beyond what helps.
    const grown = Math.max(full.width / stage.clientWidth, full.height / stage.clientHeight, full.width / full.pixels / 8);
    const [width, height] = [stage.clientWidth * grown, stage.clientHeight * grown];
    box = { x: full.x - (width - full.width) / 2, y: full.y - (height - full.height) / 2, width, height };
    draw();
  }

  // Pictures of one episode follow one another.
  const siblings = () => [...(opener.closest(".episode-grid, section, main") ?? document).querySelectorAll("button.enlarge")];

  function turn(by) {
    const next = siblings()[siblings().indexOf(opener) + by];
    if (next) show(next);
  }

  function show(button) {
    opener = button;
    const drawn = button.querySelector("svg");
    const picture = button.querySelector("img");
    // A source that is larger than what the page holds of it comes from the server, and covers that when it is there.
    const hrefs = [drawn ? drawn.querySelector("image").getAttribute("href") : picture.getAttribute("src"), button.dataset.full];
    const edges = (drawn ? drawn.getAttribute("viewBox") : button.dataset.box).split(" ").map(Number);
    full = { x: edges[0], y: edges[1], width: edges[2], height: edges[3], pixels: Number(button.dataset.pixels ?? edges[2]) };
    const { x, y, width, height } = full;
    const images = hrefs.filter(Boolean).map((href) => make("image", { href, x, y, width, height, preserveAspectRatio: "none" }));
    const source = drawn ?? button.closest(".episode-grid, section")?.querySelector(`button[data-source="${CSS.escape(button.dataset.of)}"] svg`);
    // A view's own box would only frame it; others are drawn as far as they lie in it.
    const meets = (other) => other.x < x + width && other.y < y + height && other.x + other.width > x && other.y + other.height > y;
    const marks = source ? [...source.querySelectorAll(".mark")].filter((mark) => mark.dataset.view !== button.dataset.view && meets(mark.getBBox())) : [];
    const corners = new Map(marks.map((mark) => [mark.dataset.view, mark.getBBox()]));
    numbers = source ? [...source.querySelectorAll(".number")].map((number) => [number.cloneNode(true), number.querySelector("rect").getBBox(), corners.get(number.textContent.trim())]).filter(([, , corner]) => corner) : [];
    const inside = make("svg", { x, y, width, height, viewBox: `${x} ${y} ${width} ${height}` });
    inside.append(...marks.map((mark) => mark.cloneNode(true)), ...numbers.map(([number]) => number));
    stage.replaceChildren(...images, inside);
    stage.setAttribute("aria-label", button.getAttribute("aria-label"));
    caption.textContent = button.getAttribute("aria-label");
    if (!light.open) light.showModal();
    stage.focus({ preventScroll: true });
    fit();
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.enlarge");
    if (button) show(button);
    if (event.target.closest("[data-help]")) help();
  });
  light.addEventListener("close", () => opener.focus());
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(1.0015 ** event.deltaY, place(event));
  }, { passive: false });
  stage.addEventListener("dblclick", (event) => (scale() > full.width / full.pixels * 1.01 ? zoom(full.width / full.pixels / scale(), place(event)) : fit()));
  window.addEventListener("resize", () => light.open && fit());

  // One finger or the mouse moves the picture, two fingers spread it.
  const fingers = new Map();
  const middle = () => {
    const [first, second = first] = [...fingers.values()];
    const [clientX, clientY] = [(first.clientX + second.clientX) / 2, (first.clientY + second.clientY) / 2];
    return { clientX, clientY, apart: Math.hypot(first.clientX - second.clientX, first.clientY - second.clientY) };
  };
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, event);
  });
  stage.addEventListener("pointermove", (event) => {
    if (!fingers.has(event.pointerId)) return;
    const before = middle();
    fingers.set(event.pointerId, event);
    const now = middle();
    if (before.apart && now.apart) zoom(before.apart / now.apart, place(now));
    pan((before.clientX - now.clientX) * scale(), (before.clientY - now.clientY) * scale());
  });
  for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, (event) => fingers.delete(event.pointerId));

  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  light.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const action = Object.values(actions).find(([, key]) => key === (event.key === "=" ? "+" : event.key));
    if (moves[event.key]) pan(...moves[event.key].map((by) => (by * box.width) / 8));
    else if (action) action[2]();
    else return;
    event.preventDefault();
  });

  // Charts: the values at the nearest point, under the mouse or chosen with the arrow keys.
  function tell(chart, index) {
    const lines = [...chart.querySelectorAll("g[data-points]")].map((line) => [line.dataset.name, JSON.parse(line.dataset.points)]);
    const places = [...new Set(lines.flatMap(([, points]) => points.map(([x]) => x)))].sort((a, b) => a - b);
    const x = places[clamp(index(places), 0, places.length - 1)];
    const [left, right] = chart.dataset.range.split(" ").map(Number);
    const across = left + ((x - chart.dataset.low) / (chart.dataset.high - chart.dataset.low)) * (right - left);
    const guide = chart.querySelector(".guide");
    chart.dataset.at = places.indexOf(x);
    guide.setAttribute("x1", across);
    guide.setAttribute("x2", across);
    const values = lines.map(([name, points]) => [name, points.find(([at]) => at === x)]).filter(([, point]) => point);
    const said = values.map(([name, [, y]]) => (lines.length > 1 ? `${name} ${Number(y.toPrecision(4))}` : Number(y.toPrecision(4))));
    chart.closest("figure").querySelector("output").textContent = `${chart.dataset.x} ${x}: ${said.join(" · ")}`;
  }

  document.addEventListener("pointermove", (event) => {
    const chart = event.target.closest?.("svg.chart");
    if (!chart) return;
    const [left, right] = chart.dataset.range.split(" ").map(Number);
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse()).x;
    const x = Number(chart.dataset.low) + ((at - left) / (right - left)) * (chart.dataset.high - chart.dataset.low);
    const nearest = (places) => places.reduce((best, value, k) => (Math.abs(value - x) < Math.abs(places[best] - x) ? k : best), 0);
    tell(chart, nearest);
  });
  document.addEventListener("focusin", (event) => event.target.matches("svg.chart") && tell(event.target, (places) => Number(event.target.dataset.at ?? places.length - 1)));

  document.addEventListener("keydown", (event) => {
    if (!event.target.matches("svg.chart") || !moves[event.key]?.[0] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    tell(event.target, () => Number(event.target.dataset.at) + moves[event.key][0]);
  });

  // Where a part of the page is wider than its place, its edges fade towards what is not seen.
  function hint() {
    for (const wide of document.querySelectorAll(".group-grid, .scroll")) {
      const rest = wide.scrollWidth - wide.clientWidth - wide.scrollLeft;
      wide.dataset.more = `${wide.scrollLeft > 8 ? "left " : ""}${rest > 8 ? "right" : ""}`;
    }
  }
  document.addEventListener("scroll", hint, { capture: true, passive: true });
  window.addEventListener("resize", hint);
  hint();
}

// Episodes side by side, where a page has them: filters (all ticked ones have to hold), and j / k to walk.
if (document.querySelector("details.episode[data-tags]")) {
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

  onKeys({ j: () => walk(1), k: () => walk(-1) });
  onFilters(document.querySelector(".toolbar"), apply, visible);
  apply();
}
