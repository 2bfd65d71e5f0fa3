// How long an answer took and how fast it came.

export class Meter {
  #model;
  #sentAt = performance.now();
  #loadedAt = null; // when the last progress of the load arrived
  #firstAt = null;
  #tokens = 0;
  #tokensPerSecond = null; // as the engine measured it
  percent = null; // of the load, while it is known
  status = "Waiting for the model…"; // changes rarely: a screen reader says it

  constructor(model) {
    this.#model = model;
  }

  note({ progress, text, reasoning, tokens, tokensPerSecond }) {
    if (progress) this.#noteProgress(progress);
    if (text || reasoning) {
      this.#firstAt ??= performance.now();
      this.percent = null;
      this.status = "Answering…";
    }
    this.#tokens = tokens ?? this.#tokens;
    this.#tokensPerSecond = tokensPerSecond ?? this.#tokensPerSecond;
  }

  #noteProgress(progress) {
    this.#loadedAt = performance.now();
    const percent = /(\d+) %$/.exec(progress)?.[1];
    this.percent = percent === undefined ? null : Number(percent);
    this.status = `Loading ${this.#model}…`;
  }

  // "212 tokens · 58 tokens/s · first token after 0.18 s".
  summary() {
    if (this.#firstAt === null) return "";
    const rate = this.#tokensPerSecond ?? this.#tokens / ((performance.now() - this.#firstAt) / 1000);
    const parts = [`first token after ${seconds(this.#firstAt - this.#sentAt)}`];
    if (rate) parts.unshift(`${rate.toFixed(rate < 10 ? 1 : 0)} tokens/s`);
    if (this.#tokens) parts.unshift(`${this.#tokens} tokens`);
    if (this.#loadedAt) parts.push(`${seconds(this.#loadedAt - this.#sentAt)} of it to load`);
    return parts.join(" · ");
  }
}

function seconds(milliseconds) {
  return `${(milliseconds / 1000).toFixed(milliseconds < 1000 ? 2 : 1)} s`;
}
