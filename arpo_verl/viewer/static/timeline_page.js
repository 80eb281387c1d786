// The page of a step's time: what every leaf did when, and what the step waited for.

const KINDS = { w: ["waiting", "Waiting for others in flight"], g: ["sampling", "Generation"], t: ["tooling", "Tools"], r: ["rewarding", "Reward"] };
const timelineState = { all: false };
const FEW = 40;

async function timelinePage(main, step) {
  const data = await stepData(step);
  const lanes = data.prompts.flatMap((prompt, place) => prompt.leaves.map((leaf) => ({ leaf, place, spans: leaf.spans, end: Math.max(0, ...leaf.spans.map((span) => span[2])) })));
  const busy = lanes.filter((lane) => lane.spans.length).sort((a, b) => b.end - a.end);
  main.append(el("h1", {}, `Step ${step}: time`));
  if (!busy.length) {
    main.append(el("p", { class: "notice" }, "This step has no times."));
    return;
  }
  const area = el("div", { class: "scroll" });
  const draw = () => area.replaceChildren(timelinePicture(busy.slice(0, timelineState.all ? busy.length : FEW), step, area.clientWidth || 1000));
  const all = el("input", { type: "checkbox", id: "all", checked: timelineState.all, change: (event) => { timelineState.all = event.target.checked; draw(); } });
  main.append(el("p", { class: "lead" }, waitedFor(busy, step)), partsBar(data),
    el("div", { class: "controls" }, el("p", { class: "legend" }, Object.values(KINDS).map(([name, label]) => el("span", { class: `key ${name}` }, label))),
      busy.length > FEW ? el("label", { class: "choice" }, all, ` all ${number(busy.length)} leaves, not the last ${FEW} alone`) : null), area);
  draw();
}

// Return what a leaf and its prefix did: of the leaf that it forked from, what had ended when it began.
function wholePath(lane, lanes) {
  const parent = lane.leaf.parent === null || lane.leaf.parent >= lane.leaf.number ? undefined : lanes.find((other) => other.place === lane.place && other.leaf.number === lane.leaf.parent);
  if (!parent || !lane.spans.length) return lane.spans;
  return [...wholePath(parent, lanes).filter((span) => span[2] <= lane.spans[0][1] + 0.002), ...lane.spans];
}

// Say in words which leaf ended last, and where its time went.
function waitedFor(busy, step) {
  const last = busy[0];
  const median = busy[Math.floor(busy.length / 2)].end;
  const sums = { w: 0, g: 0, t: 0, r: 0 };
  for (const [kind, begin, end] of wholePath(last, busy)) sums[kind] += end - begin;
  const parts = Object.entries(sums).filter(([, value]) => value > 0.0005).sort((a, b) => b[1] - a[1]).map(([kind, value]) => `${seconds(value)} ${{ w: "waiting for others", g: "of generation", t: "of tools", r: "of its reward" }[kind]}`);
  return ["The rollout waited for ", link(`#/step/${step}/prompt/${last.place}/leaf/${last.leaf.number}`, `leaf ${last.leaf.number} of prompt ${last.place}`),
    `, which ${beginning(last)} ended after ${seconds(last.end)}: ${parts.join(", ")}. Half of the leaves had ended after ${seconds(median)}.`];
}

// Say when a leaf began that was not there from the beginning.
function beginning(lane) {
  const began = lane.spans[0][1];
  if (lane.leaf.parent !== null) return `forked from leaf ${lane.leaf.parent} after ${seconds(began)} and`;
  return lane.leaf.isTopUp ? `began after ${seconds(began)}, as a top-up in place of forks that could no longer come, and` : "";
}

function partsBar(data) {
  const parts = Object.entries(data.seconds).filter(([name, value]) => value > 0 && name !== "step");
  const total = parts.reduce((sum, [, value]) => sum + value, 0);
  if (!parts.length) return document.createComment("no parts");
  return el("div", { class: "parts", role: "img", "aria-label": `Parts of the step: ${parts.map(([name, value]) => `${name} ${seconds(value)}`).join(", ")}` },
    parts.map(([name, value], index) => el("span", { class: `part series-${index % 6}`, style: { flexGrow: String(value / total) }, title: `${name}: ${seconds(value)}` }, value / total > 0.07 ? `${name} ${seconds(value)}` : "")));
}

function timelinePicture(lanes, step, room) {
  const isNarrow = room < 600;
  const width = Math.max(340, room - 4);
  const left = isNarrow ? 56 : 130;
  const row = lanes.length > 200 ? 8 : 18;
  const last = Math.max(...lanes.map((lane) => lane.end), 0.001);
  const x = (time) => left + (Math.max(0, time) / last) * (width - left - 20);
  const height = 34 + lanes.length * row;
  const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Leaves by the time at which they ended, the last one first" });
  for (let tick = 0; tick <= 5; tick++) {
    const time = (last * tick) / 5;
    picture.append(svg("line", { class: "grid", x1: x(time), x2: x(time), y1: 20, y2: height }), svg("text", { class: "axis", x: x(time), y: 14, "text-anchor": tick ? "middle" : "start" }, seconds(time)));
  }
  lanes.forEach((lane, index) => {
    const y = 28 + index * row;
    const group = svg("a", { href: `#/step/${step}/prompt/${lane.place}/leaf/${lane.leaf.number}`, "aria-label": `Leaf ${lane.leaf.number} of prompt ${lane.place}, ended after ${seconds(lane.end)}` });
    if (row > 10) group.append(svg("text", { class: "axis", x: left - 8, y: y + 10, "text-anchor": "end" }, isNarrow ? `${lane.place} / ${lane.leaf.number}` : `prompt ${lane.place}, leaf ${lane.leaf.number}`));
    for (const [kind, begin, end] of lane.spans) {
      group.append(svg("rect", { class: `span ${KINDS[kind][0]}`, x: x(begin), y, width: Math.max(1, x(end) - x(begin)), height: row - 5, rx: 2 }, svg("title", {}, `${KINDS[kind][1]}: ${seconds(end - begin)}`)));
    }
    picture.append(group);
  });
  return picture;
}
