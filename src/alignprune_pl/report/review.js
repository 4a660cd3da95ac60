// The page of a review: a list of the samples, one of them large, and what is decided of it. What is known is in `review`.

const ROW = 72; // pixels, as in the style sheet
const BEYOND = 3; // rows above and below those that are seen
const TALLEST = 8_000_000; // pixels; browsers draw nothing that lies much deeper
const OPTIONS = 40; // of a list to choose from; more are found by typing
const ASKED = "?"; // by a window that was opened, of what the others know
const EVERYTHING = { pair: "", low: 0, high: 1, show: "all" };

const byId = (id) => document.getElementById(id);
const count = new Intl.NumberFormat("en").format;
const percent = (share) => `${count(Math.round(1000 * share) / 10)} %`;

const data = JSON.parse(byId("data").textContent);
byId("data").remove();
const review = new Review(data);
const storeKey = `alignprune-review:${data.dataset}`;
const view = { visible: [], current: null, filter: { ...EVERYTHING }, isNow: false, stored: "", isUnsaved: false };
const list = byId("list");
const windows = otherWindows();
const pool = []; // of the rows that are seen, which are used again as the list is scrolled

/** An element with properties, or with attributes where it has no such property, and children. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** A name, whose direction of writing is its own. */
function named(text, className = "") {
  return make("bdi", { className, dir: "auto" }, text);
}

function tell(text) {
  byId("status").textContent = text;
}

// ---- what is kept ---------------------------------------------------------------------------------------------

/** Keep what is decided, and tell the other windows. */
function persist() {
  keep();
  windows?.postMessage(view.stored);
}

/** Keep it in the browser, beside what another window has kept there. */
function keep() {
  let isKept = true;
  try {
    const there = localStorage.getItem(storeKey) ?? "";
    if (there !== view.stored) review.takeStored(there);
    view.stored = review.stored();
    localStorage.setItem(storeKey, view.stored);
  } catch {
    isKept = false; // not allowed, or full
    view.stored = review.stored();
  }
  byId("warning").hidden = isKept;
  if (!isKept)
    byId("warning").textContent =
      "This browser keeps no decisions (its storage is off or full): export them before you close the page, and import them to go on.";
  view.isUnsaved = !isKept && review.decisions.size > 0;
}

/** Take in what another window tells, and keep it: of two that stored at once, one has overwritten the other. */
function hear(text) {
  if (!review.takeStored(text)) return;
  keep();
  refresh();
}

/** The page's other windows, or null where the browser has no such thing. */
function otherWindows() {
  try {
    const channel = new BroadcastChannel(storeKey);
    channel.addEventListener("message", ({ data: text }) => (text === ASKED ? channel.postMessage(view.stored) : hear(text)));
    return channel;
  } catch {
    return null; // as where it may keep nothing
  }
}

function save(name, type, text) {
  if (![...review.decisions.keys()].some((at) => review.kindOf(at))) return tell("Nothing is decided yet.");
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  review.exported();
  view.isUnsaved = false;
  tell(`${name} has what is decided.`);
}

async function load(file) {
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
  } catch {
    return tell(`${file.name} is no text in UTF-8; give a file of decisions that a page of this run has exported.`);
  }
  try {
    const { count: all, older } = review.read(text);
    persist();
    refresh();
    go(nextOpen(-1));
    const left = older ? ` ${count(older)} of them are no newer than what is here, and change nothing.` : "";
    tell(`${count(all)} decisions are read from ${file.name}.${left}`);
  } catch (error) {
    tell(error.message);
  }
}

// ---- deciding -------------------------------------------------------------------------------------------------

function decide(kind, label = null) {
  const at = view.current;
  if (at === null) return;
  review.decide(at, kind, label);
  persist();
  // Where decisions are looked through, the next one follows; else the next that is left.
  const place = view.visible.indexOf(at);
  const isLookedThrough = !["all", "open"].includes(view.filter.show);
  const next = view.isNow && !isLookedThrough ? null : isLookedThrough ? view.visible[place + 1] : nextOpen(place);
  refresh(next);
  if (next === null) go(nextOpen(-1) ?? at);
  tell(`No. ${data.index[at]}: ${inWords(at)}.${review.progress().open ? "" : " All listed samples are looked at."}`);
}

/** The first sample after a place in the list of which nothing is decided, or the first of all. */
function nextOpen(place) {
  const isOpen = (at) => !review.kindOf(at);
  return view.visible.slice(place + 1).find(isOpen) ?? view.visible.find(isOpen) ?? view.visible[place];
}

