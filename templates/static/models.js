// The models: those that are loaded with what their servers do, then the others. The same as app/page/models.py.

import { copies, fill, part, patchList, setAttribute, setHidden } from "./dom.js";
import { duration, rate, size, tokens, UNKNOWN } from "./format.js";
import { colorClasses } from "./gpus.js";
import { current, subscribe } from "./store.js";

const MAX_DOTS = 8;
const FILTER_FROM = 12; // rows
const SHOWN_LOAD_BYTES = 1024 ** 3;
const STATES = { starting: "loading", draining: "finishing" }; // as people say it
const STATE_STYLES = { ready: "ok", starting: "warn", draining: "warn", stopping: "warn", failed: "bad" };
const OUTCOME_STYLES = { place: "ok", wait: "warn", refuse: "bad" };
// Of GET /plan, by which the buttons of a row are chosen.
const PLAN_STATES = { starting: "loading", ready: "ready", draining: "draining" };
const EMPTY = {
  ...{ state_class: "", progress: "", place_class: "", place_note: "", slots: "", dots: [], speed: "", speed_note: "" },
  ...{ context_note: "", idle: "", idle_note: "", problem: "", log: "" },
};

export function startModels() {
  const rows = document.getElementById("model-rows"), empty = document.getElementById("models-empty");
  const filter = document.getElementById("models-filter"), make = copies("model-template");
  const show = () => {
    const status = current("status"), plan = current("plan");
    if (!status || !plan) return;
    const views = modelRows(status, plan);
    patchList(rows, views, make, showRow);
    setHidden(empty, views.length > 0);
    setHidden(filter, views.length < FILTER_FROM && !filter.value);
    applyFilter(rows, filter.value);
  };
  subscribe("status", show);
  subscribe("plan", show);
  filter.addEventListener("input", () => applyFilter(rows, filter.value));
}

function applyFilter(rows, text) {
  const wanted = text.trim().toLowerCase();
  for (const row of rows.children) setHidden(row, !row.querySelector("th").textContent.toLowerCase().includes(wanted));
}

export function modelRows(status, plan) {
  const servers = Map.groupBy?.(status.servers, ({ model }) => model) ?? groupedByModel(status.servers);
  const colors = colorClasses(status), loaded = [], rest = [];
  for (const model of plan.models) {
    const own = servers.get(model.id);
    if (own) loaded.push(...replicas(model.id, own, model, colors));
    else rest.push(model.state === "peer" ? peerRow(model) : unloadedRow(model));
    servers.delete(model.id);
  }
  for (const [name, own] of servers) loaded.push(...replicas(name, own, null, colors)); // the catalogue has them no more
  return [...loaded, ...rest];
}

function groupedByModel(servers) {
  const groups = new Map();
  for (const server of servers) groups.set(server.model, [...(groups.get(server.model) ?? []), server]);
  return groups;
}

/** The first has the model's key and its buttons. */
function replicas(name, servers, model, colors) {
  return servers.map((server, number) => ({
    ...serverRow(server),
    ...{ color: colors.get(name), model: name },
    ...(number
      ? { key: `${name}#${server.id}`, data_state: "", details: `server ${server.id}` }
      : { key: name, data_state: PLAN_STATES[server.state] ?? "unloaded", details: detailsOf(model) }),
  }));
}

function serverRow(server) {
  const isUp = ["ready", "draining"].includes(server.state), { progress, measured_bytes: measured } = server;
  const percent = progress === null ? "" : ` ${(100 * progress).toFixed(0)} %`;
  return {
    ...EMPTY,
    state: (STATES[server.state] ?? server.state) + percent,
    state_class: STATE_STYLES[server.state] ?? "",
    progress: progress === null ? "" : progress.toFixed(3),
    place: placeOf(server),
    place_note: placeNotes(server).join(" · "),
    slots: isUp ? `${server.slots_busy} of ${server.slots}` : "",
    dots: isUp ? dotsOf(server) : [],
    speed: server.tokens_per_second ? `${rate(server.tokens_per_second)} out` : "",
    speed_note: speedNotes(server).join(" · "),
    context: contextOf(server),
    context_note: server.full_ctx_size ? `instead of ${tokens(server.full_ctx_size)}` : "",
    memory: size(measured ?? server.estimated_bytes),
    memory_note: memoryNotes(server).join(" · "),
    idle: isIdle(server) ? duration(server.idle_seconds) : "",
    idle_note: unloadsIn(server),
    problem: server.problem,
  };
}

