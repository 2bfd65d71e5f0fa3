// Numbers as people read them; null is unknown and shows as a dash. The same as app/page/text.py.

export const UNKNOWN = "–";
const MIB = 2 ** 20, GIB = 2 ** 30;
const TOKENS = [["M", MIB], ["k", 1024]];
const COUNTS = [["G", 1e9], ["M", 1e6], ["k", 1e3]];

/** 11.2 GiB, 391 GiB, 213 MiB. */
export function size(bytes) {
  if (bytes === null) return UNKNOWN;
  if (bytes < 0.95 * GIB) return `${grouped(Math.max(0, bytes) / MIB)} MiB`;
  return bytes >= 99.5 * GIB ? `${grouped(bytes / GIB)} GiB` : `${(bytes / GIB).toFixed(1)} GiB`;
}

/** Without the unit, for `21.4 of 24.0 GiB`. */
export function gib(bytes) {
  return bytes === null ? UNKNOWN : (bytes / GIB).toFixed(1);
}

/** Of a context: 512, 9.1k, 32k. Contexts are powers of two, so k is 1024. */
export function tokens(number) {
  return number === null ? UNKNOWN : scaled(number, TOKENS);
}

/** 950, 412k: requests, and tokens that were processed. */
export function count(number) {
  return number === null ? UNKNOWN : scaled(number, COUNTS);
}

function scaled(number, units) {
  for (const [unit, factor] of units) {
    if (number < factor) continue;
    const value = number / factor;
    return (value >= 99.95 ? value.toFixed(0) : value.toFixed(1).replace(/\.0$/, "")) + unit;
  }
  return number.toFixed(0);
}

/** Of tokens: 58, 4.2, 1.2k. Nothing is generated: a dash. */
export function rate(perSecond) {
  if (!perSecond) return UNKNOWN;
  return perSecond < 9.95 ? perSecond.toFixed(1) : count(perSecond);
}

/** 40 s, 6 min, 3 h. */
export function duration(seconds) {
  if (seconds === null) return UNKNOWN;
  if (seconds < 99.5) return `${Math.max(0, seconds).toFixed(0)} s`;
  return seconds < 99.5 * 60 ? `${(seconds / 60).toFixed(0)} min` : `${(seconds / 3600).toFixed(0)} h`;
}

/** 184 ms, 9.2 s, 2 min: where tenths of a second count. */
export function shortDuration(seconds) {
  if (seconds === null) return UNKNOWN;
  if (seconds < 0.9995) return `${(seconds * 1000).toFixed(0)} ms`;
  return seconds < 9.95 ? `${seconds.toFixed(1)} s` : duration(seconds);
}

export function whole(number, unit) {
  return number === null ? UNKNOWN : `${number.toFixed(0)} ${unit}`;
}

/** Of a geometry: 46.70%. */
export function percent(share) {
  return `${(100 * share).toFixed(2)}%`;
}

/** 9,120 */
export function grouped(number) {
  return number.toFixed(0).replace(/\B(?=(\d{3})+$)/g, ",");
}

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

/** Of Unix seconds: for machines, and in the reader's time zone. */
export function moment(seconds) {
  const at = new Date(seconds * 1000);
  return { iso: at.toISOString(), time: clock.format(at) };
}
