"use strict";
// The list of all episodes of a run: filters, pages, keys, and links to one episode. Texts are unpacked when they are
// shown. Whatever a model wrote is put in place as text; what is put in place as HTML was escaped when it was written.
const PAGE = 50;
const COLUMNS = ["id", "repeat", "category", "question", "answer", "target", "outcome", "score", "usage", "failures", "tags"];
const rows = JSON.parse(document.getElementById("rows").textContent).map((values, index) => {
  const row = Object.fromEntries(COLUMNS.map((name, k) => [name, values[k]]));
  const texts = [row.id, row.category, row.question, row.answer, row.target].filter((text) => text !== null);
  return { ...row, index, tags: new Set(row.tags), search: texts.join("\n").toLowerCase() };
});
const list = document.getElementById("episodes");
const toolbar = document.querySelector(".toolbar");
const pager = document.querySelector(".pager");
const count = document.querySelector(".count");
const [search, operation, category] = ["q", "operation", "category"].map((name) => toolbar.elements[name]);
const pictured = new Map([...document.querySelectorAll("template[data-episode]")].map((t) => [Number(t.dataset.episode), t]));
const packed = document.getElementById("packed");
const unpacked = new Map();
let found = rows;
let page = 0;

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function link(row) {
  try {
    return `#episode=${encodeURIComponent(row.id)}${row.repeat ? `&repeat=${row.repeat}` : ""}`;
  } catch {
    return `#number=${row.index + 1}`; // half a surrogate pair has no address
  }
}

function linked() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  if (wanted.has("number")) return rows[Number(wanted.get("number")) - 1];
  if (!wanted.has("episode")) return undefined;
  return rows.find((row) => row.id === wanted.get("episode") && row.repeat === Number(wanted.get("repeat") ?? 0));
}

function counted(counts) {
  return Object.entries(counts).map(([name, number]) => (number > 1 ? `${name} ×${number}` : name)).join(", ");
}

function draw(row) {
  const episode = element("details", "episode");
  episode.dataset.index = row.index;
  const summary = element("summary", "");
  const answer = element("span", `answered ${row.outcome}`);
  answer.append(element("bdi", "given", row.answer ?? "no answer"));
  if (row.tags.has("wrong") && row.target !== null) answer.append(" instead of ", element("bdi", "wanted", row.target));
  summary.append(
    element("span", `badge ${row.outcome}`, row.outcome),
    element("bdi", "id", row.repeat ? `${row.id} · ${row.repeat + 1}` : row.id),
    element("bdi", "question", row.question),
    answer,
  );
  if (row.score !== null && row.score > 0 && row.score < 1) summary.append(element("span", "badge", row.score.toFixed(3)));
  const usage = counted(row.usage);
  summary.append(element("bdi", usage ? "badge used" : "badge", usage || "no operation"));
  for (const tag of ["needless", "missing"]) if (row.tags.has(tag)) summary.append(element("span", "badge", tag));
  if (row.tags.has("cut")) summary.append(element("span", "badge failed", "cut off"));
  const failures = counted(row.failures);
  if (failures) summary.append(element("bdi", "badge failed", `failed: ${failures}`));
  if (row.tags.has("pictured")) summary.append(element("span", "pictured", "▣"));
  if (row.category !== null) summary.append(element("bdi", "category", row.category));
  episode.append(summary);
  episode.addEventListener("toggle", () => episode.open && show(episode, row));
  return episode;
}

async function show(episode, row) {
  history.replaceState(null, "", link(row));
  if (episode.querySelector(".body")) return;
  const body = element("div", "body");
  episode.append(body);
  try {
    body.append(await content(row.index));
  } catch (error) {
    body.append(element("p", "no-pictures", `This browser cannot unpack the text (${error}). A newer one can.`));
  }
  const address = element("a", "small link", "link to this episode");
  address.href = link(row);
  body.append(address);
}

