// Keeps `plan` and `history` up to date while the page is seen and the service answers.

import { current, publish, subscribe } from "./store.js";

const PLAN_SECONDS = 15;
const CHANGE_SECONDS = 0.3; // after a change of the servers; and again, since plans are renewed in the background
const RENEWAL_SECONDS = 3;
const HISTORY_SECONDS = 10;

export function startBackground() {
  let timer = 0, known = "";
  const readPlan = async (nextSeconds) => {
    clearTimeout(timer);
    await read("plan", "plan");
    timer = setTimeout(readPlan, nextSeconds * 1000, PLAN_SECONDS);
  };
  subscribe("status", (status) => {
    const changed = JSON.stringify(status.servers.map(({ id, state, pinned }) => [id, state, pinned]));
    if (changed === known) return;
    known = changed;
    clearTimeout(timer);
    timer = setTimeout(readPlan, CHANGE_SECONDS * 1000, RENEWAL_SECONDS);
  });
  readPlan(PLAN_SECONDS);
  read("history", "status/history");
  setInterval(() => read("history", "status/history"), HISTORY_SECONDS * 1000);
  document.addEventListener("visibilitychange", () => read("history", "status/history"));
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
