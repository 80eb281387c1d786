// The keyboard, and the help that lists it.

const KEYS = [
  ["j  k", "down and up: rows of a table, leaves of a tree, turns of a leaf"],
  ["Enter", "open what is chosen"],
  ["n  p", "next and previous step, prompt or leaf"],
  ["u", "up: from a leaf to its prompt, from there to the step, to the run"],
  ["arrows", "in a tree: from node to node"],
  ["/", "search in a step's texts"],
  ["t", "timeline of the step"],
  ["d", "dark or light"],
  ["?", "this help"],
];

function showHelp() {
  const dialog = document.getElementById("help");
  if (dialog.open) dialog.close();
  else dialog.showModal();
}

function helpDialog() {
  return el("dialog", { id: "help", "aria-labelledby": "help-title" }, el("h2", { id: "help-title" }, "Keyboard"),
    facts(KEYS.map(([keys, what]) => [el("kbd", {}, keys), what])), el("form", { method: "dialog" }, el("button", {}, "Close")));
}

function isTyping(target) {
  return target.closest("input[type=search], textarea, select, dialog[open]") !== null;
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
  const actions = {
    "?": showHelp, d: toggleTheme, j: () => choose(1), k: () => choose(-1), n: () => go(1), p: () => go(-1), u: goUp, "/": goSearch,
    t: () => { if (route().step !== null) location.hash = `#/step/${route().step}/timeline`; },
  };
  const action = actions[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}

const CHOICES = { run: "tbody th a", step: "tbody th a", tree: ".node.end", leaf: ".turn > summary", compare: ".turn > summary", timeline: "main svg a" };

// Move the focus among what the page lists.
function choose(direction) {
  const list = [...document.querySelectorAll(CHOICES[route().page])];
  const here = list.indexOf(document.activeElement);
  const next = here < 0 ? (direction > 0 ? 0 : list.length - 1) : here + direction;
  if (list[next]) list[next].focus();
}

// Go to the next or the previous one of what the page shows.
async function go(direction) {
  const here = route();
  if (here.page === "leaf") {
    const prompt = await promptData(here.step, here.prompt);
    const numbers = lanesOf(prompt).map((lane) => lane.leaf.number);
    const next = numbers[numbers.indexOf(here.leaf) + direction];
    if (next !== undefined) location.hash = `#/step/${here.step}/prompt/${here.prompt}/leaf/${next}`;
  } else if (here.page === "tree") {
    const { prompts } = await stepData(here.step);
    const next = here.prompt + direction;
    if (next >= 0 && next < prompts.length) location.hash = `#/step/${here.step}/prompt/${next}`;
  } else if (here.page === "step" || here.page === "timeline") {
    const numbers = run.steps.map((step) => step.step);
    const next = numbers[numbers.indexOf(here.step) + direction];
    if (next !== undefined) location.hash = here.page === "step" ? `#/step/${next}` : `#/step/${next}/timeline`;
  } else if (run.steps.length) {
    location.hash = `#/step/${run.steps[direction > 0 ? 0 : run.steps.length - 1].step}`;
  }
}

function goUp() {
  const crumbs = document.querySelectorAll("nav a");
  if (crumbs.length) crumbs[crumbs.length - 1].click();
}

function goSearch() {
  const here = route();
  const field = document.getElementById("search");
  if (field) field.focus();
  else if (here.step !== null) {
    location.hash = `#/step/${here.step}`;
    setTimeout(() => document.getElementById("search")?.focus(), 300);
  }
}
