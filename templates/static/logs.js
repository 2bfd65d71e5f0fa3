// Follows the log of the service or of one model's servers while it is in view: each open stream takes one of the
// places for viewers.

import { copyText } from "./copy.js";
import { setHidden } from "./dom.js";
import { LogView, MAX_LINES } from "./log_view.js";
import { subscribe } from "./store.js";
import { markSelected, startTabKeys } from "./tabs.js";

const SERVICE = ""; // the tab of the service's own lines, which name any model
const RETRY_SECONDS = 5;

let view = null;
let source = null; // the EventSource
let hasService = false; // whether this key may read them
let chosen = null; // SERVICE, or a model
let timer = 0;
let isInView = false;

export function startLogs() {
  const find = (name) => document.getElementById(`log-${name}`);
  if (!find("lines")) return; // not an admin's page
  view = new LogView(find("lines"));
  hasService = "service" in document.getElementById("logs").dataset;
  if (hasService) chosen = SERVICE;
  find("filter").addEventListener("input", ({ target }) => view.filter(target.value));
  find("pause").addEventListener("click", ({ target }) => {
    const isPaused = target.getAttribute("aria-pressed") !== "true";
    target.setAttribute("aria-pressed", String(isPaused));
    view.pause(isPaused);
  });
  find("copy").addEventListener("click", ({ target }) => copyText({ textContent: view.text }, target));
  startTabKeys(find("tabs"), (tab) => choose(tab.dataset.source));
  subscribe("plan", ({ models }) => showTabs(models.filter(({ state }) => state !== "unloaded").map(({ id }) => id)));
  document.addEventListener("visibilitychange", followIfSeen);
  new IntersectionObserver(([{ isIntersecting }]) => {
    isInView = isIntersecting;
    followIfSeen();
  }).observe(find("lines"));
}

/** Shows the log of a model, also of one that is not loaded. */
export function openLog(model) {
  showTabs([...shownModels(), model]);
  choose(model);
  document.getElementById("logs").scrollIntoView();
  document.getElementById("log-lines").focus({ preventScroll: true });
}

function shownModels() {
  return [...document.getElementById("log-tabs").children].map((tab) => tab.dataset.source).filter(Boolean);
}

function showTabs(models) {
  const list = document.getElementById("log-tabs");
  const names = [...(hasService ? [SERVICE] : []), ...new Set([...models, chosen].filter(Boolean))];
  const present = new Map([...list.children].map((tab) => [tab.dataset.source, tab]));
  for (const [name, tab] of present) if (!names.includes(name)) tab.remove();
  for (const name of names) if (!present.has(name)) list.append(newTab(name));
  if (chosen === null && names.length) choose(names[0]);
  const tab = [...list.children].find((each) => each.dataset.source === chosen);
  if (tab) markSelected(tab);
}

function newTab(name) {
  const tab = Object.assign(document.createElement("button"), { type: "button", textContent: name || "service", title: name });
  tab.dataset.source = name;
  tab.setAttribute("role", "tab");
  tab.setAttribute("aria-controls", "log-lines");
  return tab;
}

function choose(name) {
  if (name === chosen && source) return;
  chosen = name;
  markSelected([...document.getElementById("log-tabs").children].find((tab) => tab.dataset.source === name));
  stop();
  followIfSeen();
}

function followIfSeen() {
  if (isInView && !document.hidden) follow();
  else stop();
}

// Every connection begins with the lines that are kept, so the view begins anew.
function follow() {
  if (source || chosen === null) return;
  clearTimeout(timer);
  view.clear();
  const path = chosen ? `logs/stream/${chosen.split("/").map(encodeURIComponent).join("/")}` : "logs/stream";
  source = new EventSource(`${path}?lines=${MAX_LINES}`);
  source.onopen = () => say("");
  source.onmessage = ({ data }) => view.add([text(JSON.parse(data))]);
  source.addEventListener("skipped", ({ data }) => view.add([`(${JSON.parse(data).lines} lines skipped)`]));
  source.onerror = retry;
}

function stop() {
  source?.close();
  source = null;
  clearTimeout(timer);
}

// EventSource itself gives up at 503, when there are too many readers.
function retry() {
  stop();
  say("Disconnected, retrying");
  timer = setTimeout(followIfSeen, RETRY_SECONDS * 1000);
}

function text({ at, text }) {
  return `${new Date(1000 * at).toLocaleTimeString("en-GB")} ${text}`;
}

function say(problem) {
  const place = document.getElementById("log-status");
  place.textContent = problem;
  setHidden(place, !problem);
}
