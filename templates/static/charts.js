// Small charts of the last ten minutes, drawn as an SVG path. The same as app/page/charts.py.

const POINTS = 120, HEIGHT = 28; // of the view box, which is a point less wide
const TOP = 1.5; // free above the highest value, so that a line is not cut

/** `values`: oldest first, the last is now; null where one is unknown. `highest`: that of the scale; null: of the values. */
export function chart(name, now, values, highest) {
  const scale = highest || Math.max(0, ...values.filter((value) => value !== null)) || 1;
  return { key: name, chart: name, now, line: linePath(values, scale), area: areaPath(values, scale) };
}

function linePath(values, highest) {
  return runs(values, highest).map((points) => `M${points.join("L")}${points.length === 1 ? "h.01" : ""}`).join("");
}

function areaPath(values, highest) {
  return runs(values, highest)
    .map((points) => `M${points[0].split(",")[0]},${HEIGHT}L${points.join("L")}V${HEIGHT}Z`)
    .join("");
}

/** The points of each run of known values. */
function runs(values, highest) {
  const found = [[]];
  values.forEach((value, number) => {
    if (value === null) found.push([]);
    else {
      const y = HEIGHT - (HEIGHT - TOP) * Math.min(1, value / highest);
      found.at(-1).push(`${number + POINTS - values.length},${y.toFixed(1)}`);
    }
  });
  return found.filter((run) => run.length);
}
