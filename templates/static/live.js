// Keeps `status` up to date: by server-sent events; where they are refused or break off, by polling.

import { publish } from "./store.js";

const POLL_SECONDS = 5;
const LONGEST_POLL_SECONDS = 30; // while nothing answers
const REFUSED_SECONDS = 60; // for so long the stream is not asked for again
const SILENCE_SECONDS = 20; // a stream says something every 5 s; a proxy may have dropped the connection

let stream = null;
let timer = 0; // of the next poll, or of the look at a silent stream
let failures = 0; // polls in a row without an answer
let lastHeard = 0;
let streamDueAt = 0;

export function startLive() {
  publish("connection", "connecting");
  document.addEventListener("visibilitychange", () => (document.hidden ? pause() : resume()));
  window.addEventListener("online", resume);
  window.addEventListener("pagehide", pause);
  window.addEventListener("pageshow", (event) => event.persisted && resume());
  if (!document.hidden) resume();
}

/** Reads the status now, whatever is due: after an action, its effect should show at once. */
export function refresh() {
  if (!stream) poll();
}

function resume() {
  pause();
  openStream();
}

/** A page that nobody sees asks for nothing. */
function pause() {
  closeStream();
  clearTimeout(timer);
}

function openStream() {
  let hasSpoken = false;
  const lost = () => {
    closeStream();
    streamDueAt = now() + (hasSpoken ? 0 : REFUSED_SECONDS);
    poll();
  };
  const watch = () => {
    if (now() - lastHeard >= SILENCE_SECONDS) lost();
    else timer = setTimeout(watch, SILENCE_SECONDS * 1000);
  };
  lastHeard = now();
  stream = new EventSource("status/stream");
  stream.onmessage = (event) => {
    hasSpoken = true;
    heard(JSON.parse(event.data), "live");
  };
  stream.onerror = lost;
  clearTimeout(timer);
  timer = setTimeout(watch, SILENCE_SECONDS * 1000);
}

function closeStream() {
  stream?.close();
  stream = null;
}

async function poll() {
  clearTimeout(timer);
  try {
    const response = await fetch("status", { cache: "no-store", signal: AbortSignal.timeout(10_000) });
    if (!response.ok) throw new Error(response.status === 401 ? "unauthorized" : "disconnected");
    heard(await response.json(), "polling");
  } catch (error) {
    failures += 1;
    streamDueAt = 0; // it may have been refused by what is gone now
    publish("connection", error.message === "unauthorized" ? "unauthorized" : "disconnected");
  }
  if (!document.hidden && !stream) schedule();
}

function schedule() {
  clearTimeout(timer);
  const seconds = Math.min(POLL_SECONDS * 2 ** Math.max(0, failures - 3), LONGEST_POLL_SECONDS);
  const isStreamDue = !failures && now() + seconds >= streamDueAt;
  timer = setTimeout(isStreamDue ? openStream : poll, isStreamDue ? 1000 : seconds * 1000);
}

function heard(status, connection) {
  failures = 0;
  lastHeard = now();
  publish("status", status);
  publish("connection", connection);
}

function now() {
  return performance.now() / 1000;
}
