// The page of a run: how its steps went, and what was to be said of them.

function runPage(main) {
  const steps = run.steps;
  main.append(el("h1", {}, run.kind === "evaluation" ? "Evaluation " : "Run ", run.name), el("p", { class: "muted path" }, run.path));
  if (!steps.length) {
    main.append(el("p", { class: "notice" }, run.live ? "Nothing has been recorded so far. This page looks again every few seconds." : "No step has been recorded."));
    return;
  }
  if (run.kind === "run") main.append(el("section", { class: "charts", "aria-label": "Charts" }, runCharts(steps)));
  append(main, [alarmList(steps), stepTable(steps)]);
}

function runCharts(steps) {
  const of = (name, label = name) => ({ name: label, value: (step) => step[name] });
  return [
    chart("Mean reward", steps, [of("reward", "reward")]),
    chart("Spread of rewards within a prompt", steps, [of("spread", "standard deviation")]),
    chart("Tool calls, failed ones below", steps, [of("calls", "calls"), of("failed", "failed")]),
    chart("Sampled tokens", steps, [of("tokens", "tokens")]),
    chart("Entropy, first tokens", steps, [of("initial", "of a root"), of("after", "after a tool result")]),
    chart("Forks and top-ups", steps, [of("forks", "forks"), of("topUps", "top-ups")]),
    chart("Leaves that did not complete", steps, [{ name: "share", value: (step) => 1 - (step.stops.completed || 0) / (step.leaves || 1) }], percent),
    chart("Seconds, all and generation", steps, [
      { name: "step", value: (step) => Object.keys(step.seconds).length ? stepSeconds(step) : null },
      { name: "generation", value: (step) => step.seconds.gen },
    ]),
  ];
}

const stepSeconds = (step) => step.seconds.step || Object.values(step.seconds).reduce((sum, one) => sum + one, 0);

function alarmList(steps) {
  const found = steps.flatMap((step) => [...step.problems, ...step.alarms].map((text) => [step.step, text]));
  if (!found.length) return null;
  const list = el("ul", {}, found.slice(0, 200).map(([step, text]) => el("li", {}, link(`#/step/${step}`, `step ${step}`), " ", text)));
  return el("section", { class: "alarms", "aria-labelledby": "alarms" }, el("h2", { id: "alarms" }, `Alarms (${found.length})`), list);
}

function stepTable(steps) {
  const head = ["step", "prompts", "leaves", "reward", "spread", "calls", "failed", "tokens", "shared", "forks", "top-ups", "excluded", "stopped"];
  const rows = steps.map((step) => el("tr", { class: "goes", "data-href": `#/step/${step.step}` },
    el("th", { scope: "row" }, link(`#/step/${step.step}`, String(step.step))),
    [step.prompts, step.leaves].map((value) => el("td", {}, number(value))),
    [step.reward, step.spread].map((value) => el("td", {}, number(value))),
    el("td", {}, number(step.calls)),
    el("td", { title: Object.entries(step.statuses).map(([name, size]) => `${name}: ${size}`).join("\n") }, number(step.failed)),
    el("td", {}, number(step.tokens)), el("td", {}, percent(step.shared)),
    [step.forks, step.topUps, step.excluded].map((value) => el("td", {}, number(value))),
    el("td", { class: "wide" }, shares(step.stops))));
  return el("section", { "aria-labelledby": "steps" }, el("h2", { id: "steps" }, "Steps"),
    el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, head.map((name) => el("th", { scope: "col" }, name)))), el("tbody", {}, rows))));
}
