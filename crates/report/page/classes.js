// Classes: curves of precision over recall, the table, what errors cost, calibration.

function className(category) {
  return classNames.get(category) ?? `category ${category}`;
}

const classNames = new Map(
  (data.analysis?.classes ?? data.log.evaluations.at(-1)?.per_class ?? []).map((it) => [it.category_id, it.name]),
);

function showCurves() {
  const classes = (data.analysis?.classes ?? []).filter(({ precision }) => precision.length > 0);
  if (classes.length === 0) return empty("curves", "No evaluation with objects to find yet.");
  const curve = (precision) => {
    const points = precision.map((value, index) => [index / (precision.length - 1), value]);
    // From where no recall is reached, there is nothing to draw.
    const end = precision.indexOf(0);
    return end < 0 ? points : points.slice(0, end + 1);
  };
  // More curves than a few cannot be told apart, until some are chosen.
  const telling = extremes(classes);
  const series = classes.map((it, index) => ({
    name: it.name,
    points: curve(it.precision),
    hidden: classes.length > 8 && !telling.has(it),
    mark: it.best ? [it.best.recall, it.best.precision] : null,
    note: ([recall]) => `at score ${metric(it.scores[Math.round(recall * (it.scores.length - 1))])}`,
    color: color(index),
    dash: DASHES[Math.floor(index / 8) % DASHES.length],
  }));
  if (classes.length > 1) {
    const means = classes[0].precision.map((_, index) => mean(classes.map(({ precision }) => precision[index])));
    series.unshift({ name: "mean of all classes", points: curve(means), color: "var(--ink)", dash: null });
  }
  new LineChart(content("curves"), {
    title: "Precision at each recall",
    x: "recall",
    series,
    range: { x: [0, 1], y: [0, 1] },
    head: (recall) => `recall ${recall.toFixed(2)}`,
    format: metric,
    wide: true,
  });
  showByScore();
}

// What a threshold on the score gives, over all classes.
function showByScore() {
  const points = data.analysis.by_score;
  if (points.length === 0) return;
  const { best } = data.analysis;
  const curve = (field, index) => ({
    name: field === "f1" ? "F1" : field,
    points: points.map((point) => [point.score, point[field]]),
    color: color(index),
    mark: best ? [best.score, best[field]] : null,
    plain: true,
  });
  new LineChart(content("curves"), {
    title: best ? `F1 over the score, largest at ${metric(best.score)}` : "F1 over the score",
    x: "score",
    series: [curve("f1", 0), curve("precision", 1), curve("recall", 2)],
    range: { x: [0, 1], y: [0, 1] },
    head: (score) => `score from ${score.toFixed(2)}`,
    format: metric,
    wide: true,
  });
}

// The three weakest and the three strongest.
function extremes(classes) {
  const ordered = [...classes].sort((a, b) => a.AP50 - b.AP50);
  return new Set([...ordered.slice(0, 3), ...ordered.slice(-3)]);
}

function showClasses() {
  const rows = data.analysis?.classes ?? data.log.evaluations.at(-1)?.per_class ?? [];
  if (rows.length === 0) return empty("classes", "No evaluation with classes yet.");
  const field = (name, about) => ({ name, about, value: (row) => defined(row[name]), show: metric });
  const best = (name, field, about) => ({ name, about, value: (row) => defined(row.best?.[field]), show: metric });
  const amount = (name, field, about) => ({ name, about, value: (row) => row[field], show: whole });
  const columns = [
    { name: "class", about: "The category's name", value: (row) => row.name },
    { ...field("AP", "Over IoU thresholds 0.50 to 0.95"), share: true },
    field("AP50", "At an IoU of 0.50"),
  ];
  if (data.analysis) {
    columns.push(
      field("AP75", "At an IoU of 0.75"),
      field("APs", "Objects up to 32² pixels"),
      field("APm", "Objects from 32² to 96² pixels"),
      field("APl", "Objects from 96² pixels"),
      field("AR100", "Average recall with 100 detections an image"),
      best("F1", "f1", "The largest F1 at an IoU of 0.5"),
      best("score", "score", "The score at which F1 is largest"),
      best("precision", "precision", "The share of detections that are right at that score"),
      best("recall", "recall", "The share of objects that are found at that score"),
      amount("objects", "objects", "Objects to find"),
      amount("detections", "detections", "Of any score"),
    );
  }
  if (data.log.evaluations.length > 1) {
    columns.push({ name: "gain", about: "AP of the last evaluation less that of the first", value: gain, show: trend });
  }
  content("classes").append(sortableTable("Classes", columns, rows));
}

