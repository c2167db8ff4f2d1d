// Which class is taken for which.

function showConfusion() {
  const confusion = data.analysis?.confusion;
  const classes = confusion?.names.length ?? 0;
  if (classes === 0) return empty("confusion", "No evaluation with classes yet.");
  const host = make("div", {});
  const confused = confusedClasses(confusion);
  const every = confusion.names.map((_, index) => index);
  const draw = (onlyConfused) => {
    const shown = onlyConfused ? every.filter((index) => confused.has(index)) : every;
    host.replaceChildren(scrolling("Confusion matrix", matrix(confusion, shown)));
  };
  const toggle = checkbox("only classes that are confused", false, draw);
  content("confusion").append(
    make("p", { class: "muted" }, `Detections with a score of at least ${metric(data.analysis.score)}.`),
    make("div", { class: "controls" }, toggle),
    host,
    frequent(confusion),
  );
  draw(false);
}

// Classes that are taken for another one, or that another one is taken for.
function confusedClasses({ names, counts }) {
  const found = new Set();
  for (let object = 0; object < names.length; object++) {
    for (let taken = 0; taken < names.length; taken++) {
      if (object !== taken && counts[object][taken] > 0) found.add(object).add(taken);
    }
  }
  return found;
}

function matrix({ names, counts }, shown) {
  const last = names.length;
  const columns = [...shown, last];
  const heading = (index) =>
    index === last
      ? make("th", { scope: "col", class: "apart" }, make("span", {}, "not found"))
      : make("th", { scope: "col", title: names[index] }, make("span", {}, names[index]));
  const row = (object) => {
    const name = object === last ? "no object" : names[object];
    const total = counts[object].reduce((sum, times) => sum + times, 0);
    const cells = columns.map((taken) =>
      object === last && taken === last ? make("td", {}) : cell(counts[object][taken], total, name, names[taken]),
    );
    return make("tr", {}, make("th", { scope: "row", class: object === last ? "apart" : null, title: name }, name), ...cells);
  };
  return make(
    "table",
    { class: "matrix", "aria-label": "Confusion matrix" },
    make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "object"), ...columns.map(heading))),
    make("tbody", {}, ...columns.map(row)),
  );
}

function cell(times, total, object, taken) {
  if (times === 0) return make("td", { class: "none" }, "·");
  const share = times / total;
  const title = `${object} → ${taken ?? "not found"}: ${whole(times)} of ${whole(total)} (${percent(share)})`;
  // A share of a hundredth must be seen, and the number be readable over a whole.
  const style = `background: rgb(var(--heat) / ${(0.07 + 0.65 * share).toFixed(3)})`;
  return make("td", { style, title }, whole(times));
}

function frequent({ names, counts }) {
  const pairs = [];
  for (let object = 0; object < names.length; object++) {
    const total = counts[object].reduce((sum, times) => sum + times, 0);
    for (let taken = 0; taken < names.length; taken++) {
      const times = counts[object][taken];
      if (object !== taken && times > 0) pairs.push({ object, taken, times, share: times / total });
    }
  }
  if (pairs.length === 0) return make("p", { class: "muted" }, "No class is taken for another.");
  pairs.sort((a, b) => b.times - a.times);
  const item = ({ object, taken, times, share }) =>
    make("li", {}, `${names[object]} taken for ${names[taken]}: ${count(times, "time", "times")}, ${percent(share)} of its objects`);
  return make(
    "div",
    {},
    make("h3", {}, "Most frequent"),
    make("ol", { class: "list" }, ...pairs.slice(0, 10).map(item)),
  );
}
