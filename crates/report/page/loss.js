// What decides the loss: who carries it, and which boxes anchors reach.

function showLossShares() {
  const shares = data.loss_shares;
  if (!shares) return empty("loss", "Not measured yet.");
  const part = (value, index) =>
    make("div", { style: `flex: ${Math.max(value, 0)} 1 0; background: ${color(index)}` });
  const labelled = (label, index) => make("span", {}, swatch({ color: color(index) }), ` ${label}`);
  content("loss").append(
    tiles([
      [labelled("positives", 0), percent(shares.positives), "of the class loss"],
      [labelled("negatives", 1), percent(shares.negatives), "of the class loss"],
    ]),
    make(
      "div",
      { class: "split", role: "img", "aria-label": `${percent(shares.positives)} positives, ${percent(shares.negatives)} negatives` },
      part(shares.positives, 0),
      part(shares.negatives, 1),
    ),
  );
  const charts = make("div", { class: "charts" });
  content("loss").append(charts);
  const panel = (title, x, curves) => {
    const series = shares.curves
      .map((curve, index) => ({ name: `γ = ${significant(curve.gamma)}`, points: curve[curves], color: color(index) }))
      .filter(({ points }) => points.length > 0);
    if (series.length === 0) return;
    const range = { x: [0, 1], y: [0, 1] };
    new LineChart(charts, { title, x, series, range, format: metric, head: (share) => `${percent(share)} of the anchors` });
  };
  panel("Cumulative normalised loss over positives", "fraction of foreground examples", "positives");
  panel("Cumulative normalised loss over negatives", "fraction of background examples", "negatives");
}

function showAnchors() {
  const { coverage } = data;
  if (!coverage) return empty("anchors", "Not measured.");
  const { all } = coverage;
  if (all.boxes === 0) return empty("anchors", "The data set has no boxes.");
  const overlaps = [
    [`IoU ≥ ${significant(coverage.foreground)}`, percent(all.foreground / all.boxes), "of the boxes"],
    [`IoU ≥ ${significant(coverage.background)}`, percent(all.background / all.boxes), "of the boxes"],
    ["mean best IoU", metric(all.iou_sum / all.boxes)],
  ];
  content("anchors").append(
    tiles([
      ["boxes", whole(all.boxes)],
      ...(coverage.needs_fitting_anchors ? overlaps : []),
      ...(areMatched() ? [["without any anchor", whole(all.missed), `of ${count(all.boxes, "box", "boxes")}`]] : []),
    ]),
  );
  if (coverage.needs_fitting_anchors) showOverlaps(coverage.histogram);
  for (const [title, name, rows] of [
    ["By size", "size", coverage.by_size],
    ["By level of the best anchor", "level", coverage.by_level],
    ["By class", "class", coverage.by_class],
  ]) {
    content("anchors").append(make("div", {}, make("h3", {}, title), coverageTable(title, name, rows)));
  }
}

function showOverlaps(histogram) {
  const charts = make("div", { class: "charts" });
  content("anchors").append(charts);
  const bars = histogram.length;
  columnChart(charts, {
    title: "Boxes by the IoU of their best anchor",
    x: "IoU",
    columns: histogram.map((boxes, index) => ({
      label: significant(index / bars),
      value: boxes,
      title: `IoU ${significant(index / bars)} to ${significant((index + 1) / bars)}: ${count(boxes, "box", "boxes")}`,
    })),
  });
}

/** Whether anchors were matched, and not only measured. */
const areMatched = () => data.coverage.all.matched > 0;

function coverageTable(title, name, rows) {
  const { foreground, background, needs_fitting_anchors: needsFit } = data.coverage;
  const share = (name, field, about) => ({
    name,
    about,
    value: ([, it]) => (it.boxes > 0 ? it[field] / it.boxes : null),
    show: percent,
    share: true,
  });
  const rate = (name, field, about) => ({
    name,
    about,
    value: ([, it]) => (it.boxes > 0 ? it[field] / it.boxes : null),
    show: (value) => (isNumber(value) ? value.toFixed(2) : NONE),
  });
  const columns = [
    { name, about: title, value: ([label]) => label },
    { name: "boxes", about: "How many", value: ([, it]) => it.boxes, show: whole },
  ];
  const overlaps = [
    share(`IoU ≥ ${significant(foreground)}`, "foreground", "Boxes whose best anchor is an object by its overlap"),
    share(`IoU ≥ ${significant(background)}`, "background", "Boxes whose best anchor is not background"),
    { ...rate("mean IoU", "iou_sum", "Of the best anchors"), show: metric },
  ];
  const matched = [
    rate("positives a box", "positives", "Anchors that learn a box"),
    ...(needsFit ? [rate("low quality", "low_quality", "Those of them that only low-quality matching gives")] : []),
    { name: "without anchor", about: "Boxes that no anchor learns", value: ([, it]) => it.missed, show: whole },
  ];
  if (needsFit) columns.push(...overlaps);
  if (areMatched()) columns.push(...matched);
  return sortableTable(title, columns, rows);
}
