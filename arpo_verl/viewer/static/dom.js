// Builds elements. Text gets into the page as text alone: nothing here, or anywhere, parses HTML.

const SVG = "http://www.w3.org/2000/svg";

// Return an element; attributes that are null or false are left out, functions become listeners of events.
function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else if (name === "style") Object.assign(node.style, value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  append(node, children);
  return node;
}

function append(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : visible(String(child)));
  }
}

// Characters that show nothing, or that change how their neighbours are shown: controls but for line feed and tab, marks of
// direction, blanks without width, and halves of surrogate pairs.
const HIDDEN = new RegExp(
  "[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u00ad\\u061c\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb]" +
    "|[\\u{e0000}-\\u{e007f}]",
  "gu"
);

// Return a text with hidden characters written as ⟨U+202E⟩.
function visible(text) {
  return text.replace(HIDDEN, (one) => `⟨U+${one.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
}

function number(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : value.toFixed(digits).replace(/\.?0+$/, "");
}

function signed(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  const size = number(Math.abs(value), digits);
  return size === "0" ? "0" : `${value < 0 ? "−" : "+"}${size}`;
}

function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  return value < 120 ? `${value.toFixed(1)} s` : `${(value / 60).toFixed(1)} min`;
}

function percent(value) {
  return value === null || value === undefined ? "–" : `${Math.round(value * 100)} %`;
}

function count(size, word, plural = `${word}s`) {
  return `${number(size)} ${size === 1 ? word : plural}`;
}

// Return a list of terms with what belongs to them; pairs without a value are left out.
function facts(pairs, kind = "") {
  const kept = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return el("dl", { class: `facts ${kind}` }, kept.map(([term, value]) => el("div", {}, el("dt", {}, term), el("dd", {}, value))));
}

function link(href, ...children) {
  return el("a", { href }, ...children);
}

// Return a chip in the colour of a reward between the lowest and the highest one.
function rewardChip(reward, range, label = "") {
  const known = reward !== null && reward !== undefined;
  const share = known && range[1] > range[0] ? (reward - range[0]) / (range[1] - range[0]) : 0.5;
  const chip = el("span", { class: known ? "reward" : "reward unknown" }, `${label}${known ? number(reward) : "no reward"}`);
  if (known) chip.style.setProperty("--share", share.toFixed(3));
  return chip;
}

function rangeOf(values) {
  const known = values.filter((value) => value !== null && value !== undefined);
  return known.length ? [Math.min(...known, 0), Math.max(...known, 0)] : [0, 0];
}

// Return a button that puts a value as JSON into the clipboard.
function copyButton(value, label = "Copy as JSON") {
  const button = el("button", { type: "button", class: "quiet" }, label);
  button.addEventListener("click", async () => {
    const text = JSON.stringify(value, null, 2);
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      copyBySelection(text);
    }
    announce("Copied.");
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = label), 1200);
  });
  return button;
}

// A page that was opened from disk may not have a clipboard of its own.
function copyBySelection(text) {
  const area = el("textarea", { class: "offscreen", "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

function announce(text) {
  document.getElementById("status").textContent = text;
}
