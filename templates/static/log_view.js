// The lines of a log on the page: the last MAX_LINES of it, at most.

export const MAX_LINES = 2000;
const NEAR_END_PIXELS = 30;

export class LogView {
  #place;
  #filter = "";
  #isPaused = false;
  #waiting = []; // lines that are not shown yet
  #frame = 0;

  constructor(place) {
    this.#place = place;
  }

  clear() {
    this.#waiting = [];
    this.#place.replaceChildren();
  }

  // The page changes once a frame: a stream begins with all lines that are kept.
  add(lines) {
    this.#waiting.push(...lines);
    if (this.#waiting.length > 2 * MAX_LINES) this.#waiting.splice(0, this.#waiting.length - MAX_LINES);
    if (!this.#isPaused) this.#frame ||= requestAnimationFrame(() => this.#show());
  }

  #show() {
    this.#frame = 0;
    if (this.#isPaused) return;
    const place = this.#place;
    const isAtEnd = place.scrollHeight - place.scrollTop - place.clientHeight < NEAR_END_PIXELS;
    place.append(...this.#waiting.splice(0).slice(-MAX_LINES).map((text) => this.#line(text)));
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
    this.#show();
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
