"use strict";
// Keys, filters that apply at once, and fresh numbers while a run goes on. Every page works without it.
const rows = () => [...document.querySelectorAll("a.row")];

function press(key) {
  const link = document.querySelector(`[data-key="${CSS.escape(key)}"], [data-key2="${CSS.escape(key)}"]`);
  link?.click();
  return link !== null;
}

function step(by) {
  const shown = rows();
  const here = shown.indexOf(document.activeElement);
  const next = here < 0 ? 0 : here + by;
  if (next >= shown.length) return press("n");
  if (next < 0) return press("p");
  shown[next].focus({ preventScroll: true });
  shown[next].scrollIntoView({ block: "nearest" });
  return true;
}

const keys = {
  j: () => press("j") || step(1),
  k: () => press("k") || step(-1),
  o: () => document.activeElement.matches("a") && document.activeElement.click(),
  "/": () => document.querySelector("input[type=search]")?.focus(),
  f: () => document.querySelector(".toolbar input[type=checkbox]")?.focus(),
  x: () => document.activeElement.closest("tr")?.querySelector("[form=compare]")?.click(),
};
for (const key of ["n", "p", "N", "P", "g", "u", "c", "Escape"]) keys[key] = () => press(key);
onKeys(keys);

// On every change, except while somebody types.
document.addEventListener("change", (event) => {
  if (event.target.matches(".toolbar input[type=checkbox], .toolbar select, .pager input")) event.target.form.requestSubmit();
  if (event.target.matches("[form=compare]")) choose();
});
// Fields that are empty make the address longer for nothing.
document.addEventListener("submit", (event) => {
  for (const field of event.target.elements) if (field.name && !field.value) field.disabled = true;
});

// While a run goes on: the page is asked for again, and what it shows replaced, unless somebody is in the middle of it.
async function refresh() {
  const main = document.querySelector("main");
  const version = main.dataset.live;
  const answer = await fetch(location.href, { headers: version ? { "If-None-Match": version } : {} });
  if (answer.status !== 200) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
  if (!fresh || main.contains(document.activeElement) || main.querySelector("details[open], [form=compare]:checked") || document.querySelector("dialog[open]")) return;
  main.replaceChildren(...fresh.childNodes);
  if (fresh.hasAttribute("data-live")) main.dataset.live = fresh.dataset.live;
  else delete main.dataset.live;
}

// Two runs make a comparison.
function choose() {
  const button = document.querySelector("button[form=compare]");
  if (button) button.disabled = document.querySelectorAll("[form=compare]:checked").length < 2;
}

// Whoever comes back finds the row that was left, and the table of runs as it was sorted and searched.
document.addEventListener("click", (event) => {
  const row = event.target.closest("a.row[id]");
  if (row) history.replaceState(null, "", `#${encodeURIComponent(row.id)}`);
  if (row && location.pathname === "/") sessionStorage.setItem("runs", location.search + location.hash);
});
if (location.hash) {
  document.getElementById(decodeURIComponent(location.hash.slice(1)))?.focus();
  history.replaceState(null, "", location.pathname + location.search);
}
const table = document.querySelector(".crumbs a[href='/']");
if (table) table.href += sessionStorage.getItem("runs") ?? "";

const REFRESH_MS = 2500;
setInterval(() => {
  if (!document.hidden && document.querySelector("main[data-live]")) refresh().catch(() => {});
}, REFRESH_MS);
choose();
document.documentElement.classList.add("scripted");
document.documentElement.dataset.ready = "";
