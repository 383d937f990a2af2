// The page: asks the server for the state of the session, and shows it. Foreign text is set as text, never as markup.

import { OperationForm, element } from "./form.js";
import { Stage } from "./stage.js";

const $ = (id) => document.getElementById(id);
const KEY = `pxr-play:${location.pathname}`;
const ROLES = { system: "system prompt", user: "environment", assistant: "you" };

let state = null;
let looked = 1;
let busy = false;

const size = () => state.views[looked - 1]?.size ?? [1, 1];
const stage = new Stage({
  draw: (numbers) => form.draw(numbers, size()),
  nudge: (dx, dy, resize) => form.nudge(dx, dy, resize, size()),
  erase: () => form.erase(size()),
});
const form = new OperationForm($("fields"), {
  changed: refresh,
  lookAt: (number) => {
    looked = number;
  },
});

// The server

async function ask(path, body) {
  const request = body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(`api/${path}`, request);
  } catch {
    throw new Error("The server does not answer. Is the command still running?");
  }
  const value = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(value.error), { status: answer.status });
  return value;
}

/** Sends something and shows what came of it, or what is wrong. Returns whether it went well. */
async function send(path, body) {
  if (busy) return false;
  setBusy(true);
  try {
    accept(await ask(path, body));
    complain(null);
    return true;
  } catch (error) {
    complain(error.message);
    return false;
  } finally {
    setBusy(false);
  }
}

async function open() {
  const kept = sessionStorage.getItem(KEY);
  if (kept) {
    try {
      accept(await ask(`sessions/${encodeURIComponent(kept)}`));
      return;
    } catch (error) {
      // A session that the server has closed is replaced by a new one.
      if (error.status !== 404) return complain(error.message);
    }
  }
  await send("sessions", {});
}

const here = (what) => `sessions/${encodeURIComponent(state.session)}/${what}`;
// The episode in the address keeps the browser from showing the images of another one.
const imageUrl = (name) => `api/${here("images")}/${name}.png?episode=${state.episode}`;

function setBusy(value) {
  busy = value;
  document.body.setAttribute("aria-busy", String(value));
  for (const button of document.querySelectorAll("button:not([type='button'])")) button.disabled = value;
  $("next").disabled = value;
}

function complain(message) {
  $("alert").hidden = message === null;
  $("alert").textContent = message ?? "";
}

// What is shown

/** Shows a new state. */
function accept(next) {
  const isNew = state?.episode !== next.episode || state?.session !== next.session;
  const nBefore = isNew ? 0 : state.views.length;
  state = { views: [], usage: {}, ...next };
  sessionStorage.setItem(KEY, state.session);
  document.title = `${state.task} · pxr play`;
  const nViews = state.views.length;
  if (isNew) {
    looked = 1;
    for (const id of ["answer-text", "raw-text"]) $(id).value = "";
    $("chooser").open = false;
  } else if (nViews > nBefore) {
    looked = nBefore + 1;
  }
  showBar();
  $("turn").hidden = state.is_over;
  // What was filled in for a call that was refused stays, to be mended.
  if (isNew || nViews > nBefore) showOperations(isNew);
  showGallery();
  showTranscript();
  showReply();
  showOutcome(isNew);
  refresh();
}

function showBar() {
  const nTurns = state.messages.filter((message) => message.role === "assistant").length;
  const nOperations = Object.values(state.usage).reduce((sum, n) => sum + n, 0);
  $("task").textContent = state.task;
  $("sample").textContent = state.sample_id ?? "";
  $("turns").textContent = `${nTurns} / ${state.max_turns}`;
  $("operations-used").textContent = `${nOperations} / ${state.max_operations}`;
  $("question").textContent = state.question;
}

function showOperations(isNew) {
  $("call").hidden = state.operations.length === 0;
  if (state.operations.length === 0) return;
  const chosen = (isNew ? null : form.operation?.name) ?? state.operations[0].name;
  const tabs = state.operations.map((operation) => {
    const radio = element("input", { type: "radio", name: "operation", value: operation.name, checked: operation.name === chosen });
    radio.addEventListener("change", () => showForm(operation));
    const name = element("span");
    name.textContent = operation.name;
    return element("label", {}, radio, name);
  });
  // Rebuilding them would take the focus away.
  if ($("tabs").childElementCount !== tabs.length || isNew) $("tabs").replaceChildren(...tabs);
  showForm(state.operations.find((operation) => operation.name === chosen));
}

function showForm(operation) {
  $("description").textContent = operation.description;
  const drawn = operation.fields.some((field) => field.numbers > 0);
  if (drawn) $("description").textContent += ` ${state.frame_description}`;
  $("call-name").textContent = operation.name;
  form.show(operation, state.frame, state.views.length, looked);
}

function showGallery() {
  const thumbs = state.views.map((view) => {
    const picture = element("img", { src: imageUrl(view.index), alt: "", loading: "lazy" });
    const number = element("span");
    number.textContent = view.time === undefined ? String(view.index) : `${view.index} · ${view.time.toFixed(2)} s`;
    const button = element("button", { type: "button", class: "thumb", "data-number": view.index }, picture, number);
    button.setAttribute("aria-label", describe(view));
    button.addEventListener("click", () => {
      form.toggle(view.index);
      lookAt(view.index);
    });
    return element("li", {}, button);
  });
  $("gallery").replaceChildren(...thumbs);
}

