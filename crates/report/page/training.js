// The run over its steps: loss, learning rate, gradient norm, speed, and AP of its evaluations.

function showSummary() {
  const { log } = data;
  const entries = [];
  const evaluations = log.evaluations.filter(({ values }) => isDefined(values.AP));
  const metrics = data.analysis?.metrics ?? log.evaluations.at(-1)?.values;
  if (metrics) {
    entries.push(["AP", metric(metrics.AP)], ["AP50", metric(metrics.AP50)], ["AP75", metric(metrics.AP75)]);
  }
  if (evaluations.length > 0) {
    const best = evaluations.reduce((a, b) => (b.values.AP > a.values.AP ? b : a));
    entries.push(["best AP", metric(best.values.AP), `step ${whole(best.iteration)}`]);
  }
  if (log.steps > 0) {
    const { curves } = log;
    const last = (name) => curves[name].findLast(isNumber);
    entries.push(
      ["loss", significant(last("loss")), "last steps"],
      ["steps", whole(log.steps), isNumber(last("epoch")) ? `epoch ${significant(last("epoch"))}` : null],
      ["training time", duration(log.seconds)],
      ["images a second", significant(last("images_per_second")), "last steps"],
    );
  }
  if (entries.length > 0) content("summary").append(tiles(entries));
  else empty("summary", "Nothing has happened yet.");
}

function showTraining() {
  const { log } = data;
  if (log.steps === 0) return empty("training", "No step yet.");
  if (log.not_finite.length > 0) {
    const named = log.not_finite.slice(0, 10).map(whole).join(", ");
    const rest = log.not_finite.length > 10 ? " and more, red in the picture" : ", red in the picture";
    content("training").append(make("p", {}, make("strong", {}, "Not finite"), ` at step ${named}${rest}.`));
  }
  const charts = make("div", { class: "charts" });
  content("training").append(charts);
  const { steps_per_point } = log;
  if (steps_per_point > 1) {
    content("training").append(
      make("p", { class: "muted" }, `A point is the mean of ${whole(steps_per_point)} steps.`),
    );
  }
  lossChart(charts);
  rateAndNormCharts(charts);
  speedCharts(charts);
  levelCharts(charts);
}

function stepSeries(name, values, options = {}) {
  return { name, points: data.log.curves.iteration.map((step, index) => [step, values[index]]), ...options };
}

// The head of a tip over a step.
function stepHead(step) {
  const { iteration, epoch } = data.log.curves;
  const at = epoch[iteration.indexOf(step)];
  return `step ${whole(step)}${isNumber(at) ? `, epoch ${significant(at)}` : ""}`;
}

const STEPS = { x: "step", head: stepHead };

function lossChart(host) {
  const { curves, steps_per_point, not_finite } = data.log;
  const series = [
    stepSeries("loss", curves.loss, { smooth: true }),
    stepSeries("class part", curves.class_loss, { smooth: true }),
    stepSeries("box part", curves.box_loss, { smooth: true }),
  ];
  if (steps_per_point > 1) {
    series.push(stepSeries("largest loss", curves.largest_loss, { hidden: true, color: color(7) }));
  }
  new LineChart(host, { ...STEPS, title: "Loss", series, log: true, zero: true, wide: true, alarms: not_finite });
}

function rateAndNormCharts(host) {
  const { curves, steps_per_point } = data.log;
  new LineChart(host, {
    ...STEPS,
    title: "Learning rate",
    series: [stepSeries("learning rate", curves.learning_rate)],
    log: true,
    zero: true,
  });
  const norms = [stepSeries("gradient norm", curves.gradient_norm, { smooth: true, color: color(1) })];
  if (steps_per_point > 1) {
    norms.push(stepSeries("largest norm", curves.largest_gradient_norm, { hidden: true, color: color(7) }));
  }
  new LineChart(host, { ...STEPS, title: "Gradient norm", series: norms, log: true, zero: true });
}

function speedCharts(host) {
  const { curves } = data.log;
  const chart = (title, name, values, options = {}) => {
    if (!values.some(isNumber)) return;
    const series = [stepSeries(name, values, { smooth: true, color: color(5) })];
    new LineChart(host, { ...STEPS, title, series, zero: true, ...options });
  };
  chart("Images a second", "images a second", curves.images_per_second);
  chart("Time waiting for images", "waiting", curves.waited_share, { format: percent });
  chart("Positive anchors an image", "positives", curves.positives_per_image);
  chart("Memory in GiB", "memory", curves.memory);
}

function levelCharts(host) {
  const { iteration, class_loss, box_loss } = data.log.levels;
  const chart = (title, levels) => {
    if (!levels.flat().some(isNumber)) return;
    const series = levels.map((values, level) => ({
      name: data.levels[level] ?? `level ${level + 1}`,
      points: iteration.map((step, index) => [step, values[index]]),
      smooth: true,
    }));
    new LineChart(host, { ...STEPS, title, series, log: true, zero: true });
  };
  chart("Class loss by level", class_loss);
  chart("Box loss by level", box_loss);
}

function showPrecision() {
  const { evaluations } = data.log;
  if (evaluations.length === 0) return empty("precision", "No evaluation yet.");
  const charts = make("div", { class: "charts" });
  content("precision").append(charts);
  const points = (name) =>
    evaluations.map(({ iteration, values }) => {
      const value = values[name];
      return [iteration, name === "loss" ? value : defined(value)];
    });
  const names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"];
  const series = names
    .map((name, index) => ({ name, points: points(name), hidden: index > 2 }))
    .filter(({ points }) => points.some(([, value]) => isNumber(value)));
  if (series.length > 0) {
    new LineChart(charts, { ...STEPS, title: "Average precision and recall", series, zero: true, format: metric });
  } else {
    charts.append(make("p", { class: "empty" }, "There is no object to find, so there is no AP."));
  }
  const losses = points("loss");
  if (losses.some(([, value]) => isNumber(value))) {
    const loss = [{ name: "validation loss", points: losses, color: color(1) }];
    new LineChart(charts, { ...STEPS, title: "Loss on validation images", series: loss, log: true, zero: true });
  }
}
