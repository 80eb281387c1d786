// The page of a leaf: the conversation from the prompt to its end.

const leafState = { colouring: "none" };

async function leafPage(main, step, place, number_) {
  const prompt = await promptData(step, place);
  const leaf = leafOf(prompt, number_);
  const base = `#/step/${step}/prompt/${place}`;
  const talk = el("div", { class: "talk" });
  const draw = () => talk.replaceChildren(...conversation(prompt, leaf));
  const siblings = prompt.leaves.filter((other) => other !== leaf && sharedSegments(other, leaf) > 0);
  main.append(el("h1", {}, `Leaf ${leaf.number} `, rewardChip(leaf.reward, prompt.range)),
    facts([["advantage", signed(meanAdvantage(leaf))], ["stopped", leaf.stop_reason], ["tokens", number(tokensOf(prompt, leaf))],
      ["excluded", leaf.is_excluded ? "yes" : ""], ["top-up", leaf.is_top_up ? "yes" : ""], ["replayed of step", leaf.replayed_step],
      ["reward took", leaf.reward_times ? seconds(leaf.reward_times[1] - leaf.reward_times[0]) : ""],
      ...Object.entries(leaf.parts).map(([name, value]) => [name, typeof value === "number" ? number(value) : String(value)]),
      ...Object.entries(leaf.signals).map(([name, value]) => [name, JSON.stringify(value)])], "across"),
    el("div", { class: "controls" }, colouringChoice(leafState.colouring, (chosen) => { leafState.colouring = chosen; draw(); }), copyButton(leaf, "Copy leaf as JSON"),
      siblings.length ? el("span", {}, "Side by side with ", siblings.map((other) => [link(`${base}/compare/${leaf.number}/${other.number}`, `leaf ${other.number}`), " "])) : null),
    talk);
  draw();
}

function leafOf(prompt, number_) {
  const leaf = prompt.leaves.find((one) => one.number === number_);
  if (!leaf) throw new Error(`There is no leaf ${number_} of this prompt; it has ${prompt.leaves.map((one) => one.number).join(", ")}.`);
  return leaf;
}

function conversation(prompt, leaf) {
  const turns = [turn("prompt", "Prompt", null, [segmentText({ ...prompt, lengths: "", is_sampled: false }, "none")], true)];
  let tokens = 0;
  leaf.segments.forEach((number_, depth) => {
    const decision = leaf.decisions.find((one) => one.fork_token === tokens) || leaf.refusals.find((one) => one.fork_token === tokens);
    if (depth && leaf.fork_token === tokens) turns.push(el("p", { class: "mark forked" }, `Forked from leaf ${leaf.parent} here.`));
    if (decision) turns.push(markOf(decision));
    const segment = prompt.segments[number_];
    tokens += segment.tokens;
    const about = [segment.tokens ? count(segment.tokens, "token") : null, segment.times ? seconds(segment.times[1] - segment.times[0]) : null,
      typeof leaf.advantages[depth] === "number" ? `A ${signed(leaf.advantages[depth])}` : null];
    const text = segmentText(segment, leafState.colouring, leaf.advantages[depth]);
    turns.push(turn(segment.is_sampled ? "assistant" : "tool", segment.is_sampled ? "Model" : "Tool", about, [segment.calls.map(callLine), text], segment.is_sampled || [...segment.text].length < 2000));
  });
  return turns;
}

function turn(kind, role, about, content, isOpen) {
  return el("details", { class: `turn ${kind}`, open: isOpen }, el("summary", {}, el("strong", {}, role), " ", el("span", { class: "muted" }, (about || []).filter(Boolean).join(" · "))), content);
}

function markOf(one) {
  if (one.reason) return el("p", { class: "mark refused" }, `Could not fork: ${explained(one.reason)}.`);
  const said = one.entropy_change === null || one.entropy_change === undefined ? "" : `ΔH ${signed(one.entropy_change)}. `;
  return el("p", { class: one.forks ? "mark forked" : "mark stayed" }, said, decisionInWords(one));
}
