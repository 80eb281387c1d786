// The page of two leaves of a prompt, side by side from where they part.

async function comparePage(main, step, place, first, second) {
  const prompt = await promptData(step, place);
  const pair = [leafOf(prompt, first), leafOf(prompt, second)];
  const base = `#/step/${step}/prompt/${place}`;
  const shared = sharedSegments(...pair);
  const tokens = pair[0].segments.slice(0, shared).reduce((sum, number_) => sum + prompt.segments[number_].tokens, 0);
  const texts = pair.map((leaf) => leaf.segments.slice(shared).map((number_) => prompt.segments[number_].text).join(""));
  main.append(el("h1", {}, `Leaves ${first} and ${second}`),
    el("p", { class: "lead muted" }, shared ? `They share ${count(shared, "segment")}, ${count(tokens, "token")}, and part at token ${number(tokens)}. After that the first ${number(commonLength(...texts))} characters are the same.` : "They share the prompt alone."),
    el("div", { class: "pair" }, pair.map((leaf) => side(prompt, leaf, shared, base))));
}

function commonLength(a, b) {
  let length = 0;
  while (length < a.length && a[length] === b[length]) length++;
  return length;
}

function side(prompt, leaf, shared, base) {
  const turns = leaf.segments.slice(shared).map((number_, index) => {
    const segment = prompt.segments[number_];
    const advantage = leaf.advantages[shared + index];
    return turn(segment.is_sampled ? "assistant" : "tool", segment.is_sampled ? "Model" : "Tool",
      [count(segment.tokens, "token"), typeof advantage === "number" ? `A ${signed(advantage)}` : null],
      [segment.calls.map(callLine), segmentText(segment, "none", advantage)], true);
  });
  return el("section", { "aria-label": `Leaf ${leaf.number}` }, el("h2", {}, link(`${base}/leaf/${leaf.number}`, `Leaf ${leaf.number}`), " ", rewardChip(leaf.reward, prompt.range)),
    el("p", { class: "muted" }, [leaf.stop_reason, `A ${signed(meanAdvantage(leaf))}`].filter(Boolean).join(" · ")), turns.length ? turns : el("p", { class: "muted" }, "It ends where they part."));
}
