// Copy buttons: <button data-copy="ID"> copies the text of the element with that id.

export function startCopyButtons(root) {
  root.addEventListener("click", ({ target }) => {
    const button = target.closest("[data-copy]");
    if (button) copyText(document.getElementById(button.dataset.copy), button);
  });
}

// The clipboard needs HTTPS or localhost. Over plain HTTP the text is copied the old way, else left selected.
export async function copyText(element, button) {
  const isCopied = await navigator.clipboard?.writeText(element.textContent).then(() => true, () => false);
  showBriefly(button, isCopied || copySelection(element) ? "Copied" : "Press Ctrl+C");
}

function copySelection(element) {
  if (!(element instanceof Node)) return false;
  const range = document.createRange();
  range.selectNodeContents(element);
  const selection = getSelection();
  selection.removeAllRanges();
  selection.addRange(range);
  return document.execCommand("copy");
}

function showBriefly(button, text) {
  button.dataset.text ??= button.textContent;
  button.textContent = text;
  announce(text);
  clearTimeout(Number(button.dataset.timer));
  button.dataset.timer = setTimeout(() => { button.textContent = button.dataset.text; }, 2000);
}

function announce(text) {
  const place = document.getElementById("announcement");
  if (place) place.textContent = text;
}
