// Keeps `status` up to date: by server-sent events; where they are refused or break off, by polling.

import { publish } from "./store.js";

const POLL_SECONDS = 5;
const LONGEST_POLL_SECONDS = 30; // while nothing answers
const REFUSED_SECONDS = 60; // until a stream that was refused is tried again
const SILENCE_SECONDS = 20; // a stream sends an event every 5 s; a proxy may have dropped the connection

let stream = null;
let timer = 0; // of the next poll, or of the look at a silent stream
let failures = 0; // polls in a row without an answer
let lastReceived = 0;
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

/** A hidden page makes no requests. */
function pause() {
  closeStream();
  clearTimeout(timer);
}

function openStream() {
  let hasReceived = false;
  const lost = () => {
    closeStream();
    streamDueAt = now() + (hasReceived ? 0 : REFUSED_SECONDS);
    poll();
  };
  const watch = () => {
    if (now() - lastReceived >= SILENCE_SECONDS) lost();
    else timer = setTimeout(watch, SILENCE_SECONDS * 1000);
  };
  lastReceived = now();
  stream = new EventSource("status/stream");
  stream.onmessage = (event) => {
    hasReceived = true;
    received(JSON.parse(event.data), "live");
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
    received(await response.json(), "polling");
  } catch (error) {
    failures += 1;
    streamDueAt = 0; // what refused it may have been restarted
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

function received(status, connection) {
  failures = 0;
  lastReceived = now();
  publish("status", status);
  publish("connection", connection);
}

function now() {
  return performance.now() / 1000;
}
