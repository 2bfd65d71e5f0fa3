// Keeps `status` up to date: by server-sent events; where they are refused or break off, by polling.

import { publish } from "./store.js";

const POLL_SECONDS = 5;
const LONGEST_POLL_SECONDS = 30; // while nothing answers
const STREAM_RETRY_SECONDS = 60; // how long to poll before asking for the stream again
const SILENCE_SECONDS = 40; // a stream says something at least every 15 s; a proxy may have dropped the connection

let stream = null;
let timer = 0;
let failures = 0;
let lastHeard = 0;
let streamRefusedAt = -Infinity;

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
  lastHeard = now();
  stream = new EventSource("status/stream");
  stream.onopen = () => (lastHeard = now());
  stream.onmessage = (event) => heard(JSON.parse(event.data), "live");
  stream.addEventListener("ping", () => (lastHeard = now()));
  stream.addEventListener("full", pollInstead);
  stream.onerror = pollInstead;
  clearTimeout(timer);
  timer = setTimeout(watch, SILENCE_SECONDS * 1000);
}

function watch() {
  if (now() - lastHeard >= SILENCE_SECONDS) pollInstead();
  else timer = setTimeout(watch, SILENCE_SECONDS * 1000);
}

function pollInstead() {
  closeStream();
  streamRefusedAt = now();
  poll();
}

function closeStream() {
  stream?.close();
  stream = null;
}

async function poll() {
  clearTimeout(timer);
  try {
    const response = await fetch("status", { cache: "no-store", signal: AbortSignal.timeout(10_000) });
    if (!response.ok) throw new Error(`GET /status: ${response.status}`);
    heard(await response.json(), "polling");
  } catch {
    failures += 1;
    publish("connection", "disconnected");
  }
  if (!document.hidden && !stream) schedule();
}

function schedule() {
  clearTimeout(timer);
  const isBack = failures === 0 && wasDisconnected;
  const tryStream = isBack || now() - streamRefusedAt >= STREAM_RETRY_SECONDS;
  wasDisconnected = failures > 0;
  const seconds = Math.min(POLL_SECONDS * 2 ** Math.max(0, failures - 3), LONGEST_POLL_SECONDS);
  timer = setTimeout(tryStream ? openStream : poll, tryStream ? 0 : seconds * 1000);
}

let wasDisconnected = false;

function heard(status, connection) {
  failures = 0;
  lastHeard = now();
  publish("connection", connection);
  publish("status", status);
}

function now() {
  return performance.now() / 1000;
}
