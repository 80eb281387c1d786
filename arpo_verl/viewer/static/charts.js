// Small charts of a number by step, in SVG. Each has its numbers in a title for every point, and a table elsewhere.

const CHART = { width: 320, height: 120, left: 44, right: 10, top: 10, bottom: 22 };

function chart(title, steps, lines, format = number) {
  const figure = el("figure", { class: "chart" }, el("figcaption", {}, title));
  const values = lines.flatMap((line) => steps.map(line.value)).filter((value) => value !== null && value !== undefined);
  if (!values.length) {
    figure.append(el("p", { class: "muted" }, "no values"));
    return figure;
  }
  const [low, high] = bounds(values);
  const x = (index) => CHART.left + (steps.length === 1 ? 0.5 : index / (steps.length - 1)) * (CHART.width - CHART.left - CHART.right);
  const y = (value) => CHART.height - CHART.bottom - ((value - low) / (high - low)) * (CHART.height - CHART.top - CHART.bottom);
  const picture = svg("svg", { viewBox: `0 0 ${CHART.width} ${CHART.height}`, role: "img", "aria-label": `${title} by step` });
  for (const value of [low, (low + high) / 2, high]) {
    picture.append(
      svg("line", { class: "grid", x1: CHART.left, x2: CHART.width - CHART.right, y1: y(value), y2: y(value) }),
      svg("text", { class: "axis", x: CHART.left - 6, y: y(value) + 3, "text-anchor": "end" }, format(value)));
  }
  for (const index of steps.length > 1 ? [0, steps.length - 1] : [0]) {
    picture.append(svg("text", { class: "axis", x: x(index), y: CHART.height - 6, "text-anchor": "middle" }, String(steps[index].step)));
  }
  lines.forEach((line, kind) => drawLine(picture, steps, line, kind, x, y, format));
  figure.append(picture);
  if (lines.length > 1) {
    figure.append(el("p", { class: "legend" }, lines.map((line, kind) => el("span", { class: `series-${kind}` }, line.name))));
  }
  return figure;
}

function drawLine(picture, steps, line, kind, x, y, format) {
  const points = steps.map((step, index) => [step, index, line.value(step)]).filter(([, , value]) => value !== null && value !== undefined);
  const path = points.map(([, index, value]) => `${x(index).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
  picture.append(svg("polyline", { class: `line series-${kind}`, points: path }));
  for (const [step, index, value] of points) {
    picture.append(svg("a", { href: `#/step/${step.step}`, tabindex: "-1" },
      svg("circle", { class: `dot series-${kind}`, cx: x(index), cy: y(value), r: steps.length > 60 ? 1.5 : 3 },
        svg("title", {}, `step ${step.step}: ${line.name} ${format(value)}`))));
  }
}

function bounds(values) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  if (low === high) return [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
  return [low, high];
}

// Return a bar whose parts are shares of a whole, with their names and numbers.
function shares(counts) {
  const total = Object.values(counts).reduce((sum, one) => sum + one, 0);
  const bar = el("span", { class: "shares", title: Object.entries(counts).map(([name, size]) => `${name}: ${size}`).join("\n") });
  for (const [name, size] of Object.entries(counts)) {
    bar.append(el("span", { class: `stop-${name.replace(/[^a-z_]/g, "")}`, style: { flexGrow: String(size / total) } }));
  }
  return bar;
}
