// The page of a step: its prompts in a table that can be sorted and filtered.

const COLUMNS = [
  { name: "#", key: (row) => row.place },
  { name: "question", key: (row) => row.question, isText: true },
  { name: "rewards", key: (row) => row.mean },
  { name: "mean", key: (row) => row.mean },
  { name: "spread", key: (row) => row.spread },
  { name: "forks", key: (row) => row.forks },
  { name: "top-ups", key: (row) => row.topUps },
  { name: "calls", key: (row) => row.calls },
  { name: "failed", key: (row) => row.failed },
  { name: "excluded", key: (row) => row.excluded },
  { name: "stopped", key: (row) => row.stops.completed || 0 },
];
const tableState = { sort: 0, isDown: false, reward: "all", status: "all", stop: "all", excluded: "all", search: "" };
const REWARDS = { all: "any", mixed: "differ", equal: "all the same", high: "some at the highest", low: "all at the lowest" };

async function stepPage(main, step) {
  const data = await stepData(step);
  const rows = data.prompts.map((prompt, place) => ({ ...prompt, place }));
  main.append(el("h1", {}, run.kind === "evaluation" ? "Samples" : `Step ${step}`), stepLead(data, step));
  for (const text of [...data.problems, ...data.alarms]) main.append(el("p", { class: "notice" }, text));
  const body = el("tbody", {});
  const shown = el("p", { class: "muted", role: "status" });
  const range = rangeOf(rows.flatMap((row) => row.rewards));
  const draw = () => {
    const kept = sorted(rows.filter((row) => isKept(row, range)));
    fillRows(body, kept.map((row) => () => promptRow(row, step, range)));
    shown.textContent = kept.length === rows.length ? count(rows.length, "prompt") : `${number(kept.length)} of ${count(rows.length, "prompt")}`;
  };
  main.append(filterBar(rows, step, draw), shown, el("div", { class: "scroll" }, el("table", { class: "prompts" }, tableHead(draw), body)));
  draw();
}

const ROWS_AT_ONCE = 80;

// Fill a table, the first rows at once and the others when there is time.
function fillRows(body, makers) {
  const turn_ = (body.turn = {});
  body.replaceChildren();
  const more = (from) => {
    if (body.turn !== turn_) return;
    body.append(...makers.slice(from, from + ROWS_AT_ONCE).map((make) => make()));
    if (from + ROWS_AT_ONCE < makers.length) setTimeout(() => more(from + ROWS_AT_ONCE), 0);
  };
  more(0);
}

function stepLead(data, step) {
  const parts = Object.entries(data.seconds).map(([name, value]) => `${name} ${seconds(value)}`);
  const when = data.began ? new Date(data.began * 1000).toLocaleString() : null;
  return el("p", { class: "lead" }, data.prompts.some((prompt) => prompt.leaves.some((leaf) => leaf.spans.length)) ? [link(`#/step/${step}/timeline`, "Timeline: what the step waited for"), " "] : null,
    el("span", { class: "muted" }, [when, ...parts].filter(Boolean).join(" · ")));
}

function tableHead(draw) {
  const cells = COLUMNS.map((column, index) => {
    const cell = el("th", { scope: "col", class: column.isText && "words" });
    cell.append(el("button", { type: "button", class: "sort", click: () => {
      tableState.isDown = tableState.sort === index ? !tableState.isDown : !column.isText && index > 0;
      tableState.sort = index;
      mark();
      draw();
    } }, column.name));
    return cell;
  });
  const mark = () => cells.forEach((cell, index) => cell.setAttribute("aria-sort", index !== tableState.sort ? "none" : tableState.isDown ? "descending" : "ascending"));
  mark();
  return el("thead", {}, el("tr", {}, cells));
}

function sorted(rows) {
  const { key } = COLUMNS[tableState.sort];
  const order = (a, b) => (typeof a === "string" ? a.localeCompare(b) : (a ?? -Infinity) - (b ?? -Infinity));
  return rows.sort((a, b) => (tableState.isDown ? order(key(b), key(a)) : order(key(a), key(b))) || a.place - b.place);
}