function speedNotes({ prompt_tokens_per_second: prompt, drafts }) {
  return [
    ...(prompt ? [`${rate(prompt)} in`] : []),
    ...(drafts ? [`${drafts.accepted_percent} % of drafts accepted`] : []),
  ];
}

function memoryNotes(server) {
  const { measured_bytes: measured, prompt_cache_bytes: cache, load } = server;
  return [
    measured ? `estimate ${size(server.estimated_bytes)}` : "estimate",
    ...(cache ? [`prompt cache up to ${size(cache)}`] : []),
    ...(load?.size_bytes >= SHOWN_LOAD_BYTES ? [`loaded at ${size(load.bytes_per_second)}/s`] : []),
  ];
}

function isIdle(server) {
  return server.state === "ready" && !server.requests;
}

function placeOf({ gpus, device }) {
  if (gpus.length) return `GPU${gpus.length > 1 ? "s" : ""} ${gpus.join("+")}`;
  return device === "cpu" ? "CPU" : device || UNKNOWN;
}

function placeNotes({ device, pid, engine }) {
  const own = engine ? [`engine ${engine}`] : [];
  return [...(/^(cuda|cpu)/.test(device) ? [] : [device]), ...(pid ? [`pid ${pid}`] : []), ...own];
}

function dotsOf({ slots, slots_busy: busy }) {
  return slots <= MAX_DOTS ? Array.from({ length: slots }, (_, number) => number < busy) : [];
}

function contextOf(server) {
  const used = server.context_used_tokens, whole = tokens(server.ctx_size);
  return used ? `${tokens(used)} of ${whole}` : whole;
}

function unloadsIn(server) {
  if (server.pinned) return "pinned";
  const left = server.unloads_in_seconds;
  return left !== null && isIdle(server) ? `unloads in ${duration(left)}` : "";
}

/** Q4_K_M · 8.4 GiB · tools, vision · also gpt-4o-mini */
function detailsOf(model) {
  if (!model) return "";
  const abilities = model.capabilities.filter((each) => !["completion", "chat"].includes(each));
  const aliases = model.aliases.length ? `also ${model.aliases.join(", ")}` : "";
  const bytes = model.size_bytes ? size(model.size_bytes) : "";
  return [model.quant, bytes, abilities.join(", "), aliases].filter(Boolean).join(" · ");
}

/** Nothing is loaded or unloaded here, so it has no buttons. */
function peerRow(model) {
  const [state, style] = model.problem ? ["unavailable", "bad"] : ["at a peer", "ok"];
  const row = unloadedRow({ ...model, state: "unloaded" });
  return { ...row, data_state: "", state, state_class: style, problem: model.problem };
}

/** A plan may be older than the status, in which the model has no server any more. */
function unloadedRow(model) {
  const isStale = !["unloaded", "failed"].includes(model.state), failed = model.state === "failed";
  const [first, ...log] = model.problem.split("\n"), isKnown = !isStale && !failed;
  return {
    ...EMPTY,
    ...{ key: model.id, model: model.id, color: "", details: detailsOf(model) },
    ...{ state: failed ? "failed" : "unloaded", data_state: failed ? "failed" : "unloaded", state_class: failed ? "bad" : "" },
    ...{ place: isKnown ? model.text : "", place_class: isKnown ? OUTCOME_STYLES[model.outcome] ?? "" : "" },
    context: tokens(model.ctx_size),
    ...{ memory: model.needed_bytes ? size(model.needed_bytes) : "", memory_note: model.needed_bytes ? "needed" : "" },
    idle_note: model.pinned ? "pinned" : "",
    ...(failed ? { problem: [first, ...log.slice(0, 1)].join(": "), log: log.length > 1 ? log.join("\n") : "" } : {}),
  };
}

function showRow(row, view) {
  fill(row, view);
  const swatch = part(row, "swatch");
  setAttribute(swatch, "class", `swatch model ${view.color}`);
  setHidden(swatch, view.color === "");
  setHidden(part(row, "log_box"), view.log === "");
  showDots(part(row, "dots"), view.dots);
  const actions = row.querySelector(".actions"), hasActions = view.data_state !== "";
  setAttribute(actions, "data-actions", hasActions ? "" : null);
  setAttribute(actions, "data-model", hasActions ? view.model : null);
  setAttribute(actions, "data-state", hasActions ? view.data_state : null);
}

function showDots(element, dots) {
  while (element.childElementCount > dots.length) element.lastElementChild.remove();
  while (element.childElementCount < dots.length) element.append(document.createElement("i"));
  dots.forEach((isOn, number) => element.children[number].classList.toggle("on", isOn));
}