function takeBack(changed, nothing) {
  if (!changed) return tell(nothing);
  persist();
  refresh(changed[0]);
  const said = changed.length === 1 ? `No. ${data.index[changed[0]]}: ${inWords(changed[0])}.` : `${count(changed.length)} decisions changed.`;
  tell(changed.length ? said : "Another window has decided since, so that stays.");
}

function inWords(at) {
  const decision = review.decisions.get(at);
  const words = { keep: "kept", junk: "junk", undecided: "undecided", "": "open" };
  return words[review.kindOf(at)] ?? `→ ${data.classes[decision.label]}`;
}

// ---- the list -------------------------------------------------------------------------------------------------

/** Show what passes the filter, with `current` as the sample if it does. */
function refresh(current = view.current) {
  const before = view.visible.indexOf(view.current);
  view.visible = review.listed(view.filter, view.isNow);
  const fallback = view.visible[Math.min(Math.max(before, 0), view.visible.length - 1)];
  for (const row of pool) row.at = null;
  paintProgress();
  fit();
  go(view.visible.includes(current) ? current : (fallback ?? null));
}

/** As many rows as are seen, and some more. */
function fit() {
  const wanted = Math.ceil(list.clientHeight / ROW) + 2 * BEYOND;
  while (pool.length < wanted) {
    const node = make("div", { className: "row", role: "option", id: `row-${pool.length}` });
    const [image, names, facts, mark] = [make("img", { alt: "" }), make("p"), make("p", { className: "soft" }), make("span", { className: "mark" })];
    node.append(image, make("div", {}, names, facts), mark);
    node.addEventListener("click", () => go(pool.find((row) => row.node === node).at));
    pool.push({ node, image, names, facts, mark, at: null });
    list.append(node);
  }
  while (pool.length > wanted) pool.pop().node.remove();
  for (const row of pool) row.at = null;
  paint();
}

/** How far down the list is scrolled, in pixels of rows, of which a very long list has more than it can be high. */
function scale() {
  const height = view.visible.length * ROW;
  return height > TALLEST ? (height - list.clientHeight) / (TALLEST - list.clientHeight) : 1;
}

function paint() {
  byId("space").style.height = `${Math.min(view.visible.length * ROW, TALLEST)}px`;
  byId("none").hidden = view.visible.length > 0;
  byId("none").textContent = data.listed ? "No sample passes the filter." : "No label is suspected of being wrong.";
  const top = list.scrollTop * scale();
  const first = Math.max(0, Math.floor(top / ROW) - BEYOND);
  list.removeAttribute("aria-activedescendant"); // unless the sample is among the rows that are seen
  pool.forEach((row, number) => {
    const ahead = (((number - first) % pool.length) + pool.length) % pool.length;
    const place = first + ahead;
    const at = view.visible[place];
    row.node.hidden = at === undefined;
    if (at === undefined) row.image.removeAttribute("src");
    else if (row.at !== at) fill(row, at, place);
    row.at = at ?? null;
    row.node.style.transform = `translateY(${place * ROW - top + list.scrollTop}px)`;
    row.node.setAttribute("aria-selected", String(at !== undefined && at === view.current));
    if (at !== undefined && at === view.current) list.setAttribute("aria-activedescendant", row.node.id);
  });
}

function fill(row, at, place) {
  const shown = data.shown[at];
  const kind = review.kindOf(at);
  row.node.className = `row${kind ? " done" : ""}${typeof shown === "string" ? "" : " bare"}`;
  row.node.setAttribute("aria-setsize", view.visible.length);
  row.node.setAttribute("aria-posinset", place + 1);
  row.image.hidden = typeof shown !== "string";
  if (row.image.hidden) row.image.removeAttribute("src");
  else setPicture(row.image, shown);
  row.names.replaceChildren(...labelsOf(at));
  const first = shown?.text ?? shown?.numbers?.map((cell) => cell[1]).join("  ") ?? data.path?.[at] ?? "";
  row.facts.replaceChildren([`No. ${data.index[at]}`, ...(data.isTold ? [percent(data.probability[at])] : []), first.slice(0, 80)].filter(Boolean).join(" · "));
  row.mark.className = `mark ${kind}`;
  row.mark.replaceChildren(...(kind ? [named(inWords(at))] : []));
}

function setPicture(image, source) {
  image.className = source.startsWith("data:image/png") ? "small" : ""; // which has every pixel
  image.src = source;
}

