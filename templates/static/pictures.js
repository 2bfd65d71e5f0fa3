// Pictures for the next message: chosen, pasted, shown small, sent as data: URLs.

const MAX_BYTES = 20 * 1024 * 1024;

export class Pictures {
  #place;
  #input;
  #say;
  #isAllowed = false;
  #urls = [];

  // `place`: where they are shown; `input`: the file input; `field`: where they may be pasted; `say`: tells a problem.
  constructor(place, input, field, say) {
    [this.#place, this.#input, this.#say] = [place, input, say];
    input.addEventListener("change", () => {
      this.#add(input.files);
      input.value = "";
    });
    field.addEventListener("paste", ({ clipboardData }) => this.#add(clipboardData.files));
  }

  // Shows the button if the model takes pictures.
  allow(button, isAllowed) {
    this.#isAllowed = isAllowed;
    button.hidden = !isAllowed;
    if (!isAllowed) this.take();
  }

  // The pictures, which are then no longer waiting.
  take() {
    const urls = this.#urls;
    this.#urls = [];
    this.#show();
    return urls;
  }

  async #add(files) {
    if (!this.#isAllowed) return;
    for (const file of files) {
      if (!file.type.startsWith("image/")) continue;
      if (file.size > MAX_BYTES) this.#say(`${file.name} is larger than 20 MiB.`);
      else this.#urls.push(await dataUrl(file));
    }
    this.#show();
  }

  #show() {
    this.#place.hidden = !this.#urls.length;
    this.#place.replaceChildren(...this.#urls.map((url, at) => this.#thumbnail(url, at)));
  }

  #thumbnail(url, at) {
    const button = Object.assign(document.createElement("button"), { type: "button", title: "Remove" });
    button.setAttribute("aria-label", `Remove picture ${at + 1}`);
    button.append(Object.assign(new Image(), { src: url, alt: "" }));
    button.addEventListener("click", () => {
      this.#urls.splice(at, 1);
      this.#show();
      this.#input.focus();
    });
    return button;
  }
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
