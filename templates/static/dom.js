// Changes the document in place. An unchanged value touches nothing, so that an update of a large table costs little.

/** The part of an element that shows a field: the first with data-field=name. */
export function part(element, name) {
  return element.querySelector(`[data-field="${name}"]`);
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

/** A copy of the one element in <template id=...>. */
export function copyOf(templateId) {
  return document.getElementById(templateId).content.firstElementChild.cloneNode(true);
}

/**
 * Makes the container's children those of the items, in their order. A child stays the same element as long as its
 * item's key (data-key) is there; children that the server has rendered are adopted.
 * @template T
 * @param {Element} container
 * @param {T[]} items
 * @param {(item: T) => string} keyOf
 * @param {() => Element} create
 * @param {(element: Element, item: T) => void} update
 */
export function patchList(container, items, keyOf, create, update) {
  const existing = new Map([...container.children].map((child) => [child.dataset.key, child]));
  const wanted = new Set(items.map(keyOf));
  for (const [key, child] of existing) if (!wanted.has(key)) child.remove();
  let next = container.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    const element = existing.get(key) ?? create();
    element.dataset.key = key;
    update(element, item);
    if (element === next) next = next.nextElementSibling;
    else keepingFocus(element, () => container.insertBefore(element, next));
  }
}

/** An element that is moved in the document loses its focus. */
export function keepingFocus(element, move) {
  const focused = element.contains(document.activeElement) ? document.activeElement : null;
  move();
  focused?.focus({ preventScroll: true });
}
