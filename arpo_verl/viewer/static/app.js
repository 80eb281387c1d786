// The frame of all pages: which page an address names, the way to it, the theme, and a run that goes on.

const LOOK_AGAIN = 3000;

// Return what the address names; every prompt and every leaf has one.
function route() {
  const words = location.hash.replace(/^#\/?/, "").split("/").filter(Boolean);
  const numbers = words.map((word) => (/^\d+$/.test(word) ? Number(word) : null));
  const at = (name) => (words.includes(name) ? numbers[words.indexOf(name) + 1] ?? null : null);
  const here = { step: at("step"), prompt: at("prompt"), leaf: at("leaf"), pair: null };
  const compare = words.indexOf("compare");
  if (compare >= 0) here.pair = [numbers[compare + 1] ?? null, numbers[compare + 2] ?? null];
  here.page = here.step === null ? "run" : here.prompt === null ? (words.includes("timeline") ? "timeline" : "step") : here.pair ? "compare" : here.leaf === null ? "tree" : "leaf";
  return here;
}

async function drawPage(main, here) {
  if (here.page === "run") runPage(main);
  if (here.page === "step") await stepPage(main, here.step);
  if (here.page === "timeline") await timelinePage(main, here.step);
  if (here.page === "tree") await treePage(main, here.step, here.prompt);
  if (here.page === "leaf") await leafPage(main, here.step, here.prompt, here.leaf);
  if (here.page === "compare") await comparePage(main, here.step, here.prompt, ...here.pair);
}

let drawn = 0;

async function draw(keepsPlace = false) {
  const here = route();
  const mine = ++drawn;
  const main = el("main", { id: "main", tabindex: "-1" });
  try {
    await showWhere(here);
    const old = document.getElementById("main");
    if (mine !== drawn) return;
    const scroll = window.scrollY;
    if (!keepsPlace) old.replaceWith(main);
    await drawPage(main, here);
    if (mine !== drawn) return;
    if (keepsPlace) document.getElementById("main").replaceWith(main);
    window.scrollTo(0, keepsPlace ? scroll : 0);
  } catch (error) {
    main.append(el("p", { class: "notice", role: "alert" }, error.message));
  }
  main.dataset.ready = "yes";
  document.title = `${[...document.querySelectorAll("nav li")].map((one) => one.textContent).join(" · ")} – arpo-verl view`;
}

function showWhere(here) {
  const crumbs = [[here.page === "run" ? null : "#/", run.name]];
  if (here.step !== null) crumbs.push([here.page === "step" ? null : `#/step/${here.step}`, run.kind === "evaluation" ? "samples" : `step ${here.step}`]);
  if (here.page === "timeline") crumbs.push([null, "time"]);
  if (here.prompt !== null) crumbs.push([here.page === "tree" ? null : `#/step/${here.step}/prompt/${here.prompt}`, `prompt ${here.prompt}`]);
  if (here.leaf !== null) crumbs.push([null, `leaf ${here.leaf}`]);
  if (here.pair) crumbs.push([null, `leaves ${here.pair.join(" and ")}`]);
  const list = el("ol", {}, crumbs.map(([href, text]) => el("li", {}, href ? link(href, text) : el("span", { "aria-current": "page" }, text))));
  document.querySelector("nav").replaceChildren(list);
}

function toggleTheme() {
  const isDark = getComputedStyle(document.documentElement).colorScheme === "dark";
  setTheme(isDark ? "light" : "dark");
  try {
    localStorage.setItem("arpo-verl-theme", isDark ? "light" : "dark");
  } catch { /* a page from disk may keep nothing */ }
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
}

function frame() {
  document.body.append(
    el("a", { class: "skip", href: "#main", click: (event) => { event.preventDefault(); document.getElementById("main").focus(); } }, "Skip to the content"),
    el("header", {}, el("nav", { "aria-label": "Where" }),
      el("div", { class: "buttons" }, run.live ? el("span", { class: "live", id: "live" }, "live") : null,
        el("button", { type: "button", class: "quiet", click: toggleTheme, title: "Dark or light (d)" }, "Theme"),
        el("button", { type: "button", class: "quiet", click: showHelp, title: "Keyboard (?)" }, "?"))),
    el("main", { id: "main", tabindex: "-1" }), el("div", { id: "status", role: "status", class: "offscreen" }), helpDialog());
}

async function follow() {
  const sign = document.getElementById("live");
  try {
    const isNew = await refresh();
    sign.textContent = "live";
    // What somebody reads stays as it is; pages that list what there is are drawn anew.
    if (isNew && ["run", "step"].includes(route().page)) await draw(true);
  } catch {
    sign.textContent = "no answer";
  }
  setTimeout(follow, LOOK_AGAIN);
}

async function start() {
  try {
    const kept = localStorage.getItem("arpo-verl-theme");
    if (kept) setTheme(kept);
  } catch { /* a page from disk may keep nothing */ }
  frame();
  window.addEventListener("hashchange", () => draw());
  document.addEventListener("keydown", onKey);
  document.addEventListener("click", (event) => {
    const row = event.target.closest("tr.goes");
    if (row && !event.target.closest("a, button") && !String(getSelection())) location.hash = row.dataset.href;
  });
  if (run.live) await follow();
  await draw();
}

start();
