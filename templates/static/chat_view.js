// The conversation on the page.

import { copyText } from "./copy.js";

const FENCE = /^```([^\n`]*)\n([\s\S]*?)(?:^```[ \t]*$|$(?![\s\S]))/gm;
const NEAR_END_PIXELS = 40;

export function addQuestion(log, text, pictures) {
  const entry = addEntry(log, "You", "question");
  entry.append(...pictures.map((url) => Object.assign(new Image(), { src: url, alt: "Attached picture" })));
  entry.append(element("div", "text", text));
  log.scrollTop = log.scrollHeight;
}

// A view of an answer: `add` takes the parts of chat_stream.js, `end` shows code as code, and what went wrong.
export function addAnswer(log, model) {
  return new AnswerView(log, addEntry(log, model, "answer"));
}

class AnswerView {
  text = "";
  #log;
  #entry;
  #shown = document.createTextNode("");
  #thoughts = null; // the text node of the reasoning
  #unseen = { text: "", reasoning: "" }; // what arrived since the last frame
  #frame = 0;

  constructor(log, entry) {
    this.#log = log;
    this.#entry = entry;
    this.body = element("div", "text");
    this.body.append(this.#shown);
    entry.append(this.body);
    entry.setAttribute("aria-busy", "true");
  }

  // The page changes once a frame: a fast model sends thousands of tokens a second.
  add({ text = "", reasoning = "" }) {
    this.text += text;
    this.#unseen.text += text;
    this.#unseen.reasoning += reasoning;
    this.#frame ||= requestAnimationFrame(() => this.#show());
  }

  end(problem = "", isError = false) {
    cancelAnimationFrame(this.#frame);
    this.#show();
    this.body.replaceChildren(...withCode(this.text));
    this.#entry.removeAttribute("aria-busy");
    if (problem) this.#note(problem, isError);
  }

  #show() {
    const isAtEnd = this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight < NEAR_END_PIXELS;
    if (this.#unseen.reasoning) this.#reasoning().appendData(this.#unseen.reasoning);
    this.#shown.appendData(this.#unseen.text);
    this.#unseen = { text: "", reasoning: "" };
    this.#frame = 0;
    if (isAtEnd) this.#log.scrollTop = this.#log.scrollHeight;
  }

  #reasoning() {
    if (!this.#thoughts) {
      this.#thoughts = document.createTextNode("");
      const details = element("details", "reasoning"), body = element("div", "text");
      body.append(this.#thoughts);
      details.append(element("summary", "", "Reasoning"), body);
      this.body.before(details);
    }
    return this.#thoughts;
  }

  #note(problem, isError) {
    const note = element("p", isError ? "bad" : "soft", problem);
    if (isError) note.setAttribute("role", "alert");
    this.#entry.append(note);
    this.#log.scrollTop = this.#log.scrollHeight;
  }
}

// The text as nodes: what is between ``` lines in <pre>, all else as it is.
function withCode(text) {
  const nodes = [];
  let at = 0;
  for (const match of text.matchAll(FENCE)) {
    nodes.push(document.createTextNode(text.slice(at, match.index)), codeBlock(match[2]));
    at = match.index + match[0].length;
  }
  return [...nodes, document.createTextNode(text.slice(at).replace(/^\n/, ""))];
}

function codeBlock(text) {
  const block = element("div", "snippet"), code = element("pre", "", text), button = element("button", "", "Copy");
  code.tabIndex = 0;
  code.setAttribute("aria-label", "Code");
  button.type = "button";
  button.setAttribute("aria-label", "Copy the code");
  button.addEventListener("click", () => copyText(code, button));
  block.append(code, button);
  return block;
}

function addEntry(log, author, kind) {
  const entry = element("div", `entry ${kind}`);
  entry.append(element("div", "author", author));
  log.append(entry);
  return entry;
}

function element(name, className, text = "") {
  return Object.assign(document.createElement(name), { className, textContent: text });
}
