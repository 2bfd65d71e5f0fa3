// The dialogs of actions, and the line that says what failed.

import { call } from "./api.js";

export function notice(text) {
  const place = document.getElementById("notice");
  place.hidden = false;
  place.querySelector("p").textContent = text;
  place.querySelector("button").onclick = clearNotice;
}

export function clearNotice() {
  document.getElementById("notice").hidden = true;
}

// Asks what becomes of the requests that a model is answering: "wait", "force" or "cancel".
export function askUnload(model, requests) {
  const dialog = document.getElementById("unload-dialog");
  const isOne = requests === 1;
  dialog.querySelector("h2").textContent = `Unload ${model}?`;
  dialog.querySelector("p").textContent = `It is answering ${isOne ? "a request" : `${requests} requests`}.`;
  dialog.querySelector("[value=wait]").textContent = `Unload when ${isOne ? "it is" : "they are"} done`;
  dialog.querySelector("[value=force]").textContent = `End ${isOne ? "it" : "them"} now`;
  return answerOf(dialog);
}

function answerOf(dialog) {
  dialog.returnValue = "cancel"; // of Escape
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true });
  });
}

// Whether the model's files shall be deleted.
export function askDelete(model) {
  const dialog = document.getElementById("delete-dialog");
  dialog.querySelector("h2").textContent = `Delete ${model}?`;
  return answerOf(dialog).then((answer) => answer === "delete");
}

// The last decisions about a model, newest first.
export async function showWhy(model) {
  const response = await call(`decisions?model=${encodeURIComponent(model)}`);
  const { decisions } = await response.json();
  const dialog = document.getElementById("why-dialog");
  dialog.querySelector("h2").textContent = `Decisions about ${model}`;
  dialog.querySelector("ol").replaceChildren(...(decisions.length ? decisions.map(entry) : [nothing()]));
  dialog.showModal();
}

function entry({ at, text, reason, considered }) {
  const item = document.createElement("li"), time = document.createElement("time");
  const when = new Date(1000 * at);
  time.dateTime = when.toISOString();
  time.textContent = when.toLocaleTimeString();
  time.title = when.toLocaleString();
  item.append(time, text ?? reason);
  if (considered?.length) item.append(steps(considered));
  return item;
}

function steps(considered) {
  const details = document.createElement("details"), summary = document.createElement("summary");
  summary.textContent = "What was considered";
  const list = document.createElement("ul");
  list.append(...considered.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  details.append(summary, list);
  return details;
}

function nothing() {
  return Object.assign(document.createElement("li"), { textContent: "None since the service started." });
}
