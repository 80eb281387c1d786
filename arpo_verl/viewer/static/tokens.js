// Texts of segments, token by token where they are coloured. The characters that stand for numbers are those of
// arpo_verl/record/token_values.py.

const LEVELS = 90;
const LARGEST = 20;
const LONGEST_TEXT = 20000;
const levelOf = new Map();
for (let code = 35, level = 0; code < 127; code++) if (code !== 92) levelOf.set(String.fromCharCode(code), level++);

const unpacked = (text) => [...text].map((one) => (levelOf.has(one) ? LARGEST * (levelOf.get(one) / LEVELS) ** 2 : null));

// Return the tokens of a segment with their texts; lengths are counted in characters, not in UTF-16.
function tokensIn(segment) {
  const characters = [...segment.text];
  const lengths = segment.lengths ? [...segment.lengths].map((one) => levelOf.get(one)) : characters.map(() => 1);
  let place = 0;
  return lengths.map((length, index) => {
    const begin = place;
    place = index === lengths.length - 1 ? characters.length : place + length;
    return characters.slice(begin, place).join("");
  });
}

const COLOURINGS = {
  none: "none",
  entropies: "entropy",
  log_probs: "−log probability",
  advantage: "advantage",
  trained: "in the loss",
};

// Return a segment's text; `leaf` and `advantage` colour a whole segment, entropies and log-probabilities each token.
function segmentText(segment, colouring, advantage) {
  const box = el("div", { class: "text", dir: "ltr" });
  const values = colouring === "entropies" || colouring === "log_probs" ? unpacked(segment[colouring]) : [];
  if (values.length) {
    appendTokens(box, segment, values, COLOURINGS[colouring]);
    return box;
  }
  if (segment.is_sampled && colouring === "advantage" && typeof advantage === "number") {
    box.classList.add(advantage < 0 ? "below" : "above");
    box.style.setProperty("--strength", Math.min(1, Math.abs(advantage) / 2).toFixed(3));
  }
  if (colouring === "trained") box.classList.add(typeof advantage === "number" ? "in-loss" : "not-in-loss");
  appendFolded(box, segment);
  return box;
}

function appendTokens(box, segment, values, name) {
  const special = specialStarts(segment);
  let place = 0;
  tokensIn(segment).forEach((text, index) => {
    const value = values[index];
    const token = el("span", { class: special.has(place) ? "token special" : "token", title: `${name} ${number(value, 2)}` }, text);
    if (value !== null && value !== undefined) token.style.setProperty("--level", Math.min(1, value / 4).toFixed(3));
    box.append(token);
    place += [...text].length;
  });
}

const specialStarts = (segment) => new Set(segment.special.map(([begin]) => begin));

// Append a text with its special tokens as chips; a very long one is folded.
function appendFolded(box, segment) {
  const characters = [...segment.text];
  if (characters.length > LONGEST_TEXT) {
    const rest = el("button", { type: "button", class: "quiet" }, `Show all ${number(characters.length)} characters`);
    rest.addEventListener("click", () => {
      box.replaceChildren();
      appendSpecial(box, characters, segment.special);
    });
    appendSpecial(box, characters.slice(0, LONGEST_TEXT), segment.special.filter(([, end]) => end <= LONGEST_TEXT));
    box.append("… ", rest);
    return;
  }
  appendSpecial(box, characters, segment.special);
}

function appendSpecial(box, characters, special) {
  let end = 0;
  for (const [begin, behind] of special) {
    append(box, [characters.slice(end, begin).join("")]);
    box.append(el("span", { class: "special" }, characters.slice(begin, behind).join("")));
    end = behind;
  }
  append(box, [characters.slice(end).join("")]);
}

// Return a control that chooses the colouring, and calls back.
function colouringChoice(chosen, onChange) {
  const select = el("select", { id: "colouring", change: (event) => onChange(event.target.value) });
  for (const [value, label] of Object.entries(COLOURINGS)) {
    select.append(el("option", { value, selected: value === chosen }, label));
  }
  return el("label", { class: "choice" }, "Colour by ", select);
}

function callLine(call) {
  const isFailed = !["ok", "empty"].includes(call.status);
  const details = [
    seconds(call.seconds),
    call.waited ? `waited ${seconds(call.waited)}` : null,
    call.retries ? `${call.retries} retried` : null,
    call.is_cached === undefined || call.is_cached === null ? null : call.is_cached ? "from the cache" : "not cached",
    call.cost ? `cost ${number(call.cost, 5)}` : null,
  ];
  return el("div", { class: isFailed ? "call failed" : "call" },
    el("strong", {}, call.tool), " ", el("span", { class: "status" }, call.status), " ",
    el("span", { class: "muted" }, details.filter(Boolean).join(" · ")),
    call.arguments.trim() ? el("pre", {}, call.arguments.trim()) : null);
}
