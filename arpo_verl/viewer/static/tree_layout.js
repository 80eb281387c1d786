// Where everything of a tree stands: a lane for each leaf, below the leaf that it forked from; a shared prefix once, in the
// lane of the leaf that sampled it.

const LANE = 58;
const BAR = 22;
const TURN_WIDTHS = [86, 170];
const SHORTEST_BAR = 3;

// Return the lanes in order. A fork stands below its parent, later forks first, so that no line crosses a bar.
function lanesOf(prompt) {
  const byNumber = new Map(prompt.leaves.map((leaf) => [leaf.number, leaf]));
  const childrenOf = new Map();
  const roots = [];
  for (const leaf of prompt.leaves) {
    const parent = leaf.parent !== null && leaf.parent < leaf.number ? byNumber.get(leaf.parent) : undefined;
    if (parent === undefined) roots.push(leaf);
    else childrenOf.set(parent.number, [...(childrenOf.get(parent.number) || []), leaf]);
  }
  const lanes = [];
  const visit = (leaf, parentLane) => {
    const lane = { leaf, row: lanes.length, parent: parentLane, shared: parentLane ? sharedSegments(leaf, parentLane.leaf) : 0 };
    lanes.push(lane);
    const forks = (childrenOf.get(leaf.number) || []).map((child) => [sharedSegments(child, leaf), child]);
    forks.sort((a, b) => b[0] - a[0] || a[1].number - b[1].number);
    for (const [, child] of forks) visit(child, lane);
  };
  for (const root of roots) visit(root, null);
  return lanes;
}

function sharedSegments(leaf, other) {
  let depth = 0;
  while (depth < leaf.segments.length && leaf.segments[depth] === other.segments[depth]) depth++;
  return depth;
}

// Return the bars, the fork points and the ends of a tree with their places in pixels.
function layoutOf(prompt, isByTokens, width) {
  const lanes = lanesOf(prompt);
  const longest = Math.max(1, ...prompt.leaves.map((leaf) => tokensOf(prompt, leaf)));
  const left = 96;
  const room = Math.max(320, width - left - 170);
  const deepest = Math.max(1, ...prompt.leaves.map((leaf) => leaf.segments.length));
  const turnWidth = Math.min(TURN_WIDTHS[1], Math.max(TURN_WIDTHS[0], room / deepest));
  const place = (tokens, depth) => left + (isByTokens ? (tokens / longest) * room : depth * turnWidth);
  const bars = [];
  const points = [];
  const ends = [];
  for (const lane of lanes) {
    lane.y = 40 + lane.row * LANE;
    let tokens = 0;
    const byToken = new Map([[0, 0]]);
    lane.leaf.segments.forEach((number, depth) => {
      const segment = prompt.segments[number];
      const bar = { lane, segment, depth, x: place(tokens, depth), advantage: lane.leaf.advantages[depth] };
      tokens += segment.tokens;
      byToken.set(tokens, depth + 1);
      bar.width = Math.max(SHORTEST_BAR, place(tokens, depth + 1) - bar.x - (isByTokens ? 1 : 10));
      if (depth >= lane.shared) bars.push(bar);
      if (depth === lane.shared) lane.x = bar.x;
    });
    lane.end = place(tokens, lane.leaf.segments.length);
    if (lane.x === undefined) lane.x = lane.end;
    ends.push({ lane, x: lane.end });
    for (const [kind, list] of [["decision", lane.leaf.decisions], ["refusal", lane.leaf.refusals]]) {
      for (const one of list) {
        const depth = byToken.get(one.fork_token);
        if (depth !== undefined) points.push({ lane, kind, one, depth, x: place(one.fork_token, depth) - (isByTokens ? 0 : 5) });
      }
    }
  }
  return { lanes, bars, points, ends, left, height: 60 + lanes.length * LANE, width: Math.max(...ends.map((end) => end.x), left) + 150 };
}

// Return the mean entropies of a segment's tokens in as many bins as have room; empty where they are unknown.
function entropyBins(segment, width) {
  const values = unpacked(segment.entropies || segment.log_probs);
  const bins = Math.max(1, Math.min(values.length, Math.floor(width / 4)));
  if (!values.length) return [];
  return Array.from({ length: bins }, (_, bin) => {
    const part = values.slice(Math.floor((bin * values.length) / bins), Math.floor(((bin + 1) * values.length) / bins));
    const known = part.filter((value) => value !== null);
    return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : 0;
  });
}

const LIMITS = {
  coin: "the coins that were drawn said how many",
  branch_factor: "every fork that one point may have was made (arpo.branch_factor)",
  threshold: "the score is not above the threshold",
  no_leaf_missing: "the tree has all its leaves: no place was left",
  tool_cannot_fork: "a tool was called whose state can't be copied",
  failed_call: "a call failed for no fault of the model: what forks below it would be excluded",
  forks_per_turn: "every fork that one turn may have was made",
  rank: "other turns ranked higher",
  draw: "other turns were drawn",
};

const explained = (limit) => LIMITS[limit] || limit;