function labelsOf(at) {
  const { given, suggested } = review.row(at);
  const names = [named(data.classes[given], "given")];
  return given === suggested ? names : [...names, " → ", named(data.classes[suggested], "suggested")];
}

// ---- the sample -----------------------------------------------------------------------------------------------

/** Make a sample the current one, and bring it into sight. */
function go(at) {
  view.current = at ?? null;
  const place = view.visible.indexOf(view.current);
  if (place >= 0) {
    const top = list.scrollTop * scale();
    const room = list.clientHeight - ROW;
    const wanted = Math.min(Math.max(top, (place + 1) * ROW - room), Math.max(0, (place - 1) * ROW));
    if (wanted !== top) list.scrollTop = wanted / scale();
  }
  paint();
  showSample(place);
}

function step(by) {
  const place = view.visible.indexOf(view.current) + by;
  go(view.visible[Math.min(Math.max(place, 0), view.visible.length - 1)]);
}

function showSample(place) {
  const at = view.current;
  byId("sample").hidden = at === null;
  if (at === null) return;
  const row = review.row(at);
  const [given, suggested] = [data.classes[row.given], data.classes[row.suggested]];
  const decision = review.decisions.get(at);
  const kind = review.kindOf(at);
  byId("picture").replaceChildren(...contentOf(at));
  byId("picture").hidden = data.shown[at] === null;
  byId("sample").className = typeof data.shown[at] === "string" ? "" : "wide";
  byId("labels").replaceChildren(...labelsOf(at));
  const facts = [`No. ${row.index}`, ...(data.isTold ? [`wrong with ${percent(row.probability)}`] : []), `${count(place + 1)} of ${count(view.visible.length)}`];
  byId("facts").replaceChildren(facts.join(" · "), ...(data.path ? [make("br"), named(data.path[at])] : []));
  byId("decided").replaceChildren(...(kind ? ["Decided: ", named(inWords(at))] : []));
  byId("accept").hidden = row.given === row.suggested;
  byId("keep").style.gridColumn = row.given === row.suggested ? "1 / -1" : "";
  byId("accept").querySelector("bdi").textContent = suggested;
  byId("keep").querySelector("bdi").textContent = given;
  const pressed = { accept: kind === "relabel" && decision.label === row.suggested, keep: kind === "keep", junk: kind === "junk", undecided: kind === "undecided" };
  for (const [id, isPressed] of Object.entries(pressed)) byId(id).setAttribute("aria-pressed", String(isPressed));
  byId("undo").disabled = !review.done.length;
  byId("redo").disabled = !review.undone.length;
}

/** What a sample shows: a picture, a text, or numbers by their columns. */
function contentOf(at) {
  const shown = data.shown[at];
  if (shown === null) return [];
  if (typeof shown === "string") {
    const image = make("img", { alt: `Sample ${data.index[at]}, labelled ${data.classes[data.given[at]]}` });
    setPicture(image, shown);
    return [image];
  }
  if (shown.text !== undefined) return [make("blockquote", { dir: "auto", tabIndex: 0 }, shown.text)];
  const cells = shown.numbers.map(([name, value]) => make("div", {}, make("dt", {}, named(name)), make("dd", {}, value)));
  const more = shown.more ? [make("div", { className: "soft" }, `and ${count(shown.more)} more`)] : [];
  return [make("dl", { tabIndex: 0 }, ...cells, ...more)];
}

function paintProgress() {
  const { decided, undecided, wrongLeft, relabel, keep, junk, open } = review.progress();
  const skipped = undecided ? `, ${count(undecided)} undecided` : "";
  const left = data.isTold ? ` · about ${count(Math.round(wrongLeft))} wrong labels left among all ${count(data.index.length)}` : "";
  byId("counts").textContent = `${count(decided)} of ${count(data.listed)} decided${skipped}${left}`;
  byId("progress").value = data.listed ? decided / data.listed : 1;
  const kinds = { all: ["all", data.listed], open: ["left to decide", open], relabel: ["relabelled", relabel], keep: ["kept", keep], junk: ["junk", junk], undecided: ["undecided", undecided] };
  const show = byId("show");
  show.replaceChildren(...Object.entries(kinds).map(([value, [words, number]]) => make("option", { value }, `${words} (${count(number)})`)));
  show.value = view.filter.show;
  const isAll = view.visible.length === data.listed;
  byId("passing").textContent = isAll ? "" : `: ${count(view.visible.length)} of ${count(data.listed)}`;
}
