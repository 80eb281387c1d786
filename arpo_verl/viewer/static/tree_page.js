// The page of a prompt: its tree, with every place where it forked or could have, and what stands in each node.

const treeState = { isByTokens: false, colouring: "none" };

async function treePage(main, step, place) {
  const prompt = await promptData(step, place);
  const base = `#/step/${step}/prompt/${place}`;
  const panel = el("aside", { class: "panel", "aria-label": "Details", tabindex: "-1" });
  const drawing = el("div", { class: "tree scroll", tabindex: "0", role: "group", "aria-label": "Tree of rollouts; arrow keys move between its nodes" });
  const redraw = () => drawTree(drawing, panel, prompt, base);
  main.append(el("h1", {}, `Prompt ${place}`), promptLead(prompt), treeControls(prompt, redraw),
    el("div", { class: "split" }, drawing, panel), leafTable(prompt, base));
  redraw();
  showPrompt(panel, prompt);
}

function promptLead(prompt) {
  const rewards = prompt.leaves.map((leaf) => leaf.reward).filter((reward) => reward !== null);
  const forks = prompt.leaves.filter((leaf) => leaf.parent !== null).length;
  const words = [count(prompt.leaves.length, "leaf", "leaves"), count(forks, "fork"),
    count(prompt.segments.flatMap((segment) => segment.calls).length, "call"),
    rewards.length ? `rewards ${number(Math.min(...rewards))} to ${number(Math.max(...rewards))}` : null, prompt.source];
  return el("p", { class: "lead muted" }, words.filter(Boolean).join(" · "));
}

function treeControls(prompt, redraw) {
  const mode = el("select", { id: "scale", change: (event) => { treeState.isByTokens = event.target.value === "tokens"; redraw(); } },
    el("option", { value: "turns", selected: !treeState.isByTokens }, "a column a turn"),
    el("option", { value: "tokens", selected: treeState.isByTokens }, "tokens"));
  return el("div", { class: "controls" }, el("label", { class: "choice" }, "Scale ", mode), copyButton(prompt, "Copy prompt as JSON"),
    el("p", { class: "legend tree-legend" },
      el("span", { class: "key sampled" }, "sampled"), el("span", { class: "key result" }, "tool result"),
      el("span", { class: "key forked" }, "forked"), el("span", { class: "key stayed" }, "decided not to fork"),
      el("span", { class: "key refused" }, "could not fork"), el("span", { class: "key heat" }, "entropy along the tokens")));
}

function drawTree(drawing, panel, prompt, base) {
  const layout = layoutOf(prompt, treeState.isByTokens, drawing.clientWidth || 900);
  const picture = svg("svg", { width: layout.width, height: layout.height, viewBox: `0 0 ${layout.width} ${layout.height}`, role: "presentation" });
  const nodes = [];
  const node = (group, about) => {
    const select = () => {
      picture.querySelectorAll(".selected").forEach((other) => other.classList.remove("selected"));
      group.classList.add("selected");
      about.show();
    };
    group.addEventListener("click", select);
    group.addEventListener("focus", select);
    nodes.push({ group, ...about });
    picture.append(group);
  };
  drawLines(picture, layout);
  node(promptNode(layout), { x: 0, y: layout.lanes.length ? layout.lanes[0].y : 0, show: () => showPrompt(panel, prompt) });
  for (const bar of layout.bars) {
    node(barNode(bar), { x: bar.x, y: bar.lane.y, show: () => showSegment(panel, prompt, bar, base) });
  }
  for (const point of layout.points) {
    node(pointNode(point), { x: point.x, y: point.lane.y, show: () => showPoint(panel, prompt, point) });
  }
  for (const end of layout.ends) {
    node(endNode(end, prompt), { x: end.x + 1, y: end.lane.y, show: () => showLeaf(panel, prompt, end.lane.leaf, base), href: `${base}/leaf/${end.lane.leaf.number}` });
  }
  drawing.replaceChildren(picture);
  drawing.onkeydown = (event) => moveInTree(event, nodes);
}

