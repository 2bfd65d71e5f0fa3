// Buttons on models: load, unload, pin, unpin, log, why. Only admins get those, and the service checks it again.

import { call } from "./api.js";
import { askUnload, clearNotice, notice, showWhy } from "./dialogs.js";
import { refresh } from "./live.js";
import { openLog } from "./logs.js";
import { current, subscribe } from "./store.js";

const LABELS = { load: "Load", unload: "Unload", pin: "Pin", unpin: "Unpin", log: "Log", why: "Why" };
const pending = new Set(); // "action model" of POSTs without an answer yet

// Fills each [data-actions] with the buttons of the model in its data-model.
export function startActions() {
  subscribe("plan", showAll);
  subscribe("status", showAll);
  document.addEventListener("click", ({ target }) => {
    const button = target.closest("button[data-action]");
    if (button && button.getAttribute("aria-disabled") !== "true") run(button, DO[button.dataset.action]);
  });
}

function showAll() {
  const models = new Map(current("plan")?.models.map((model) => [model.id, model]));
  for (const cell of document.querySelectorAll("[data-actions]")) {
    showActions(cell, models.get(cell.dataset.model), current("status")?.admin);
  }
}

/** The actions for a model, in order. `state` is that of GET /plan: ready, loading, draining, unloaded or failed. */
export function actionsFor({ state, problem, pinned }) {
  const isRunning = ["ready", "loading", "draining"].includes(state);
  if (problem && !isRunning) return ["load", "log", "why"]; // once its cause is mended
  const move = isRunning ? "unload" : "load";
  return [move, pinned ? "unpin" : "pin", "log", "why"];
}

// Makes the buttons of `cell` those of the model. One that stays is kept, so that it keeps the focus.
function showActions(cell, model, isAdmin) {
  const wanted = isAdmin && model ? actionsFor(model) : [];
  const present = new Map([...cell.children].map((button) => [button.dataset.action, button]));
  const hadFocus = cell.contains(document.activeElement);
  const buttons = wanted.map((action) => present.get(action) ?? actionButton(action, model.id));
  if (buttons.some((button, at) => cell.children[at] !== button) || cell.children.length > buttons.length) {
    cell.replaceChildren(...buttons);
    if (hadFocus && !cell.contains(document.activeElement)) buttons[0]?.focus();
  }
  for (const button of buttons) setPending(button);
}

function actionButton(action, model) {
  const button = document.createElement("button");
  Object.assign(button, { type: "button", textContent: LABELS[action] });
  Object.assign(button.dataset, { action, model });
  button.setAttribute("aria-label", `${LABELS[action]} ${model}`);
  if (action === "load") button.classList.add("primary");
  return button;
}

// aria-disabled instead of disabled: a disabled button loses the focus.
function setPending(button) {
  const isPending = pending.has(keyOf(button.dataset));
  button.setAttribute("aria-disabled", String(isPending));
  button.classList.toggle("pending", isPending);
}

function keyOf({ action, model }) {
  return `${action} ${model}`;
}

const DO = {
  load: (model) => call("models/load", { body: { model } }),
  unload,
  pin: (model) => call("models/pin", { body: { model } }),
  unpin: (model) => call("models/unpin", { body: { model } }),
  why: showWhy,
  log: openLog,
};

async function unload(model) {
  const servers = current("status").servers.filter((server) => server.model === model);
  const requests = servers.reduce((sum, server) => sum + server.requests, 0);
  const choice = requests ? await askUnload(model, requests) : "wait";
  if (choice === "wait") await call("models/unload", { body: { model } });
  if (choice === "force") await call("models/unload", { body: { model, force: true } });
}

async function run(button, action) {
  const { model } = button.dataset, key = keyOf(button.dataset);
  pending.add(key);
  setPending(button);
  clearNotice();
  try {
    await action(model);
    refresh();
  } catch (problem) {
    notice(`${button.textContent} ${model}: ${problem.message}`);
  } finally {
    pending.delete(key);
    setPending(button);
  }
}
