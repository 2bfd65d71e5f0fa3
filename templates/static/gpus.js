// The GPUs: of each its memory as one bar with a legend, its figures, and charts. The same as app/page/gpus.py.

import { chart } from "./charts.js";
import { copies, fill, part, patchList, setAttribute, setHidden, setText } from "./dom.js";
import { duration, gib, percent, size, whole } from "./format.js";
import { current, subscribe } from "./store.js";

const COLORS = 8; // classes of the style sheet
const MAX_PROCESSES = 6; // named in a legend
const LABELLED_SHARE = 0.08; // of the bar; on a smaller part not even the first word is readable
const KIND_NAMES = { other: "other processes", reserve: "reserve", free: "free", booked: "models" };
const LINES = ["Utilization", "Memory", "Power"];

export function startGpus() {
  const make = Object.fromEntries(["gpu", "legend", "chart", "part"].map((name) => [name, copies(`${name}-template`)]));
  const note = document.getElementById("gpus-note");
  const showOne = (element, view) => showGpu(element, view, make);
  const show = () => {
    const status = current("status");
    if (!status) return;
    const view = gpusView(status, current("history") ?? { gpus: {} });
    setText(note, view.note);
    setHidden(note, view.note === "");
    patchList(document.getElementById("gpus"), view.gpus, make.gpu, showOne);
    patchList(document.getElementById("ram"), view.ram, make.gpu, showOne);
  };
  subscribe("status", show);
  subscribe("history", show);
}

/** `ram` has one element, or none. */
export function gpusView(status, history) {
  const colors = colorClasses(status);
  const gpus = status.gpus.map((gpu) => gpuView(gpu, colors, history.gpus[gpu.uuid] ?? {}));
  const missing = status.missing_gpus.map(({ uuid, index, name, problem }) => ({
    ...{ key: uuid, title: `GPU ${index}`, name, problem },
    ...{ memory: "", temperature: "", bar: [], legend: [], charts: [] },
  }));
  return { gpus: [...gpus, ...missing], ram: status.ram ? [ramView(status.ram)] : [], note: noteOf(status) };
}

/** A class for each loaded model, in the order of the servers. */
export function colorClasses(status) {
  const names = [...new Set(status.servers.map((server) => server.model))];
  return new Map(names.map((name, number) => [name, `c${number % COLORS}`]));
}

function noteOf(status) {
  if (!status.gpus.length && !status.missing_gpus.length) {
    const why = status.gpus_problem ? `: ${status.gpus_problem}` : "";
    return `None${why}. If there should be one: llama-smart-proxy doctor.`;
  }
  const age = duration(status.gpus_age_seconds);
  if (status.gpus_state === "asleep") return `Asleep until a model needs them. Last read ${age} ago.`;
  return status.gpus_state === "hung" ? `The driver does not respond. Last read ${age} ago.` : "";
}

function gpuView(gpu, colors, trends) {
  const notes = [gpu.unified && "unified memory", gpu.drives_display && "drives a display"].filter(Boolean);
  return {
    key: gpu.uuid,
    title: `GPU ${gpu.index}`,
    name: gpu.name + (notes.length ? ` (${notes.join(", ")})` : ""),
    problem: gpu.problem,
    ...memoryView(gpu.segments, colors, gpu.other_processes),
    memory: `${gib(gpu.used_bytes)} of ${gib(gpu.total_bytes)} GiB`,
    temperature: whole(gpu.temperature_celsius, "°C"),
    charts: [
      chart(LINES[0], whole(gpu.utilization_percent, "%"), trends.utilization_percent ?? [], 100),
      chart(LINES[1], `${gib(gpu.used_bytes)} GiB`, trends.used_bytes ?? [], gpu.total_bytes),
      chart(LINES[2], whole(gpu.power_watts, "W"), trends.power_watts ?? [], null),
    ],
  };
}

/** Booked memory counts as the models', as far as it is in use. */
function ramView(ram) {
  const used = Math.max(0, ram.total_bytes - ram.available_bytes);
  const booked = Math.min(ram.booked_bytes, used);
  const sizes = { booked, other: used - booked, free: ram.total_bytes - used };
  const segments = Object.entries(sizes).filter(([, bytes]) => bytes).map(([kind, bytes]) => ({ kind, model: null, bytes }));
  return {
    ...{ key: "ram", title: "RAM", name: "", problem: "", temperature: "", charts: [] },
    memory: `${gib(used)} of ${gib(ram.total_bytes)} GiB`,
    ...memoryView(segments, new Map(), []),
  };
}

/** The bar's parts, and the legend that says the same in words. */
function memoryView(segments, colors, processes) {
  const total = segments.reduce((sum, { bytes }) => sum + bytes, 0) || 1;
  let start = 0;
  const bar = [], legend = [];
  for (const { kind, model, server, bytes } of segments) {
    const name = nameOf(kind, model), key = `${kind} ${server ?? ""}`.trim();
    const kindClass = `${kind} ${colors.get(model) ?? ""}`.trim();
    const isBare = ["reserve", "free"].includes(kind) || bytes / total < LABELLED_SHARE;
    const label = isBare ? "" : `${name.split("/").at(-1)} ${gib(bytes)}`;
    bar.push({ key, class: kindClass, x: percent(start / total), width: percent(bytes / total), label });
    const note = kind === "other" ? processesText(processes) : "";
    legend.push({ key, class: kindClass, part: name, size: size(bytes), note });
    start += bytes;
  }
  return { bar, legend };
}

function nameOf(kind, model) {
  return kind === "claimed" ? `${model}, loading` : model ?? KIND_NAMES[kind];
}

function processesText(processes) {
  const named = processes.slice(0, MAX_PROCESSES).map(({ name, pid, bytes }) => {
    return `${name || "unknown"} (pid ${pid})${bytes === null ? "" : ` ${size(bytes)}`}`;
  });
  const more = processes.length - named.length;
  return [...named, ...(more ? [`${more} more`] : [])].join(", ");
}

function showGpu(element, view, make) {
  fill(element, view);
  patchList(part(element, "bar"), view.bar, () => make.part().firstElementChild, showPart);
  patchList(part(element, "legend"), view.legend, make.legend, showLegend);
  patchList(part(element, "charts"), view.charts, make.chart, showChart);
}

function showPart(element, view) {
  setAttribute(element, "x", view.x);
  setAttribute(element, "width", view.width);
  setAttribute(element.firstElementChild, "class", `part ${view.class}`);
  setText(element.firstElementChild, view.label);
}

function showLegend(element, view) {
  fill(element, view);
  setAttribute(element.querySelector(".swatch"), "class", `swatch ${view.class}`);
}

function showChart(element, view) {
  fill(element, view);
  setAttribute(element.querySelector(".area"), "d", view.area);
  setAttribute(element.querySelector(".line"), "d", view.line);
}
