// The playground: a conversation with a model, in memory only. What models say is text, never HTML.

import { streamChat } from "./chat_stream.js";
import { Meter } from "./chat_meter.js";
import { addAnswer, addQuestion } from "./chat_view.js";
import { Pictures } from "./pictures.js";
import { subscribe } from "./store.js";

export function startPlayground() {
  const find = (name) => document.getElementById(`play-${name}`);
  const playground = new Playground(find);
  const form = find("form"), text = find("text");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    playground.send();
  });
  text.addEventListener("keydown", (event) => {
    if (!isSendKey(event)) return;
    event.preventDefault();
    form.requestSubmit();
  });
  find("stop").addEventListener("click", () => playground.stop());
  find("clear").addEventListener("click", () => playground.clear());
  find("model").addEventListener("change", () => playground.showPictureButton());
  subscribe("plan", ({ models }) => playground.showModels(models));
}

// Enter also ends the composition of a character, in Safari after the composition's end.
function isSendKey(event) {
  return event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229;
}

class Playground {
  #find;
  #messages = []; // of the conversation, as the API wants them, without the system prompt
  #running = null; // the AbortController of the answer that is being streamed
  #sees = new Map(); // model -> whether it takes pictures

  constructor(find) {
    this.#find = find;
    const input = find("picture").querySelector("input");
    this.pictures = new Pictures(find("pictures"), input, find("text"), (text) => this.#say(text));
  }

  // Offers the models that can chat; `models` as in GET /plan.
  showModels(models) {
    const select = this.#find("model"), offered = models.filter(canChat);
    this.#sees = new Map(offered.map(({ id, capabilities }) => [id, Boolean(capabilities?.includes("vision"))]));
    const labels = offered.map(({ id }) => (this.#sees.get(id) ? `${id} · pictures` : id));
    if (labels.join("\n") === [...select.options].map((option) => option.text).join("\n")) return;
    const chosen = select.value || offered.find(({ state }) => state === "ready")?.id;
    select.replaceChildren(...offered.map(({ id }, at) => new Option(labels[at], id, false, id === chosen)));
    this.#find("send").disabled = !offered.length || Boolean(this.#running);
    this.showPictureButton();
  }

  showPictureButton() {
    this.pictures.allow(this.#find("picture"), this.#sees.get(this.#find("model").value) ?? false);
  }

  stop() {
    this.#running?.abort();
  }

  clear() {
    this.stop();
    this.#messages = [];
    this.#find("log").replaceChildren();
    this.#find("log").hidden = true;
    this.#say("");
    this.#find("text").focus();
  }

  async send() {
    const field = this.#find("text"), text = field.value.trim(), pictures = this.pictures.take();
    if (this.#running || !(text || pictures.length)) return;
    const question = { role: "user", content: content(text, pictures) }, messages = this.#messages;
    messages.push(question);
    field.value = "";
    this.#find("log").hidden = false;
    addQuestion(this.#find("log"), text, pictures);
    const answer = await this.#answer(messages);
    if (answer) messages.push({ role: "assistant", content: answer });
    else {
      messages.pop(); // two questions in a row are an error for many templates
      if (messages === this.#messages && !field.value) field.value = text;
    }
  }

  // Streams one answer. Returns its text, "" if there is none.
  async #answer(messages) {
    const model = this.#find("model").value, meter = new Meter(model), controller = this.#begin();
    const view = addAnswer(this.#find("log"), model);
    try {
      for await (const part of streamChat({ model, messages: this.#withSystem(messages) }, controller.signal)) {
        meter.note(part);
        view.add(part);
        this.#showProgress(meter);
      }
      view.end();
      this.#say(meter.summary());
    } catch (problem) {
      const isStopped = problem.name === "AbortError";
      view.end(isStopped ? "Stopped." : problem.message, !isStopped);
      this.#say(isStopped ? `Stopped. ${meter.summary()}` : "");
    } finally {
      this.#finish();
    }
    return view.text;
  }

  #withSystem(messages) {
    const system = this.#find("system").value.trim();
    return system ? [{ role: "system", content: system }, ...messages] : [...messages];
  }

  #begin() {
    this.#running = new AbortController();
    this.#find("send").disabled = true;
    this.#find("stop").disabled = false;
    this.#say("Waiting for the model…");
    return this.#running;
  }

  #finish() {
    this.#running = null;
    const hadFocus = document.activeElement === this.#find("stop");
    this.#find("send").disabled = false;
    this.#find("stop").disabled = true;
    this.#find("progress").hidden = true;
    if (hadFocus) this.#find("text").focus();
  }

  #showProgress(meter) {
    const bar = this.#find("progress");
    bar.hidden = meter.percent === null;
    if (meter.percent !== null) bar.value = meter.percent;
    if (meter.status !== this.#find("status").textContent) this.#say(meter.status);
  }

  #say(text) {
    this.#find("status").textContent = text;
  }
}

// A header that has not been read yet says nothing of capabilities.
function canChat({ capabilities, problem }) {
  return !problem && (!capabilities?.length || capabilities.includes("chat") || capabilities.includes("completion"));
}

function content(text, pictures) {
  if (!pictures.length) return text;
  return [...pictures.map((url) => ({ type: "image_url", image_url: { url } })), { type: "text", text }];
}
