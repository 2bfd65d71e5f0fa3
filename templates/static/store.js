// What the page knows. One writer per kind; sections subscribe.
//
// @typedef {"status" | "plan" | "history" | "connection"} Kind
//   status      the answer of GET /status
//   plan        the answer of GET /plan
//   history     the answer of GET /status/history
//   connection  "connecting" | "live" | "polling" | "disconnected" | "unauthorized"

/** @type {Map<Kind, any>} */
const values = new Map();
/** @type {Map<Kind, Set<(value: any) => void>>} */
const listeners = new Map();

/**
 * Calls the listener with every new value of a kind, and at once if there is one.
 * @param {Kind} kind
 * @param {(value: any) => void} listener
 * @returns {() => void} ends the subscription
 */
export function subscribe(kind, listener) {
  if (!listeners.has(kind)) listeners.set(kind, new Set());
  listeners.get(kind).add(listener);
  if (values.has(kind)) listener(values.get(kind));
  return () => listeners.get(kind).delete(listener);
}

/** The last value of a kind; undefined before the first. */
export function current(kind) {
  return values.get(kind);
}

/** A listener that fails must not take the other sections with it. */
export function publish(kind, value) {
  values.set(kind, value);
  for (const listener of listeners.get(kind) ?? []) {
    try {
      listener(value);
    } catch (error) {
      console.error(`the page cannot show ${kind}`, error);
    }
  }
}
