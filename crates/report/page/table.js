// Tables that headings sort, and bars in rows.

// columns: [{ name, about, value: (row) => number | string | null, show, share }]; the first one
// names the row. `show` makes the cell's content of the value, which is null where it is undefined;
// `share` fills the cell from the left.
function sortableTable(caption, columns, rows) {
  const body = make("tbody", {});
  const headings = columns.map((column) => make("th", { scope: "col", title: column.about }));
  const lines = rows.map((row) => ({ row, line: tableLine(columns, row) }));
  const sort = (index, direction) => {
    headings.forEach((heading, other) => {
      if (other === index) heading.setAttribute("aria-sort", direction < 0 ? "descending" : "ascending");
      else heading.removeAttribute("aria-sort");
    });
    const { value } = columns[index];
    lines.sort((a, b) => compare(value(a.row), value(b.row), direction));
    body.append(...lines.map(({ line }) => line));
  };
  headings.forEach((heading, index) => {
    const click = () => {
      const isName = index === 0;
      const was = heading.getAttribute("aria-sort");
      // Names begin with A, numbers with the largest.
      const direction = was ? (was === "ascending" ? -1 : 1) : isName ? 1 : -1;
      sort(index, direction);
    };
    heading.append(make("button", { type: "button", onclick: click }, columns[index].name));
  });
  body.append(...lines.map(({ line }) => line));
  const table = make("table", { class: "sortable", "aria-label": caption }, make("thead", {}, make("tr", {}, ...headings)), body);
  return scrolling(caption, table);
}

// A wide or long table scrolls by itself, with the keyboard too.
function scrolling(label, table) {
  return make("div", { class: "scroll tall", tabindex: 0, role: "region", "aria-label": label }, table);
}

function tableLine(columns, row) {
  const cells = columns.map((column, index) => {
    const value = column.value(row);
    const shown = column.show ? column.show(value, row) : value;
    if (index === 0) return make("th", { scope: "row", title: value }, shown);
    const share = column.share && isNumber(value) ? Math.min(value, 1) : null;
    const bar = share === null ? {} : { class: "bar", style: `--share: ${(100 * share).toFixed(1)}%` };
    return make("td", bar, shown);
  });
  return make("tr", {}, ...cells);
}

// What is undefined comes last, whichever way the table is sorted.
function compare(a, b, direction) {
  if (typeof a === "string") return direction * a.localeCompare(b, "en", { numeric: true });
  if (!isNumber(a) || !isNumber(b)) return isNumber(b) - isNumber(a);
  return direction * (a - b);
}

// bars: [{ name, value, shown, about }], as long as their share of the largest.
function barRows(bars) {
  const largest = Math.max(...bars.map(({ value }) => (isNumber(value) ? value : 0)), 1e-9);
  const root = make("div", { class: "bars" });
  for (const { name, value, shown, about } of bars) {
    const width = isNumber(value) ? (100 * Math.max(value, 0)) / largest : 0;
    root.append(
      make("span", {}, name),
      make("div", { class: "track" }, make("div", { class: "fill", style: `width: ${width.toFixed(1)}%` })),
      make("span", {}, shown),
    );
    if (about) root.append(make("p", { class: "about" }, about));
  }
  return root;
}

function tiles(entries) {
  const tile = ([label, value, note]) =>
    make(
      "div",
      { class: "tile" },
      make("div", { class: "label" }, label),
      make("div", { class: "value" }, value),
      note ? make("div", { class: "note" }, note) : null,
    );
  return make("div", { class: "tiles" }, ...entries.map(tile));
}
