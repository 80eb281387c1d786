// What the page knows: the run, and pieces of it, a step or a prompt each, which are unpacked when they are asked for.

const run = JSON.parse(document.getElementById("run").textContent);
const pieces = new Map();
const MOST_PIECES = 64;

async function inflated(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

async function packedPiece(name) {
  if (run.live) {
    const answer = await fetch(name);
    if (!answer.ok) throw new Error(`${name}: ${await answer.text()}`);
    return answer.arrayBuffer();
  }
  const node = document.getElementById(name);
  if (node === null) throw new Error(`There is no ${name.replace(/-/g, " ")} in this page.`);
  const text = atob(node.textContent);
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
  return bytes;
}

// Return a piece, of which the last few are kept.
async function piece(name) {
  if (!pieces.has(name)) {
    if (pieces.size >= MOST_PIECES) pieces.delete(pieces.keys().next().value);
    pieces.set(name, packedPiece(name).then(inflated));
  }
  try {
    return await pieces.get(name);
  } catch (error) {
    pieces.delete(name);
    throw error;
  }
}

const stepData = (step) => piece(`step-${step}`);

// Return a prompt with what its file leaves out because it is a default.
async function promptData(step, place) {
  const prompt = await piece(`prompt-${step}-${place}`);
  if (prompt.isWhole) return prompt;
  prompt.segments = (prompt.segments || []).map((one, index) => ({
    is_sampled: true, waited: 0, special: [], lengths: "", log_probs: "", entropies: "", watched: [], calls: [], ...one, index,
  }));
  prompt.leaves = (prompt.leaves || []).map((one) => ({
    number: 0, segments: [], reward: null, parts: {}, advantages: [], stop_reason: "", parent: null, path: "",
    fork_token: null, decisions: [], refusals: [], signals: {}, ...one,
  }));
  for (const segment of prompt.segments) {
    segment.calls = segment.calls.map((call) => ({ seconds: 0, arguments: "", retries: 0, ...call }));
  }
  prompt.special = prompt.special || [];
  prompt.range = rangeOf(prompt.leaves.map((leaf) => leaf.reward));
  prompt.isWhole = true;
  return prompt;
}

const segmentsOf = (prompt, leaf) => leaf.segments.map((place) => prompt.segments[place]);
const tokensOf = (prompt, leaf) => segmentsOf(prompt, leaf).reduce((sum, one) => sum + one.tokens, 0);

// Ask the server for the run again, and forget pieces of the steps that have changed.
async function refresh() {
  const answer = await fetch("run.json");
  if (!answer.ok) throw new Error(await answer.text());
  const fresh = await answer.json();
  const before = new Map(run.steps.map((step) => [step.step, JSON.stringify(step)]));
  const changed = fresh.steps.filter((step) => before.get(step.step) !== JSON.stringify(step)).map((step) => step.step);
  for (const name of [...pieces.keys()]) if (changed.includes(Number(name.split("-")[1]))) pieces.delete(name);
  run.steps = fresh.steps;
  return changed.length > 0;
}
