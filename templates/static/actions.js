// Buttons on models: load, unload, pin, unpin, log, why, delete; on downloads: pull, cancel. Who sees
// which is checked again by the service.

import { call } from "./api.js";
import { refreshPlan } from "./background.js";
import { askDelete, askUnload, clearNotice, notice, showWhy } from "./dialogs.js";
import { refresh } from "./live.js";
import { openLog } from "./logs.js";
import { current, subscribe } from "./store.js";

const LABELS = {
  ...{ load: "Load", unload: "Unload", pin: "Pin", unpin: "Unpin", log: "Log", why: "Why", delete: "Delete" },
  ...{ pull: "Download", cancel: "Cancel" },
};
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
export function actionsFor({ state, problem, pinned, source }) {
  const isRunning = ["ready", "loading", "draining"].includes(state);
  const last = source === "hugging_face" ? ["log", "why", "delete"] : ["log", "why"]; // other folders are only read
  if (problem && !isRunning) return ["load", ...last]; // once its cause is mended
  return [isRunning ? "unload" : "load", pinned ? "unpin" : "pin", ...last];
}

// Makes the buttons of `cell` those of the model. One that stays is kept, so that it keeps the focus.
function showActions(cell, model, isAdmin) {
  keepButtons(cell, isAdmin && model ? actionsFor(model) : [], model?.id);
}

// The same for these actions on a model.
export function keepButtons(cell, wanted, model) {
  const present = new Map([...cell.children].map((button) => [button.dataset.action, button]));
  const hadFocus = cell.contains(document.activeElement);
  const buttons = wanted.map((action) => present.get(action) ?? actionButton(action, model));
  if (buttons.some((button, at) => cell.children[at] !== button) || cell.children.length > buttons.length) {
    cell.replaceChildren(...buttons);
    if (hadFocus && !cell.contains(document.activeElement)) buttons[0]?.focus();
  }
  for (const button of buttons) setPending(button);
}

export function actionButton(action, model) {
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
  pull: (model) => call("models/pull", { body: { model } }),
  cancel: (model) => call("models/unload", { body: { model } }), // as llama.cpp's router has it
  delete: deleteModel,
};

async function unload(model) {
  const servers = current("status").servers.filter((server) => server.model === model);
  const requests = servers.reduce((sum, server) => sum + server.requests, 0);
  const choice = requests ? await askUnload(model, requests) : "wait";
  if (choice === "wait") await call("models/unload", { body: { model } });
  if (choice === "force") await call("models/unload", { body: { model, force: true } });
}

async function deleteModel(model) {
  if (!(await askDelete(model))) return;
  await call(`models?model=${encodeURIComponent(model)}`, { method: "DELETE" });
  refreshPlan();
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