async function content(index) {
  if (pictured.has(index)) return pictured.get(index).content.cloneNode(true);
  const size = Number(packed.dataset.size);
  const number = Math.floor(index / size);
  if (!unpacked.has(number)) unpacked.set(number, unpack(packed.children[number].textContent));
  const holder = document.createElement("template");
  holder.innerHTML = (await unpacked.get(number))[index % size];
  return holder.content;
}

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

function apply() {
  const tags = ticked();
  const text = search.value.trim().toLowerCase();
  found = rows.filter(
    (row) =>
      tags.every((tag) => row.tags.has(tag)) &&
      (!operation?.value || row.usage[operation.value]) &&
      (!category?.value || row.category === category.value) &&
      (!text || row.search.includes(text)),
  );
  turn(0);
}

function turn(to) {
  page = Math.max(0, Math.min(to, Math.ceil(found.length / PAGE) - 1));
  list.replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map(draw));
  const first = page * PAGE + 1;
  const last = Math.min(found.length, first + PAGE - 1);
  const all = rows.length.toLocaleString("en");
  const shown = found.length.toLocaleString("en");
  count.textContent = found.length === rows.length ? `${all} episodes` : `${shown} of ${all}`;
  pager.hidden = found.length <= PAGE;
  const back = element("button", "", "← earlier");
  const on = element("button", "", "later →");
  back.disabled = page === 0;
  on.disabled = last >= found.length;
  back.addEventListener("click", () => turn(page - 1));
  on.addEventListener("click", () => turn(page + 1));
  const jump = element("input", "");
  Object.assign(jump, { type: "number", min: 1, max: Math.ceil(found.length / PAGE), placeholder: "go to", ariaLabel: "go to page" });
  jump.addEventListener("change", () => turn(jump.value - 1));
  pager.replaceChildren(back, element("span", "muted", `page ${page + 1} of ${jump.max}: ${first}–${last} of ${shown}`), jump, on);
}

function open(row) {
  if (!found.includes(row)) {
    toolbar.reset();
    found = rows;
  }
  turn(Math.floor(found.indexOf(row) / PAGE));
  const episode = list.querySelector(`[data-index="${row.index}"]`);
  episode.open = true;
  episode.querySelector("summary").focus({ preventScroll: true });
  episode.scrollIntoView({ block: "start" });
}

function step(by) {
  const shown = [...list.children];
  const here = shown.findIndex((episode) => episode.contains(document.activeElement));
  let next = here < 0 ? 0 : here + by;
  if (next >= shown.length && (page + 1) * PAGE < found.length) [next] = [0, turn(page + 1)];
  if (next < 0 && page > 0) [next] = [PAGE - 1, turn(page - 1)];
  focusSummary(list.children[next], "nearest");
}

const keys = {
  j: () => step(1),
  k: () => step(-1),
  o: () => document.activeElement.closest?.("details.episode")?.querySelector("summary").click(),
  n: () => turn(page + 1),
  p: () => turn(page - 1),
  N: () => turn(Infinity),
  P: () => turn(0),
  "/": () => search.focus(),
  f: () => toolbar.querySelector("[name=show]").focus(),
  Escape: () => {
    const episode = document.activeElement.closest?.("details.episode");
    episode?.removeAttribute("open");
    episode?.querySelector("summary").focus();
  },
};

onKeys(keys, () => step(0));
onFilters(toolbar, apply, () => [...list.children]);
window.addEventListener("hashchange", () => linked() && open(linked()));

turn(0);
if (linked()) {
  open(linked());
} else {
  // The first one that shows what an operation looks like.
  const telling = found.slice(0, PAGE).find((row) => row.tags.has("pictured") && row.tags.has("used"));
  const address = location.pathname + location.search;
  if (telling) list.querySelector(`[data-index="${telling.index}"]`).open = true;
  history.replaceState(null, "", address + location.hash);
}
document.documentElement.dataset.ready = "";
