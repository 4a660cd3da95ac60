// The controls of the page: buttons, keys, filters, and lists to choose from.

/** A field in which typing narrows down a list: `items()` have a name and perhaps a note, and `pick(item)` is told which. */
function combobox(input, box, items, pick) {
  let found = [];
  let active = 0;
  const close = () => {
    box.hidden = true;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  };
  const choose = (item) => {
    close();
    if (item) pick(item);
  };
  const mark = (number) => {
    active = number;
    [...box.querySelectorAll(".option")].forEach((option, place) => {
      option.setAttribute("aria-selected", String(place === active));
      if (place === active) option.scrollIntoView({ block: "nearest" });
    });
    if (found.length) input.setAttribute("aria-activedescendant", `${box.id}-${active}`);
  };
  const place = ({ left, top, bottom, width }) => {
    const isAbove = top > innerHeight - bottom; // where there is more room
    const wide = Math.min(Math.max(width, 260), innerWidth - 16);
    box.style.left = `${Math.min(left, innerWidth - 8 - wide)}px`;
    box.style.width = `${wide}px`;
    box.style.maxHeight = `${Math.min(360, (isAbove ? top : innerHeight - bottom) - 12)}px`;
    [box.style.top, box.style.bottom] = isAbove ? ["auto", `${innerHeight - top + 4}px`] : [`${bottom + 4}px`, "auto"];
  };
  const open = () => {
    const result = search(items(), input.value, OPTIONS);
    found = result.found;
    const options = found.map((item, number) => {
      const note = item.note ? [make("small", {}, item.note)] : [];
      const option = make("span", { className: "option", role: "option", id: `${box.id}-${number}` }, named(item.name), ...note);
      option.addEventListener("pointerdown", (event) => event.preventDefault()); // the field keeps the focus
      option.addEventListener("click", (event) => {
        event.preventDefault();
        choose(item);
      });
      return option;
    });
    const rest = result.count - found.length;
    const words = rest ? `and ${count(rest)} more: type to find them` : found.length ? "" : "nothing is called so";
    box.replaceChildren(...options, ...(words ? [make("p", { className: "soft" }, words)] : []));
    box.hidden = false;
    place(input.getBoundingClientRect());
    input.setAttribute("aria-expanded", "true");
    mark(0);
  };
  input.addEventListener("focus", () => input.select());
  input.addEventListener("click", open);
  input.addEventListener("input", open);
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (by && box.hidden) open();
    else if (by && found.length) mark((active + by + found.length) % found.length);
    else if (event.key === "Enter") choose(box.hidden ? null : found[active]);
    else if (event.key === "Escape" && !box.hidden) {
      close();
      event.stopPropagation();
    } else return;
    event.preventDefault();
  });
  return open;
}

const classNames = data.classes.map((name, value) => ({ name, value, note: String(value) }));
const openClasses = combobox(byId("class"), byId("classes"), () => classNames, ({ value }) => {
  list.focus();
  decide("relabel", value);
});
const pairItems = () => review.pairs().map((pair) => ({ ...pair, note: `${count(pair.count)}, ${count(pair.left)} left` }));
const openPairs = combobox(byId("pair"), byId("pairs"), pairItems, ({ value, name }) => {
  byId("pair").value = name;
  filter({ pair: value });
});

function filter(changes) {
  Object.assign(view.filter, changes);
  refresh();
}

function clearFilter() {
  for (const id of ["pair", "low", "high"]) byId(id).value = "";
  filter({ ...EVERYTHING });
}

/** A bound as a share: the first number, or what there is without one. */
function share(id, otherwise) {
  const number = byId(id).valueAsNumber;
  return Number.isNaN(number) ? otherwise : number / 100;
}

const actions = {
  accept: () => view.current !== null && decide("relabel", data.suggested[view.current]),
  keep: () => decide("keep"),
  junk: () => decide("junk"),
  undecided: () => decide("undecided"),
  undo: () => takeBack(review.undo(), "There is nothing to undo."),
  redo: () => takeBack(review.redo(), "There is nothing to do again."),
  previous: () => step(-1),
  next: () => step(1),
  help: () => byId("keys").showModal(),
  clear: clearFilter,
  csv: () => save(`decisions-${data.dataset}.csv`, "text/csv", review.csv()),
  json: () => save(`decisions-${data.dataset}.json`, "application/json", review.json()),
  import: () => byId("file").click(),
};
for (const [id, does] of Object.entries(actions)) byId(id).addEventListener("click", does);

function toField(id, open) {
  byId("filters").open ||= id === "pair";
  byId(id).focus();
  open();
}

const keys = {
  a: actions.accept, k: actions.keep, x: actions.junk, u: actions.undecided, z: actions.undo, y: actions.redo,
  n: actions.next, p: actions.previous, ArrowDown: actions.next, ArrowUp: actions.previous, "?": actions.help,
  c: () => toField("class", openClasses), "/": () => toField("class", openClasses), f: () => toField("pair", openPairs),
};
const inList = {
  Enter: actions.accept,
  Home: () => step(-view.visible.length),
  End: () => step(view.visible.length),
  PageDown: () => step(Math.max(1, Math.floor(list.clientHeight / ROW) - 1)),
  PageUp: () => step(-Math.max(1, Math.floor(list.clientHeight / ROW) - 1)),
};

document.addEventListener("keydown", (event) => {
  if (byId("keys").open || event.altKey || event.isComposing) return;
  if (event.key === "Escape") return list.focus();
  if (event.target.closest("input, select")) return;
  if (event.key.startsWith("Arrow") && event.target.closest("#picture")) return; // which scrolls a long text
  // On a keyboard of another script a letter is where it is on one of Latin letters.
  const letter = event.key.length === 1 && event.key > "~" ? event.code.replace("Key", "") : event.key;
  const key = letter.length === 1 ? letter.toLowerCase() : letter;
  const isInList = [list, document.body].includes(event.target);
  let does = keys[key] ?? (isInList ? inList[key] : undefined);
  if (event.ctrlKey || event.metaKey) does = { z: event.shiftKey ? actions.redo : actions.undo, y: actions.redo }[key];
  if (!does) return;
  event.preventDefault();
  does();
});

byId("file").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  if (file) await load(file);
  event.target.value = ""; // the same file may be given again
});
byId("pair").addEventListener("input", () => byId("pair").value === "" && filter({ pair: "" }));
byId("class").addEventListener("blur", () => {
  byId("class").value = "";
});
byId("pair").addEventListener("blur", () => {
  byId("pair").value = review.pairs().find((pair) => pair.value === view.filter.pair)?.name ?? "";
});
for (const id of ["low", "high"])
  byId(id).addEventListener("input", () => filter({ low: share("low", 0), high: share("high", 1) }));
byId("show").addEventListener("change", (event) => filter({ show: event.target.value }));
byId("order").addEventListener("change", (event) => {
  view.isNow = event.target.value === "now";
  refresh();
  go(nextOpen(-1));
});

let isPainting = false;
list.addEventListener("scroll", () => {
  if (!isPainting) requestAnimationFrame(() => {
    isPainting = false;
    paint();
  });
  isPainting = true;
});
new ResizeObserver(fit).observe(list);
window.addEventListener("storage", ({ key, newValue }) => key === storeKey && newValue && hear(newValue));
window.addEventListener("beforeunload", (event) => view.isUnsaved && event.preventDefault());

byId("filters").open = matchMedia("(min-width: 761px) and (min-height: 600px)").matches;
keep();
windows?.postMessage(ASKED);
refresh();
go(nextOpen(-1));
list.focus({ preventScroll: true });
