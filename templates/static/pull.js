// The form that gets a model by its name: which quantizations of a repository fit, and the order to download one.

import { actionButton } from "./actions.js";
import { call } from "./api.js";
import { copies, fill, patchList, setHidden, setText } from "./dom.js";
import { size, tokens } from "./format.js";
import { refresh } from "./live.js";

const OUTCOME_STYLES = { place: "ok", evict: "warn", wait: "warn", refuse: "bad" };
let asked = 0; // the last question: a late answer to an earlier one is not shown

export function startPull() {
  const form = document.getElementById("pull-form"), name = document.getElementById("pull-name");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    ask(name.value.trim(), plan);
  });
  document.getElementById("pull-now").addEventListener("click", () => {
    if (form.reportValidity()) ask(name.value.trim(), pull);
  });
}

async function ask(model, action) {
  const number = ++asked;
  const isCurrent = () => number === asked;
  setHidden(document.getElementById("quants"), true);
  try {
    await action(model, isCurrent);
  } catch (problem) {
    if (isCurrent()) say(problem.message, "bad");
  }
}

async function plan(model, isCurrent) {
  say(`Reading the headers of ${model} …`);
  const response = await call("models/pull", { body: { model, plan: true } });
  const answer = await response.json();
  if (isCurrent()) showPlan(answer);
}

async function pull(model, isCurrent) {
  say(`Ordering ${model} …`);
  const response = await call("models/pull", { body: { model } });
  const download = await response.json();
  const text = download.state === "complete" ? `${download.model} is downloaded.` : `Downloading ${download.model}.`;
  if (isCurrent()) say(text);
  refresh();
}

function showPlan({ model, quants }) {
  const views = quants.map(quantView), table = document.getElementById("quants");
  const title = document.getElementById("quants-title"), make = copies("quant-template");
  setText(title, `${model} on this machine`);
  patchList(document.getElementById("quant-rows"), views, make, showQuant);
  setHidden(table, views.length === 0);
  say(planText(quants));
  if (views.length) title.focus();
}

export function planText(quants) {
  if (!quants.length) return "There is no model in this repository that can be downloaded.";
  const best = quants.find(({ recommended }) => recommended);
  return best ? `Recommended: ${best.quant || best.name}, the largest that fits.` : "None of them fits with 32k of context.";
}

export function quantView(quant) {
  const marks = [quant.recommended ? "recommended" : "", quant.downloaded ? "downloaded" : ""];
  return {
    ...{ key: quant.name, name: quant.name, quant: quant.quant || quant.name, mark: marks.filter(Boolean).join(", ") },
    ...{ size: size(quant.size_bytes), needed: size(quant.needed_bytes), context: tokens(quant.ctx_size || null) },
    now: quant.problem || quant.text,
    now_class: quant.problem ? "bad" : OUTCOME_STYLES[quant.outcome] ?? "",
    action: quant.downloaded || quant.problem || quant.outcome === "refuse" ? "" : "pull",
    is_recommended: quant.recommended,
  };
}

function showQuant(row, view) {
  fill(row, view);
  const buttons = view.action ? [actionButton(view.action, view.name)] : [];
  for (const button of buttons) button.classList.toggle("primary", view.is_recommended);
  row.querySelector(".actions").replaceChildren(...buttons);
}

function say(text, style = "") {
  const status = document.getElementById("pull-status");
  status.className = style;
  setText(status, text);
  setHidden(status, text === "");
}
