// Changes the document in place. An unchanged value touches nothing, so that an update of a large table costs little.

const STYLES = ["ok", "warn", "bad"];

/** The part of an element that shows a field: the first with data-field=name. */
export function part(element, name) {
  return element.querySelector(`[data-field="${name}"]`);
}

/**
 * Shows the texts of a view in the parts of those names. A part with data-optional is hidden while its text is empty.
 * `NAME_class`: ok, warn, bad or "".
 */
export function fill(element, view) {
  for (const field of element.querySelectorAll("[data-field]")) {
    const name = field.dataset.field, value = view[name];
    if (typeof value !== "string") continue;
    if (field instanceof HTMLProgressElement) setAttribute(field, "value", value || "0");
    else setText(field, value);
    if ("optional" in field.dataset) setHidden(field, value === "");
    if (`${name}_class` in view) setStyle(field, view[`${name}_class`]);
  }
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** null removes the attribute. */
export function setAttribute(element, name, value) {
  if (value === null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

export function setHidden(element, isHidden) {
  if (element.hidden !== isHidden) element.hidden = isHidden;
}

function setStyle(element, wanted) {
  for (const style of STYLES) element.classList.toggle(style, style === wanted);
}

/** A maker of copies of the one element in <template id=...>. */
export function copies(templateId) {
  const { firstElementChild: model } = document.getElementById(templateId).content;
  return () => model.cloneNode(true);
}

/**
 * Makes the container's children those of the items, in their order. A child stays the same element as long as its
 * item's `key` (data-key) is there; children that the server has rendered are adopted.
 * @template {{key: string}} T
 * @param {Element} container
 * @param {T[]} items
 * @param {() => Element} create
 * @param {(element: Element, item: T) => void} update
 */
export function patchList(container, items, create, update = fill) {
  const existing = new Map();
  for (const child of [...container.children]) {
    if (existing.has(child.dataset.key)) child.remove();
    else existing.set(child.dataset.key, child);
  }
  const wanted = new Set(items.map((item) => item.key));
  for (const [key, child] of existing) if (!wanted.has(key)) child.remove();
  let next = container.firstElementChild;
  for (const item of items) {
    const element = existing.get(item.key) ?? create();
    element.dataset.key = item.key;
    update(element, item);
    if (element === next) next = next.nextElementSibling;
    else keepingFocus(element, () => container.insertBefore(element, next));
  }
}

/** An element that is moved in the document loses its focus. */
function keepingFocus(element, move) {
  const focused = element.contains(document.activeElement) ? document.activeElement : null;
  move();
  focused?.focus({ preventScroll: true });
}
