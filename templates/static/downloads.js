// The downloads: those that run with how far they are, then those that ended lately. The same as app/page/downloads.py.

import { keepButtons } from "./actions.js";
import { copies, fill, patchList, setHidden } from "./dom.js";
import { duration, size } from "./format.js";
import { subscribe } from "./store.js";

const STYLES = { complete: "ok", failed: "bad", canceled: "" };
const KEPT = "the partial download is kept";

export function startDownloads() {
  const section = document.getElementById("downloads"), form = document.getElementById("pull");
  const list = document.getElementById("download-rows"), make = copies("download-template");
  subscribe("status", (status) => {
    const views = downloadsView(status);
    patchList(list, views, make, (row, view) => {
      fill(row, view);
      keepButtons(row.querySelector(".download-actions"), actionsOf(view, status), view.model);
    });
    setHidden(list, views.length === 0);
    setHidden(form, !status.may_pull);
    setHidden(section, !status.may_pull && views.length === 0);
  });
}

/** A key that may order downloads, but is no admin's, may not cancel those of others. */
function actionsOf(view, status) {
  if (view.data_state === "running") return status.admin ? ["cancel"] : [];
  return view.data_state === "ended" && status.may_pull ? ["pull"] : [];
}

/** `data_state` chooses a row's button: running, ended (before the last byte) or complete. */
export function downloadsView(status) {
  return status.downloads.map((each) => ({
    key: `${each.model} ${each.started_at}`,
    model: each.model,
    data_state: dataState(each.state),
    state: each.state + percentOf(each),
    state_class: STYLES[each.state] ?? "warn",
    progress: ["downloading", "verifying"].includes(each.state) ? share(each).toFixed(3) : "",
    facts: factsOf(each).filter(Boolean).join(" · "),
    problem: each.problem,
    problem_class: each.state === "failed" ? "bad" : "warn",
  }));
}

function dataState(state) {
  if (state === "complete") return "complete";
  return ["failed", "canceled"].includes(state) ? "ended" : "running";
}

function share({ total_bytes: total, done_bytes: done }) {
  return total ? Math.min(1, done / total) : 0;
}

function percentOf(download) {
  const isKnown = download.state === "downloading" && download.total_bytes;
  return isKnown ? ` ${Math.trunc(100 * share(download))} %` : "";
}

/** 4.8 GiB of 8.4 GiB, 92 MiB/s, 40 s left, model-Q4_K_M.gguf */
function factsOf({ state, total_bytes: total, done_bytes: bytes, bytes_per_second: rate, seconds_left: left, file }) {
  const sizes = [size(bytes), total ? size(total) : ""], done = sizes.filter(Boolean).join(" of ");
  if (state === "downloading") {
    return [done, rate ? `${size(rate)}/s` : "", left === null ? "" : `${duration(left)} left`, file];
  }
  if (state === "complete") return [sizes[1]];
  if (state === "verifying") return [done];
  return dataState(state) === "ended" && bytes ? [done, KEPT] : [];
}
