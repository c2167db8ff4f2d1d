// The run over its steps: loss, learning rate, gradient norm, speed, and AP of its evaluations.

// Single steps are noisy, so the summary has the mean of so many.
const LATELY = 20;

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
    const points = Math.max(Math.ceil(LATELY / log.steps_per_point), 1);
    const lately = (name) => mean(curves[name].slice(-points).filter(isNumber));
    const steps = Math.min(points * log.steps_per_point, log.steps);
    const note = steps === 1 ? "the only step" : `mean of the last ${steps} steps`;
    entries.push(
      ["loss", significant(lately("loss")), note],
      ["steps", whole(log.steps), isNumber(last("epoch")) ? `epoch ${significant(last("epoch"))}` : null],
      ["training time", duration(log.seconds)],
      ["images a second", significant(lately("images_per_second")), note],
    );
  }
  if (entries.length === 0) return empty("summary", "Nothing has happened yet.");
  content("summary").append(tiles(entries));
  if (data.advice.length > 0) {
    const sentences = data.advice.map((sentence) => make("li", {}, ...prose(sentence)));
    content("summary").append(make("div", { id: "advice" }, make("h3", {}, "What to do next"), make("ul", { class: "list" }, ...sentences)));
  }
}

function showTraining() {
  const { log } = data;
  if (log.steps === 0) return empty("training", "No step yet.");
  if (log.non_finite.length > 0) {
    const named = log.non_finite.slice(0, 10).map(whole).join(", ");
    const rest = log.non_finite.length > 10 ? " and more, red in the picture" : ", red in the picture";
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

const STEPS = { x: "step", head: stepHead, whole: true };

function lossChart(host) {
  const { curves, steps_per_point, non_finite } = data.log;
  const series = [
    stepSeries("loss", curves.loss, { smooth: true }),
    stepSeries("class part", curves.class_loss, { smooth: true }),
    stepSeries("box part", curves.box_loss, { smooth: true }),
  ];
  if (steps_per_point > 1) {
    series.push(stepSeries("largest loss", curves.largest_loss, { hidden: true, color: color(7) }));
  }
  const validation = evaluationPoints("loss");
  if (validation.some(([, value]) => isNumber(value))) {
    series.push({ name: "validation loss", points: validation, color: color(4) });
  }
  new LineChart(host, { ...STEPS, title: "Loss", series, log: true, zero: true, wide: true, alarms: non_finite });
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

// A number of each evaluation over its step.
function evaluationPoints(name) {
  return data.log.evaluations.map(({ iteration, values }) => {
    const value = values[name];
    return [iteration, name === "loss" ? value : defined(value)];
  });
}

function showPrecision() {
  const { evaluations } = data.log;
  if (evaluations.length === 0) return empty("precision", "No evaluation yet.");
  const charts = make("div", { class: "charts" });
  content("precision").append(charts);
  const names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"];
  const series = names
    .map((name, index) => ({ name, points: evaluationPoints(name), hidden: index > 2 }))
    .filter(({ points }) => points.some(([, value]) => isNumber(value)));
  if (series.length > 0) {
    new LineChart(charts, { ...STEPS, title: "Average precision and recall", series, zero: true, format: metric, wide: true });
  } else {
    charts.append(make("p", { class: "empty" }, "There is no object to find, so there is no AP."));
  }
}
