// What a review knows: the samples, what was decided of them, and the files of decisions. review.js shows it; here nothing
// touches the page. A sample is known by `at`, its place among the rows of the page's data.

// Of the decisions, "none" alone is in no file: it stands for one that was undone, so that no other window brings it back.
const KINDS = ["relabel", "keep", "junk", "undecided", "none"];
const IN_FILES = KINDS.slice(0, 4);
const HEAD = ["version", "dataset", "index", "given_label", "given_name", "decision", "label", "label_name", "decided_at"];

/** How soon a sample is shown in the order "most likely wrong now", the highest first.
 *
 * The probability in log odds, moved by what was found of the same two classes: of `count` decided labels that were expected
 * to be wrong with the mean probability `mean`, `wrong` were. PULL made-up decisions, as expected, keep the first few from
 * deciding. `row` is {given, suggested, probability}; `state` maps pairKey to {count, wrong, expected}.
 */
function priority(row, state) {
  const pair = state.get(pairKey(row.given, row.suggested));
  if (!pair) return logOdds(row.probability);
  const mean = pair.expected / pair.count;
  return logOdds(row.probability) + logOdds((pair.wrong + PULL * mean) / (pair.count + PULL)) - logOdds(mean);
}

const PULL = 100; // tried on people's labels and made ones: 20 to 100 mend as many
const LEAST = 1e-4;

function logOdds(share) {
  const within = Math.min(Math.max(share, LEAST), 1 - LEAST);
  return Math.log(within / (1 - within));
}

function pairKey(given, suggested) {
  return `${given}>${suggested}`;
}

class Review {
  /** `data` is what the page was written with, and `now` the clock. */
  constructor(data, now = Date.now) {
    this.data = data;
    this.now = now;
    this.decisions = new Map(); // at -> {kind, label, time}
    this.inFiles = new Set(); // what a file has told of, whose taking back the next file is to tell as well
    this.places = new Map(data.index.map((index, at) => [index, at]));
    this.expectedWrong = data.probability.reduce((sum, each) => sum + each, 0);
    this.done = []; // steps to undo: each a list of {at, before, after}
    this.undone = [];
  }

  row(at) {
    const { index, given, suggested, probability } = this.data;
    return { at, index: index[at], given: given[at], suggested: suggested[at], probability: probability[at] };
  }

  /** What was decided of a sample: one of IN_FILES, or "" if nothing was. */
  kindOf(at) {
    const kind = this.decisions.get(at)?.kind;
    return kind === undefined || kind === "none" ? "" : kind;
  }

  // ---- deciding -----------------------------------------------------------------------------------------------

  /** Decide of a sample; `label` is the new class of "relabel". The given class as a new one is a label that is kept. */
  decide(at, kind, label = null) {
    const isKept = kind === "relabel" && label === this.data.given[at];
    const before = this.decisions.get(at);
    const after = this.#put(at, { kind: isKept ? "keep" : kind, label: isKept ? null : label });
    this.done.push([{ at, before, after }]);
    this.undone = [];
  }

  /** Take the last step back: the samples that changed, or null if there was no step. */
  undo() {
    return this.#swap(this.done, this.undone, "after", "before");
  }

  redo() {
    return this.#swap(this.undone, this.done, "before", "after");
  }

