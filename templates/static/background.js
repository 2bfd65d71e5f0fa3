// Keeps `plan` and `history` up to date while the page is seen and the service answers.

import { current, publish, subscribe } from "./store.js";

const PLAN_SECONDS = 15;
const CHANGE_SECONDS = 0.3; // after a change of the servers; and again, since plans are renewed in the background
const RENEWAL_SECONDS = 3;
const HISTORY_SECONDS = 10;

let planTimer = 0;

export function startBackground() {
  let known = "";
  subscribe("status", (status) => {
    const servers = status.servers.map(({ id, state, pinned }) => [id, state, pinned]);
    const changed = JSON.stringify([servers, status.downloads.map(({ model, state }) => [model, state])]);
    if (changed === known) return;
    known = changed;
    refreshPlan();
  });
  readPlan(PLAN_SECONDS);
  read("history", "status/history");
  setInterval(() => read("history", "status/history"), HISTORY_SECONDS * 1000);
  document.addEventListener("visibilitychange", () => read("history", "status/history"));
}

/** After something changed that the plan depends on. */
export function refreshPlan() {
  clearTimeout(planTimer);
  planTimer = setTimeout(readPlan, CHANGE_SECONDS * 1000, RENEWAL_SECONDS);
}

async function readPlan(nextSeconds) {
  clearTimeout(planTimer);
  await read("plan", "plan");
  planTimer = setTimeout(readPlan, nextSeconds * 1000, PLAN_SECONDS);
}

/** What fails is read again in a while; live.js says that the service does not answer. */
async function read(kind, path) {
  if (document.hidden || ["disconnected", "unauthorized"].includes(current("connection"))) return;
  try {
    const response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(10_000) });
    if (response.ok) publish(kind, await response.json());
  } catch {
    // No answer.
  }
}