function history(row) {
  return data.log.evaluations.map(({ iteration, per_class }) => {
    const value = per_class.find(({ category_id }) => category_id === row.category_id)?.AP;
    return [iteration, defined(value)];
  });
}

function gain(row) {
  const values = history(row).map(([, value]) => value).filter(isNumber);
  return values.length > 1 ? values.at(-1) - values[0] : null;
}

// A class's AP over the evaluations, small, on an axis that all classes share.
function trend(value, row) {
  const points = history(row).filter(([, value]) => isNumber(value));
  if (points.length < 2) return NONE;
  const [width, height] = [72, 20];
  const x = place(points[0][0], points.at(-1)[0], 2, width - 4);
  const y = place(0, 1, height - 2, 2);
  const title = `AP changed by ${value.toFixed(3)}`;
  const path = points.map(([step, ap], index) => `${index ? "L" : "M"}${x(step).toFixed(1)} ${y(ap).toFixed(1)}`);
  const [lastStep, lastAp] = points.at(-1);
  return drawn(
    "svg",
    { class: "spark", width, height, role: "img", "aria-label": title },
    drawn("title", {}, title),
    drawn("path", { d: path.join("") }),
    drawn("circle", { cx: x(lastStep), cy: y(lastAp), r: 2 }),
  );
}

function showErrors() {
  const errors = data.analysis?.errors;
  if (!errors) return empty("errors", "No evaluation yet.");
  const kinds = [
    ["classification", "class", "Well located, but the wrong class"],
    ["localization", "location", "The right class, but badly located"],
    ["both", "both", "Another class’s object, badly located"],
    ["duplicate", "duplicate", "An object that a better detection has found already"],
    ["background", "background", "No object at all"],
    ["missed", "missed", "Objects that no detection comes near"],
  ];
  const bars = kinds.map(([kind, name, about]) => {
    const { ap, count: times } = errors[kind];
    const shown = isNumber(ap) ? `+${ap.toFixed(3)}, ${count(times, "time", "times")}` : NONE;
    return { name, value: ap, shown, about };
  });
  const gained = (value) => (isNumber(value) ? `+${value.toFixed(3)}` : NONE);
  content("errors").append(
    barRows(bars),
    tiles([
      ["without false positives", gained(errors.false_positives), "AP50 gained"],
      ["without missed objects", gained(errors.false_negatives), "AP50 gained"],
    ]),
  );
}

function showCalibration() {
  const calibration = data.analysis?.calibration;
  if (!calibration) return empty("calibration", "No evaluation with scores from 0 to 1 yet.");
  const bins = calibration.bins.filter(({ detections }) => detections > 0);
  if (bins.length === 0) return empty("calibration", "No detection yet.");
  const charts = make("div", { class: "charts" });
  content("calibration").append(
    tiles([
      ["mean distance", metric(calibration.error), "ECE, over detections"],
      ["largest distance", metric(calibration.worst), "of a bin"],
    ]),
    charts,
  );
  new LineChart(charts, {
    title: "Share of detections that are right",
    x: "score",
    series: [
      { name: "right", points: bins.map(({ score, precision }) => [score, precision]) },
      { name: "ideal", points: [[0, 0], [1, 1]], color: color(7), dash: "6 4", plain: true },
    ],
    range: { x: [0, 1], y: [0, 1] },
    head: (score) => `score ${metric(score)}`,
    format: metric,
  });
  columnChart(charts, {
    title: "Detections by score",
    x: "score",
    columns: calibration.bins.map(({ from, to, detections }) => ({
      label: significant(from),
      value: detections,
      title: `score ${significant(from)} to ${significant(to)}: ${count(detections, "detection", "detections")}`,
    })),
  });
}