  #swap(taken, given, from, to) {
    const step = taken.pop();
    if (!step) return null;
    // What another window has decided since stays.
    const changes = step.filter((change) => this.decisions.get(change.at) === change[from]);
    for (const change of changes) {
      const isNone = (change[to]?.kind ?? "none") === "none";
      const none = { kind: this.inFiles.has(change.at) ? "undecided" : "none", label: null };
      change[to] = this.#put(change.at, isNone ? none : change[to]);
    }
    if (changes.length) given.push(changes);
    return changes.map((change) => change.at);
  }

  /** Set a decision, which earlier steps know as this object, with the present as its time. */
  #put(at, decision) {
    decision.time = Math.max(this.now(), (this.decisions.get(at)?.time ?? 0) + 1); // whatever other clocks say
    this.decisions.set(at, decision);
    return decision;
  }

  /** Take decisions from elsewhere, [[at, decision]], where they are newer: the changes. */
  #merge(entries) {
    const changes = [];
    for (const [at, after] of entries) {
      const before = this.decisions.get(at);
      if (before && before.time >= after.time) continue;
      this.decisions.set(at, after);
      changes.push({ at, before, after });
    }
    return changes;
  }

  // ---- what is known of them all ------------------------------------------------------------------------------

  /** How many of the listed samples were decided how, and how many wrong labels are to be expected among all that are left. */
  progress() {
    const counts = { relabel: 0, keep: 0, junk: 0, undecided: 0, decided: 0, open: this.data.listed, wrongLeft: this.expectedWrong };
    for (const at of this.decisions.keys()) {
      const kind = this.kindOf(at);
      if (kind && at < this.data.listed) {
        counts[kind] += 1;
        counts.open -= 1;
        if (kind !== "undecided") counts.decided += 1;
      }
      if (kind && kind !== "undecided") counts.wrongLeft -= this.data.probability[at];
    }
    counts.wrongLeft = Math.max(0, counts.wrongLeft);
    return counts;
  }

  /** What `priority` is told. */
  state() {
    const state = new Map();
    for (const at of this.decisions.keys()) {
      const kind = this.kindOf(at);
      if (!kind || kind === "undecided") continue;
      const key = pairKey(this.data.given[at], this.data.suggested[at]);
      const { count, wrong, expected } = state.get(key) ?? { count: 0, wrong: 0, expected: 0 };
      const isWrong = kind === "keep" ? 0 : 1;
      state.set(key, { count: count + 1, wrong: wrong + isWrong, expected: expected + this.data.probability[at] });
    }
    return state;
  }

  /** The listed samples that a filter lets through, in order.
   *
   * `filter` is {pair, low, high, show}: a key of a pair or "", bounds of the probability, and "all", "open" or a decision.
   * As it is listed, or with `isNow` what was decided in that order, then what is left by its priority, then the undecided.
   */
  listed({ pair, low, high, show }, isNow) {
    const { given, suggested, probability, listed } = this.data;
    const passing = [];
    for (let at = 0; at < listed; at += 1) {
      if (pair && pairKey(given[at], suggested[at]) !== pair) continue;
      if (probability[at] < low || probability[at] > high) continue;
      if (show !== "all" && (this.kindOf(at) || "open") !== show) continue;
      passing.push(at);
    }
    if (!isNow) return passing;
    const state = this.state();
    const rank = new Map(passing.map((at) => [at, { "": 1, undecided: 2 }[this.kindOf(at)] ?? 0]));
    const value = new Map(
      passing.map((at) => [at, rank.get(at) === 1 ? -priority(this.row(at), state) : (this.decisions.get(at)?.time ?? 0)]),
    );
    return passing.sort((a, b) => rank.get(a) - rank.get(b) || value.get(a) - value.get(b) || a - b);
  }

  /** The pairs of the listed samples with how many there are and how many of them are left, the most frequent first. */
  pairs() {
    const { given, suggested, classes, listed } = this.data;
    const found = new Map();
    for (let at = 0; at < listed; at += 1) {
      const key = pairKey(given[at], suggested[at]);
      const name = `${classes[given[at]]} → ${classes[suggested[at]]}`;
      if (!found.has(key)) found.set(key, { value: key, name, count: 0, left: 0 });
      found.get(key).count += 1;
      if (!this.kindOf(at)) found.get(key).left += 1;
    }
    return [...found.values()].sort((a, b) => b.count - a.count);
  }

  // ---- kept in the browser ------------------------------------------------------------------------------------

  stored() {
    const entries = [...this.decisions].map(
      ([at, { kind, label, time }]) => `${this.data.index[at]},${KINDS.indexOf(kind)},${label ?? ""},${time.toString(36)}`,
    );
    return entries.join(";");
  }

  /** Take in what a window has stored; whether anything changed. */
  takeStored(text) {
    const entries = [];
    for (const entry of text.split(";")) {
      const [index, number, label, time] = entry.split(",");
      const at = this.places.get(Number(index));
      const decision = { kind: KINDS[number], label: label ? Number(label) : null, time: parseInt(time, 36) };
      if (at !== undefined && decision.kind && decision.time >= 0) entries.push([at, decision]);
    }
    return this.#merge(entries).length > 0;
  }

  // ---- files --------------------------------------------------------------------------------------------------

  /** The rows of a file: the latest decision of each sample that has one, by index. */
  #records() {
    const { index, given, classes } = this.data;
    return [...this.decisions]
      .filter(([, decision]) => decision.kind !== "none")
      .map(([at, { kind, label, time }]) => ({
        index: index[at],
        given_label: given[at],
        given_name: classes[given[at]],
        decision: kind,
        label,
        label_name: label === null ? null : classes[label],
        decided_at: new Date(time).toISOString(),
      }))
      .sort((a, b) => a.index - b.index);
  }

  csv() {
    const common = { version: this.data.version, dataset: this.data.dataset };
    const rows = this.#records().map((record) => HEAD.map((name) => csvCell({ ...common, ...record }[name])));
    return [HEAD, ...rows].map((row) => `${row.join(",")}\r\n`).join("");
  }

  json() {
    const { version, dataset } = this.data;
    return `${JSON.stringify({ version, dataset, decisions: this.#records() }, null, 1)}\n`;
  }

  /** Note that a file has all that was decided. */
  exported() {
    for (const at of this.decisions.keys()) if (this.kindOf(at)) this.inFiles.add(at);
  }

  /** Take in a file, as one step: how many decisions it has, and how many of them are older than what is here.
   *
   * Throws an Error with a sentence, and takes in nothing, if the file is not one of decisions of this data set.
   */
  read(text) {
    const entries = parsedFile(text, this.data).map((record, number) => this.#checked(record, number + 1));
    if (new Set(entries.map(([at]) => at)).size < entries.length)
      throw new Error("The file names a sample twice, but each index is expected once; export it again.");
    const changes = this.#merge(entries);
    for (const [at] of entries) this.inFiles.add(at);
    if (changes.length) this.done.push(changes);
    if (changes.length) this.undone = [];
    return { count: entries.length, older: entries.length - changes.length };
  }

  #checked(record, number) {
    const refuse = (what) => {
      throw new Error(`Decision ${number} of the file ${what}; export it again from a page of this run.`);
    };
    const { given, classes } = this.data;
    const at = this.places.get(whole(record.index));
    if (at === undefined) refuse(`is of sample ${record.index}, which this run does not have`);
    if (whole(record.given_label) !== given[at])
      refuse(`says that sample ${record.index} is labelled ${record.given_label}, but here it is ${given[at]}`);
    if (!IN_FILES.includes(record.decision))
      refuse(`is "${record.decision}", but ${IN_FILES.join(", ")} are the ones that are known`);
    const isNew = record.decision === "relabel";
    const label = isNew ? whole(record.label) : null;
    if (isNew && !(label >= 0 && label < classes.length))
      refuse(`has the new class ${record.label || "(none)"}, but one from 0 to ${classes.length - 1} is expected`);
    const time = /^\d{4}-\d\d-\d\dT/.test(record.decided_at) ? Date.parse(record.decided_at) : NaN;
    if (Number.isNaN(time)) refuse(`was made at "${record.decided_at}", which is no time`);
    return [at, { kind: record.decision, label, time }];
  }
}