function drawLines(picture, layout) {
  const { lanes, left } = layout;
  const roots = lanes.filter((lane) => lane.parent === null);
  for (const lane of roots) {
    const first = roots[0];
    picture.append(svg("path", { class: "edge", d: lane === first ? `M${left - 22} ${lane.y}H${left}` : `M${left - 22} ${first.y}V${lane.y - 8}q0 8 8 8H${left}` }));
  }
  for (const lane of lanes) {
    if (lane.parent !== null) {
      const x = lane.x - (treeState.isByTokens ? 1 : 5);
      picture.append(svg("path", { class: "edge fork", d: `M${x} ${lane.parent.y}V${lane.y - 8}q0 8 6 8H${lane.x + 2}` }));
    }
    picture.append(svg("path", { class: "edge", d: `M${lane.x} ${lane.y}H${lane.end + 8}` }));
  }
}

function promptNode(layout) {
  const y = layout.lanes.length ? layout.lanes[0].y : 40;
  return svg("g", { class: "node prompt", tabindex: "0", role: "button", "aria-label": "Prompt" },
    svg("rect", { x: 4, y: y - 15, width: 70, height: 30, rx: 15 }), svg("text", { x: 39, y: y + 4, "text-anchor": "middle" }, "prompt"));
}

function barNode(bar) {
  const { segment, lane, x, width } = bar;
  const failed = segment.calls.some((call) => !["ok", "empty"].includes(call.status));
  const kind = segment.is_sampled ? "sampled" : failed ? "result failed" : "result";
  const group = svg("g", { class: `node ${kind}`, tabindex: "0", role: "button", "aria-label": barLabel(segment, lane) },
    svg("rect", { x, y: lane.y - BAR / 2, width, height: BAR, rx: Math.min(5, width / 2) }));
  const bins = segment.is_sampled ? entropyBins(segment, width) : [];
  const step = (width - 4) / (bins.length || 1);
  bins.forEach((value, index) => {
    const cell = svg("rect", { class: "heat", x: x + 2 + index * step, y: lane.y + BAR / 2 - 5, width: Math.max(0.5, step - 0.4), height: 3 });
    cell.style.opacity = Math.min(1, value / 2).toFixed(2);
    group.append(cell);
  });
  const room = Math.floor((width - 12) / 6.3);
  if (room > 2) group.append(svg("text", { class: "label", x: x + 6, y: lane.y + (bins.length ? 1 : 4) }, shortened(snippet(segment), room)));
  return group;
}

function snippet(segment) {
  if (!segment.is_sampled) return segment.calls.map((call) => `${call.tool}: ${call.status}`).join(", ") || "result";
  return segment.text.replace(/<\|?\/?[\w|]+>/g, " ").replace(/\s+/g, " ").trim() || segment.text.trim() || "(nothing)";
}

function shortened(text, room) {
  const characters = [...text];
  return characters.length <= room ? text : `${characters.slice(0, room - 1).join("")}…`;
}

const barLabel = (segment, lane) => `${segment.is_sampled ? "Sampled" : "Tool result"}, leaf ${lane.leaf.number}, ${segment.tokens} tokens: ${shortened(visible(snippet(segment)), 80)}`;

function pointNode(point) {
  const { one, x, lane, kind } = point;
  const forks = kind === "decision" ? one.forks : 0;
  const group = svg("g", { class: `node point ${kind === "refusal" ? "refused" : forks ? "forked" : "stayed"}`, tabindex: "0", role: "button", "aria-label": pointLabel(point) });
  group.append(svg("circle", { cx: x, cy: lane.y, r: 6 }));
  if (forks > 1) group.append(svg("text", { class: "forks", x, y: lane.y + 3.5, "text-anchor": "middle" }, String(forks)));
  if (kind === "refusal") group.append(svg("path", { d: `M${x - 3} ${lane.y - 3}l6 6m0 -6l-6 6` }));
  if (kind === "decision" && !treeState.isByTokens) group.append(svg("text", { class: "said", x, y: lane.y - 15, "text-anchor": "middle" }, pointNumbers(one)));
  return group;
}

// Return what a decision was based on, in a few letters.
function pointNumbers(one) {
  const isThere = (value) => value !== null && value !== undefined;
  const parts = [isThere(one.entropy_change) ? `ΔH ${signed(one.entropy_change, 2)}` : null, isThere(one.branch_score) ? `P ${number(one.branch_score, 2)}` : null,
    isThere(one.score) ? `score ${number(one.score, 2)}` : null];
  return parts.filter(Boolean).join(" · ");
}

