// The first line, the queue, the last hour, the decisions and the requests. The same as app/page/activity.py.

import { copies, fill, part, patchList, setAttribute, setHidden } from "./dom.js";
import { count, duration, grouped, moment, rate, shortDuration, UNKNOWN } from "./format.js";
import { subscribe } from "./store.js";

const LONG_WAIT_SECONDS = 10;
const DAY_SECONDS = 86400;
const DECISION_STYLES = { wait: "warn", refuse: "bad", stop: "bad" };

export function startActivity() {
  const byId = (id) => document.getElementById(id), reasons = byId("reasons"), decisions = byId("decisions");
  const makeReason = () => document.createElement("li");
  const lists = [
    ["queue", "queue-empty", queueView, copies("waiting-template"), fill],
    ["decision-list", "decisions-empty", decisionsView, copies("decision-template"), fillTimed],
    ["request-rows", "requests-empty", requestsView, copies("request-template"), fillTimed],
  ];
  subscribe("status", (status) => {
    fill(byId("header"), headerView(status));
    document.title = titleOf(status);
    patchList(reasons, status.reasons.map((key) => ({ key })), makeReason, (element, { key }) => (element.textContent = key));
    setHidden(reasons, !status.reasons.length);
    setHidden(decisions, !status.admin);
    fill(byId("hour"), hourView(status));
    for (const [list, empty, view, make, update] of lists) {
      const items = view(status);
      patchList(byId(list), items, make, update);
      setHidden(byId(empty), items.length > 0);
    }
  });
}

function fillTimed(element, view) {
  fill(element, view);
  setAttribute(part(element, "time"), "datetime", view.iso);
}

export function headerView(status) {
  let [state, style] = status.degraded ? ["degraded", "bad"] : ["healthy", "ok"];
  if (status.status === "draining") [state, style] = ["draining", "warn"];
  return { state, state_class: style, facts: factsOf(status) };
}

function titleOf({ waiting, degraded }) {
  return [waiting && `${waiting} waiting`, degraded && "degraded", "Llama Smart Proxy"].filter(Boolean).join(" · ");
}

function factsOf(status) {
  const speed = status.servers.reduce((sum, server) => sum + (server.tokens_per_second ?? 0), 0);
  return [
    `version ${status.version}`,
    status.engine ? `${status.engine.kind} ${status.engine.version}` : "no engine",
    status.driver_version && `driver ${status.driver_version}`,
    `up ${uptime(status.uptime_seconds)}`,
    speed && `${rate(speed)} tokens/s`,
    status.waiting && `${status.waiting} waiting`,
  ].filter(Boolean).join(" · ");
}

/** 3 d 4 h */
function uptime(seconds) {
  if (seconds < 2 * DAY_SECONDS) return duration(seconds);
  return `${Math.floor(seconds / DAY_SECONDS)} d ${Math.floor((seconds % DAY_SECONDS) / 3600)} h`;
}

export function queueView(status) {
  const progress = new Map(status.servers.filter((each) => each.progress !== null).map((each) => [each.model, each.progress]));
  return status.queue.map((each) => ({
    key: `${each.model} ${each.cause}`,
    model: each.model,
    requests: each.requests > 1 ? `x ${each.requests}` : "",
    waited: duration(each.waited_seconds),
    waited_class: each.waited_seconds >= LONG_WAIT_SECONDS ? "warn" : "",
    reason: each.reason,
    progress: progress.get(each.model)?.toFixed(3) ?? "",
  }));
}

export function hourView({ last_hour: hour }) {
  return {
    requests: count(hour.requests),
    prompt_tokens: count(hour.prompt_tokens),
    completion_tokens: count(hour.completion_tokens),
    waits: [hour.wait_median_seconds, hour.wait_p95_seconds].map(shortDuration).join(" / "),
    loads: `${hour.loads} / ${hour.evictions}`,
  };
}

export function decisionsView(status) {
  return status.decisions.map((each) => ({
    key: `${each.at} ${each.model}`,
    ...moment(each.at),
    text: each.text,
    text_class: DECISION_STYLES[each.outcome] ?? "",
  }));
}

export function requestsView(status) {
  return status.requests.map((each) => ({
    key: `${each.at} ${each.model ?? ""} ${each.seconds}`,
    ...moment(each.at),
    model: each.model ?? "unknown",
    path: each.path,
    user: each.key ?? "",
    status: each.status === 499 ? "499 closed" : String(each.status),
    status_class: each.status >= 500 ? "bad" : each.status >= 400 ? "warn" : "",
    wait: shortDuration(each.wait_seconds),
    first_byte: shortDuration(each.first_byte_seconds),
    seconds: shortDuration(each.seconds),
    tokens: [each.prompt_tokens, each.completion_tokens].map((n) => (n === null ? UNKNOWN : grouped(n))).join(" → "),
    speed: rate(each.tokens_per_second),
  }));
}
