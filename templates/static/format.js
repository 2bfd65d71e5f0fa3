// Numbers as people read them; null is unknown and shows as a dash. app/use_cases/reporting/page_text.py says the same
// for pages without scripts.

export const UNKNOWN = "–";
const GIB = 2 ** 30;

/** 11.2 GiB; below one GiB in MiB. */
export function bytes(count) {
  if (count === null || count === undefined) return UNKNOWN;
  if (count > 0 && count < GIB) return `${Math.round(count / 2 ** 20)} MiB`;
  return `${gib(count)} GiB`;
}

/** GiB without the unit, for places that name it once. */
export function gib(count) {
  return (count / GIB).toFixed(count >= 1000 * GIB ? 0 : 1);
}

/** 950, 9.1k, 32k, 1.3M: tokens, requests. */
export function count(number) {
  if (number === null || number === undefined) return UNKNOWN;
  if (number < 1000) return String(Math.round(number));
  for (const [unit, name] of [[1000, "k"], [1e6, "M"], [1e9, "G"]]) {
    const scaled = number / unit;
    if (scaled < 999.5) return `${scaled < 9.95 ? scaled.toFixed(1).replace(/\.0$/, "") : Math.round(scaled)}${name}`;
  }
  return number.toExponential(1);
}

/** 0.2 s, 41 s, 4 min, 3 h 5 min, 2 d 4 h. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return UNKNOWN;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 99.5) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return `${Math.floor(minutes / 1440)} d ${Math.floor((minutes % 1440) / 60)} h`;
}

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

/** 14:02:11 in the reader's time zone, of Unix seconds. */
export function time(seconds) {
  return clock.format(new Date(seconds * 1000));
}