function pointLabel(point) {
  const { one, kind, lane } = point;
  if (kind === "refusal") return `Leaf ${lane.leaf.number} could not fork: ${explained(one.reason)}`;
  return `Leaf ${lane.leaf.number} ${one.forks ? `forked ${one.forks} times` : "did not fork"}, ΔH ${signed(one.entropy_change)}`;
}

function endNode(end, prompt) {
  const { leaf } = end.lane;
  const { y } = end.lane;
  const [low, high] = prompt.range;
  const group = svg("g", { class: "node end", tabindex: "0", role: "button", "aria-label": `End of leaf ${leaf.number}: reward ${number(leaf.reward)}, ${leaf.stop_reason}` });
  const chip = svg("rect", { class: leaf.reward === null ? "chip unknown" : "chip", x: end.x + 8, y: y - 11, width: 54, height: 22, rx: 11 });
  chip.style.setProperty("--share", (leaf.reward !== null && high > low ? (leaf.reward - low) / (high - low) : 0.5).toFixed(3));
  group.append(chip, svg("text", { class: "chip-text", x: end.x + 35, y: y + 4, "text-anchor": "middle" }, leaf.reward === null ? "none" : number(leaf.reward, 2)));
  const notes = [leaf.is_excluded ? "excluded" : null, leaf.is_top_up ? "top-up" : null, leaf.stop_reason && leaf.stop_reason !== "completed" ? leaf.stop_reason : null, leaf.replayed_step === undefined ? null : "replayed"];
  group.append(svg("text", { class: "said", x: end.x + 68, y: y - 1 }, `leaf ${leaf.number}  A ${signed(meanAdvantage(leaf), 2)}`),
    svg("text", { class: "said", x: end.x + 68, y: y + 11 }, notes.filter(Boolean).join(", ")));
  return group;
}

function meanAdvantage(leaf) {
  const known = leaf.advantages.filter((value) => typeof value === "number");
  return known.length ? known[known.length - 1] : null;
}

// Move the focus to the nearest node in the direction of an arrow.
function moveInTree(event, nodes) {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  const here = nodes.find((one) => one.group === document.activeElement) || null;
  if (event.key === "Enter" && here && here.href) location.hash = here.href;
  if (!step) return;
  event.preventDefault();
  if (here === null) {
    nodes[0].group.focus();
    return;
  }
  const distance = (one) => {
    const [dx, dy] = [one.x - here.x, one.y - here.y];
    const along = dx * step[0] + dy * step[1];
    const across = Math.abs(dx * step[1]) + Math.abs(dy * step[0]);
    return along > 0 ? along + 3 * across : Infinity;
  };
  const next = nodes.reduce((best, one) => (distance(one) < distance(best) ? one : best), here);
  if (next !== here) next.group.focus();
}

function leafTable(prompt, base) {
  const head = ["leaf", "from", "reward", "advantage", "tokens", "calls", "stopped", "text"];
  const rows = prompt.leaves.map((leaf) => {
    const segments = segmentsOf(prompt, leaf);
    const last = segments.length ? snippet(segments[segments.length - 1]) : "";
    const from = leaf.parent === null ? (leaf.is_top_up ? "prompt, as a top-up" : "prompt") : link(`${base}/compare/${leaf.parent}/${leaf.number}`, `leaf ${leaf.parent} at ${leaf.fork_token}`);
    return el("tr", { class: "goes", "data-href": `${base}/leaf/${leaf.number}` }, el("th", { scope: "row" }, link(`${base}/leaf/${leaf.number}`, String(leaf.number))), el("td", {}, from),
      el("td", {}, rewardChip(leaf.reward, prompt.range)), el("td", {}, signed(meanAdvantage(leaf))), el("td", {}, number(tokensOf(prompt, leaf))),
      el("td", {}, number(segments.flatMap((one) => one.calls).length)), el("td", {}, leaf.stop_reason, leaf.is_excluded ? " (excluded)" : ""), el("td", { class: "question" }, shortened(last, 200)));
  });
  return el("section", { "aria-labelledby": "leaves" }, el("h2", { id: "leaves" }, "Leaves"),
    el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, head.map((name) => el("th", { scope: "col", class: name === "text" && "words" }, name)))), el("tbody", {}, rows))));
}