/** A whole number as a file has it, NaN for anything else. */
function whole(value) {
  return /^\d+$/.test(String(value ?? "").trim()) ? Number(value) : NaN;
}

/** The decisions in a file of JSON or CSV, if it is of this version and data set. */
function parsedFile(text, { version, dataset }) {
  const refuse = (what) => {
    throw new Error(`The file ${what}; give a file of decisions that a page of this run has exported.`);
  };
  const content = text.replace(/^\uFEFF/, "");
  let of; // [version, data set] of each decision, or of all
  let records;
  if (content.trimStart().startsWith("{")) {
    let parsed;
    try {
      parsed = JSON.parse(content);
    } catch {
      refuse("cannot be read as JSON");
    }
    if (!Array.isArray(parsed.decisions)) refuse("has no decisions");
    records = parsed.decisions.map((each) => each ?? {});
    of = [[parsed.version, parsed.dataset]];
  } else {
    const [head = [], ...rows] = parsedCsv(content);
    const missing = HEAD.filter((name) => !head.includes(name));
    if (missing.length) refuse(`has no column ${missing.join(", ")}`);
    records = rows.map((row) => Object.fromEntries(head.map((name, column) => [name, row[column] ?? ""])));
    of = records.map((record) => [record.version, record.dataset]);
  }
  for (const [itsVersion, itsDataset] of of) {
    if (whole(itsVersion) !== version) refuse(`is of version ${itsVersion}, but version ${version} is expected`);
    if (itsDataset !== dataset) refuse(`is of another data set or other labels (${itsDataset}) than this page (${dataset})`);
  }
  return records;
}

function csvCell(value) {
  const text = String(value ?? "");
  return /[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** The rows of a CSV file, which a spreadsheet may have saved with semicolons. */
function parsedCsv(text) {
  const separator = text.split("\n", 1)[0].includes(",") ? "," : ";";
  const cell = new RegExp(`(?:"([^"]*(?:""[^"]*)*)"|([^"${separator}\\r\\n][^${separator}\\r\\n]*)?)(${separator}|\\r?\\n|$)`, "y");
  const rows = [[]];
  while (cell.lastIndex < text.length) {
    const found = cell.exec(text);
    if (!found) throw new Error("The file cannot be read as CSV: a quote in it is not closed; export it again.");
    rows.at(-1).push(found[1]?.replaceAll('""', '"') ?? found[2] ?? "");
    if (found[3] !== separator) rows.push([]);
  }
  return rows.filter((row) => row.length > 1 || row[0]);
}

// ---- searching ------------------------------------------------------------------------------------------------

/** Text as a search compares it: without case and accents. */
function folded(text) {
  return text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase().replaceAll("->", "→").trim();
}

/** Of items with a `name` and a `note`, the first `limit` that are called so, and how many are.
 *
 * First comes the one with that name or note, then those whose name has a word that begins so, then those that have it within.
 */
function search(items, query, limit) {
  const wanted = folded(query);
  const ranks = [[], [], []];
  for (const item of items) {
    const name = folded(item.name);
    if (name === wanted || item.note === wanted) ranks[0].push(item);
    else if (name.startsWith(wanted) || name.includes(` ${wanted}`)) ranks[1].push(item);
    else if (name.includes(wanted)) ranks[2].push(item);
  }
  const found = ranks.flat();
  return { found: found.slice(0, limit), count: found.length };
}
