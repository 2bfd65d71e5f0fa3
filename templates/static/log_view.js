// The lines of a log on the page: the last MAX_LINES of it, at most.

export const MAX_LINES = 2000;
const NEAR_END_PIXELS = 30;

export class LogView {
  #place;
  #filter = "";
  #isPaused = false;
  #waiting = []; // lines that arrived while it is paused

  constructor(place) {
    this.#place = place;
  }

  clear() {
    this.#waiting = [];
    this.#place.replaceChildren();
  }

  add(lines) {
    if (this.#isPaused) {
      this.#waiting = [...this.#waiting, ...lines].slice(-MAX_LINES);
      return;
    }
    const place = this.#place;
    const isAtEnd = place.scrollHeight - place.scrollTop - place.clientHeight < NEAR_END_PIXELS;
    place.append(...lines.slice(-MAX_LINES).map((text) => this.#line(text)));
    while (place.childElementCount > MAX_LINES) place.firstElementChild.remove();
    if (isAtEnd) this.showEnd(); // whoever has scrolled up reads there
  }

  showEnd() {
    this.#place.scrollTop = this.#place.scrollHeight;
  }

  filter(text) {
    this.#filter = text.toLowerCase();
    for (const line of this.#place.children) line.hidden = !this.#matches(line.textContent);
    this.showEnd();
  }

  pause(isPaused) {
    this.#isPaused = isPaused;
    if (isPaused) return;
    this.add(this.#waiting.splice(0));
    this.showEnd();
  }

  // The lines that are shown, as text.
  get text() {
    return [...this.#place.children].filter((line) => !line.hidden).map((line) => line.textContent).join("\n");
  }

  #line(text) {
    const line = document.createElement("div");
    line.textContent = text;
    line.hidden = !this.#matches(text);
    line.className = severity(text);
    return line;
  }

  #matches(text) {
    return !this.#filter || text.toLowerCase().includes(this.#filter);
  }
}

function severity(text) {
  if (/\b(ERROR|CRITICAL|error:)/.test(text)) return "bad";
  return /\bWARN(ING)?\b|\bwarning:/.test(text) ? "warn" : "";
}