function isKept(row, range) {
  const known = row.rewards.filter((reward) => reward !== null);
  const kinds = {
    all: true, mixed: new Set(known).size > 1, equal: new Set(known).size === 1,
    high: known.includes(range[1]), low: known.length > 0 && known.every((reward) => reward === range[0]),
  };
  const { reward, status, stop, excluded, search, found } = tableState;
  return kinds[reward] && (status === "all" || status in row.statuses) && (stop === "all" || stop in row.stops) &&
    (excluded === "all" || (excluded === "some") === row.excluded > 0) && (!search || (found || new Set()).has(row.place));
}

function filterBar(rows, step, draw) {
  const names = (field) => ["all", ...new Set(rows.flatMap((row) => Object.keys(row[field])))];
  const select = (field, label, options) => el("label", { class: "choice" }, `${label} `,
    el("select", { id: `filter-${field}`, change: (event) => { tableState[field] = event.target.value; draw(); } },
      Object.entries(options).map(([value, text]) => el("option", { value, selected: tableState[field] === value }, text))));
  const named = (list) => Object.fromEntries(list.map((name) => [name, name === "all" ? "any" : name]));
  for (const [field, list] of [["status", names("statuses")], ["stop", names("stops")]]) {
    if (!list.includes(tableState[field])) tableState[field] = "all";
  }
  const search = el("input", { id: "search", type: "search", placeholder: "in prompts and leaves", "aria-label": "Search in the texts of prompts and leaves" });
  search.value = tableState.search;
  const look = async () => {
    tableState.search = search.value.trim().toLowerCase();
    tableState.found = tableState.search ? await placesWith(tableState.search, rows, step) : null;
    draw();
  };
  search.addEventListener("change", look);
  if (tableState.search) look();
  return el("form", { class: "filters", role: "search", submit: (event) => { event.preventDefault(); look(); } },
    select("reward", "Rewards", REWARDS), select("status", "Tool status", named(names("statuses"))),
    select("stop", "Stop reason", named(names("stops"))), select("excluded", "Excluded", { all: "any", some: "some", none: "none" }),
    el("label", { class: "choice" }, "Text ", search));
}

// Return the places of the prompts whose texts hold what is looked for.
async function placesWith(text, rows, step) {
  const found = new Set();
  for (const row of rows) {
    announce(`Searching: ${row.place + 1} of ${rows.length}`);
    const prompt = await promptData(step, row.place);
    const texts = [prompt.uid, prompt.text, ...prompt.segments.map((segment) => segment.text)];
    if (texts.some((one) => one.toLowerCase().includes(text))) found.add(row.place);
  }
  announce(`${found.size} found.`);
  return found;
}

function promptRow(row, step, range) {
  const href = `#/step/${step}/prompt/${row.place}`;
  return el("tr", { class: "goes", "data-href": href },
    el("th", { scope: "row" }, link(href, String(row.place))),
    el("td", { class: "question" }, row.question),
    el("td", {}, el("span", { class: "dots", "aria-label": row.rewards.map((reward) => number(reward)).join(", ") }, row.rewards.map((reward) => rewardDot(reward, range)))),
    [row.mean, row.spread].map((value) => el("td", {}, number(value))),
    [row.forks, row.topUps, row.calls, row.failed, row.excluded].map((value) => el("td", { class: value ? "" : "muted" }, number(value))),
    el("td", { class: "wide" }, shares(row.stops)));
}

function rewardDot(reward, range) {
  const dot = el("span", { class: reward === null ? "dot unknown" : "dot", title: number(reward) });
  dot.style.setProperty("--share", (reward !== null && range[1] > range[0] ? (reward - range[0]) / (range[1] - range[0]) : 0.5).toFixed(3));
  return dot;
}