/** Looks at an image, and fills it into the form. */
function lookAt(number) {
  looked = number;
  if (form.operation) form.pick(number);
  refresh();
}

/** Shows what the inputs say: the image, the shapes on it, the chosen images. */
function refresh() {
  const view = state?.views[looked - 1];
  $("viewport").hidden = view === undefined;
  if (view === undefined) return;
  stage.show(imageUrl(view.index), view.size, describe(view));
  const active = form.operation !== null && !state.is_over;
  stage.setKind(active ? form.kind : null);
  stage.setShapes(active ? form.shapes(view.size) : []);
  $("caption").textContent = describe(view);
  for (const thumb of $("gallery").querySelectorAll(".thumb")) {
    const number = Number(thumb.dataset.number);
    thumb.setAttribute("aria-current", String(number === looked));
    if (active && form.chosen) thumb.setAttribute("aria-pressed", String(form.chosen.includes(number)));
    else thumb.removeAttribute("aria-pressed");
  }
}

function describe(view) {
  const box = view.box.map((edge) => Number(edge.toFixed(1)));
  const time = view.time === undefined ? "" : `, frame ${view.frame + 1} at ${view.time.toFixed(2)} s`;
  const from = view.panels ? "two images side by side" : `source ${view.source}${time}, box ${box.join(", ")}`;
  return `Image ${view.index}: ${view.size[0]}×${view.size[1]} from ${from}`;
}

function showTranscript() {
  const messages = state.messages.map((message) => {
    const text = element("pre");
    text.textContent = message.text;
    const role = element(message.role === "system" ? "summary" : "p", { class: "role" });
    role.textContent = ROLES[message.role];
    const chips = element("div", { class: "chips" });
    for (const number of message.images) {
      const chip = element("button", { type: "button" });
      chip.textContent = `image ${number}`;
      chip.addEventListener("click", () => lookAt(number));
      chips.append(chip);
    }
    const parts = [role, message.images.length ? chips : null, message.text ? text : null];
    const body = message.role === "system" ? [element("details", {}, ...parts)] : parts;
    return element("li", { class: `message ${message.role}` }, ...body);
  });
  $("transcript").replaceChildren(...messages);
}

/** The answer to the last turn, beside the forms: an error would be missed at the end of the conversation. */
function showReply() {
  const last = state.messages.at(-1);
  const isReply = state.messages.length > 2 && last.role === "user";
  $("reply").textContent = isReply ? last.text : "";
}

function showOutcome(isNew) {
  const outcome = state.outcome;
  $("outcome").hidden = outcome === null;
  if (outcome === null) return;
  const title = element("h2");
  title.textContent = outcome.correct ? "Correct" : outcome.truncated_by ? `Cut off by ${outcome.truncated_by}` : "Not correct";
  const terms = Object.entries(outcome.reward_terms).map(([name, value]) => `${name} ${short(value)}`);
  const facts = [
    ["your answer", outcome.answer ?? "none"],
    ["target", outcome.target],
    ["reward", `${short(outcome.reward)} = ${terms.join(" + ")}`],
    ["refused", Object.entries(state.failures).map(([name, n]) => `${name} ${n}`).join(", ")],
    ["needs an operation", { true: "yes", false: "no" }[outcome.needs_operation]],
    ["evidence box", outcome.evidence_box?.map((edge) => short(edge)).join(", ")],
    ["evidence time", outcome.evidence_time && `${outcome.evidence_time.map(short).join(" to ")} s`],
    ["category", outcome.category],
  ];
  const list = element("dl");
  for (const [name, value] of facts) {
    if (value === undefined || value === null || value === "") continue;
    const [term, detail] = [element("dt"), element("dd")];
    [term.textContent, detail.textContent] = [name, String(value)];
    list.append(term, detail);
  }
  const summary = element("summary");
  summary.textContent = "The sources, with the boxes of all images";
  const picture = element("img", { src: imageUrl("overview"), alt: "The sources with a numbered box for each image", loading: "lazy" });
  $("outcome").className = `card outcome ${outcome.correct ? "correct" : ""}`;
  $("outcome").replaceChildren(title, list, element("details", {}, summary, picture));
  if (!isNew) $("outcome").focus();
}

function short(number) {
  return String(Number(number.toFixed(4)));
}

// What is done

function onSubmit(id, act) {
  $(id).addEventListener("submit", (event) => {
    event.preventDefault();
    act();
  });
}

onSubmit("call", () => send(here("call"), { operation: form.operation.name, arguments: form.texts() }));
onSubmit("answer", () => send(here("answer"), { text: $("answer-text").value }));
onSubmit("raw", () => send(here("raw"), { text: $("raw-text").value }));
onSubmit("by-sample", () => send(here("start"), { sample_id: $("sample-id").value.trim() }));
onSubmit("by-seed", () => send(here("start"), { seed: Number($("seed").value) }));
$("next").addEventListener("click", () => send(here("start"), {}));
$("again").addEventListener("click", () => send(here("start"), { sample_id: state.sample_id }));
$("actual-size").addEventListener("change", (event) => $("canvas").classList.toggle("actual", event.target.checked));
$("chooser").addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  $("chooser").open = false;
  $("chooser").querySelector("summary").focus();
});

open();
