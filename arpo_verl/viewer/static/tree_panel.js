// What is said beside the tree of the node that is chosen.

function fillPanel(panel, title, ...content) {
  panel.replaceChildren(el("h2", {}, title));
  append(panel, content);
}

function showPrompt(panel, prompt) {
  fillPanel(panel, "Prompt", facts([["id", prompt.uid], ["dataset", prompt.source], ["answer", prompt.truth === null || prompt.truth === undefined ? "" : JSON.stringify(prompt.truth)]]),
    segmentText({ ...prompt, lengths: "", is_sampled: false }, "none"));
}

function showSegment(panel, prompt, bar, base) {
  const { segment, lane } = bar;
  const users = prompt.leaves.filter((leaf) => leaf.segments.includes(segment.index));
  const span = segment.times ? `${seconds(segment.times[1] - segment.times[0])}, from ${seconds(segment.times[0])} on` : "";
  fillPanel(panel, segment.is_sampled ? "Sampled tokens" : "Tool result",
    facts([["leaf", link(`${base}/leaf/${lane.leaf.number}`, String(lane.leaf.number))], ["shared by", users.length > 1 ? users.map((leaf) => leaf.number).join(", ") : ""],
      ["tokens", number(segment.tokens)], ["time", span], ["waited", segment.waited ? seconds(segment.waited) : ""],
      ["weights", segment.weight_versions ? [...new Set(segment.weight_versions)].join(" to ") : ""],
      ["advantage", segment.is_sampled && lane.leaf.advantages.length ? (bar.advantage === null ? "not in the loss" : signed(bar.advantage)) : ""],
      ["watched H", segment.watched.length ? `${number(average(segment.watched))} = mean of ${segment.watched.map((one) => number(one, 2)).join(", ")}` : ""]]),
    segment.calls.map(callLine),
    segment.is_sampled ? colouringChoice(treeState.colouring, (chosen) => { treeState.colouring = chosen; showSegment(panel, prompt, bar, base); }) : null,
    segmentText(segment, treeState.colouring, bar.advantage));
}

const average = (values) => values.reduce((sum, one) => sum + one, 0) / values.length;

function showPoint(panel, prompt, point) {
  const { one, kind, lane } = point;
  if (kind === "refusal") {
    fillPanel(panel, "Could not fork", facts([["leaf", lane.leaf.number], ["at token", number(one.fork_token)], ["reason", one.reason]]),
      el("p", {}, `The rule was not asked: ${explained(one.reason)}.`));
    return;
  }
  const root = prompt.segments[lane.leaf.segments[0]];
  const initial = root && root.watched.length ? average(root.watched) : null;
  const title = one.forks ? `Forked ${one.forks === 1 ? "once" : `${one.forks} times`}` : "Did not fork";
  fillPanel(panel, title, facts([["leaf", lane.leaf.number], ["at token", number(one.fork_token)], ["H of the root", number(initial)], ["H here", number(one.entropy)],
    ["ΔH", signed(one.entropy_change)], ["score P", number(one.branch_score)], ["P of a fork", number(one.fork_probability)], ["round", one.round], ["rank score", one.score === undefined ? "" : number(one.score)],
    ["draws", (one.draws || []).map((draw) => number(draw)).join(", ")], ["limit", one.limit]]),
    drawsPicture(one), el("p", {}, decisionInWords(one)),
    one.branch_score === null || one.branch_score === undefined ? null : el("p", { class: "note" }, "H is the mean over the watched tokens. ΔH is the sum of their H less that of the root's, over the logarithm of the vocabulary's size; P is α + β ΔH."),
    one.features ? facts(Object.entries(one.features).map(([name, value]) => [name, number(value)])) : null);
}

function decisionInWords(one) {
  const score = one.branch_score;
  const draws = one.draws || [];
  if (score !== null && score !== undefined && draws.length) {
    const below = draws.filter((draw) => draw < score).length;
    const said = `${below} of ${count(draws.length, "draw")} ${below === 1 ? "is" : "are"} below P = ${number(score)}`;
    return below > one.forks ? `${said}, but ${explained(one.limit)}.` : `${said}: ${count(one.forks, "fork")}.`;
  }
  return `${count(one.forks, "fork")}: ${explained(one.limit)}.`;
}

// Draw P and the numbers that were drawn on the line from 0 to 1.
function drawsPicture(one) {
  const score = one.branch_score;
  const draws = one.draws || [];
  if (score === null || score === undefined || !draws.length) return null;
  const x = (value) => 10 + Math.min(1, Math.max(0, value)) * 280;
  return svg("svg", { class: "draws", viewBox: "0 0 300 46", role: "img", "aria-label": "Draws and P between 0 and 1" },
    svg("rect", { class: "chance", x: x(0), y: 14, width: x(score) - x(0), height: 10, rx: 2 }), svg("rect", { class: "rest", x: x(score), y: 14, width: x(1) - x(score), height: 10, rx: 2 }),
    draws.map((draw) => svg("line", { class: draw < score ? "draw below" : "draw", x1: x(draw), x2: x(draw), y1: 8, y2: 30 })),
    svg("text", { x: x(0), y: 43, "text-anchor": "start" }, "0"), svg("text", { x: x(1), y: 43, "text-anchor": "end" }, "1"),
    svg("text", { x: x(score), y: 43, "text-anchor": "middle" }, `P ${number(score, 2)}`));
}

function showLeaf(panel, prompt, leaf, base) {
  const parts = Object.entries(leaf.parts).map(([name, value]) => [name, typeof value === "number" ? number(value) : String(value)]);
  fillPanel(panel, `Leaf ${leaf.number}`, el("p", {}, rewardChip(leaf.reward, prompt.range, "reward "), " ", link(`${base}/leaf/${leaf.number}`, "Read it")),
    facts([["advantage", signed(meanAdvantage(leaf))], ["stopped", leaf.stop_reason], ["from", leaf.parent === null ? "the prompt" : link(`${base}/compare/${leaf.parent}/${leaf.number}`, `leaf ${leaf.parent}, side by side`)],
      ["tokens", number(tokensOf(prompt, leaf))], ["in the cache", leaf.requested_tokens ? percent((leaf.cached_tokens || 0) / leaf.requested_tokens) : ""], ["replayed of step", leaf.replayed_step], ...parts]));
}
