// Charts as inline SVG: curves over a common axis, and columns.

const MARGIN = { left: 52, right: 12, top: 12, bottom: 40 };
const HEIGHT = 240;
const WIDE_HEIGHT = 320;
// About so many ticks on the upright axis.
const TICKS = 5;
const DASHES = [null, "6 4", "2 4", "10 4 2 4"];
// A tip with more rows would cover the chart.
const MOST_ROWS = 10;

// Curves with a legend that hides them, values under the pointer and, where asked for, a
// logarithmic axis and smoothing.
//
// options: { title, x, y, series, range: { x, y }, log, smooth, zero, whole, alarms, head, format, wide }
// series:  { name, points: [[x, y]], color, dash, hidden, smooth, plain, mark: [x, y], note }
class LineChart {
  constructor(host, options) {
    this.options = { format: significant, head: significant, alarms: [], range: {}, ...options };
    this.series = options.series.map((series, index) => ({
      color: color(index),
      dash: DASHES[Math.floor(index / 8) % DASHES.length],
      ...series,
    }));
    this.log = false;
    this.smooth = this.series.some((series) => series.smooth && series.points.length >= 50);
    this.plot = make("div", { class: "plot" });
    this.tip = make("div", { class: "tip", hidden: true });
    const root = make("div", { class: options.wide ? "chart wide" : "chart" }, this.head(), this.plot);
    if (this.series.length > 1) root.append(this.legend());
    host.append(root);
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerdown", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => this.leave());
    new ResizeObserver(() => this.draw()).observe(this.plot);
    this.draw();
  }

  head() {
    const controls = make("div", { class: "controls" });
    const toggle = (label, name) =>
      checkbox(label, this[name], (on) => {
        this[name] = on;
        this.draw();
      });
    if (this.smooth) controls.append(toggle("smooth", "smooth"));
    if (this.options.log) controls.append(toggle("log", "log"));
    return make("div", { class: "chart-head" }, make("h3", {}, this.options.title), controls);
  }

  legend() {
    const legend = make("div", { class: "legend", role: "group", "aria-label": `${this.options.title}: curves` });
    const buttons = this.series.map((series) => this.legendButton(series));
    const all = (hidden) => {
      this.series.forEach((series, index) => {
        series.hidden = hidden;
        buttons[index].setAttribute("aria-pressed", String(!hidden));
      });
      this.draw();
    };
    if (this.series.length > 8) {
      legend.append(
        make("button", { type: "button", class: "every", onclick: () => all(false) }, "show all"),
        make("button", { type: "button", class: "every", onclick: () => all(true) }, "hide all"),
      );
    }
    legend.append(...buttons);
    return legend;
  }

  legendButton(series) {
    const button = make(
      "button",
      { type: "button", "aria-pressed": String(!series.hidden), title: series.name },
      swatch(series),
      make("span", { class: "name" }, series.name),
    );
    button.addEventListener("click", () => {
      series.hidden = !series.hidden;
      button.setAttribute("aria-pressed", String(!series.hidden));
      this.draw();
    });
    return button;
  }

  draw() {
    const width = this.plot.clientWidth;
    if (width === 0) return;
    const height = this.options.wide ? WIDE_HEIGHT : HEIGHT;
    this.shown = this.series.filter((series) => !series.hidden);
    this.scale = this.scales(width, height);
    const label = `${this.options.title}: ${this.shown.map((series) => series.name).join(", ")}`;
    const root = drawn("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": label });
    this.drawAxes(root);
    for (const x of this.options.alarms) {
      const place = this.scale.x(x);
      root.append(
        drawn("line", { class: "alarm", x1: place, x2: place, y1: MARGIN.top, y2: height - MARGIN.bottom }),
      );
    }
    for (const series of this.shown) this.drawSeries(root, series);
    this.cursor = drawn("g", {});
    root.append(this.cursor);
    this.tip.hidden = true;
    this.plot.replaceChildren(root, this.tip);
  }

  usable([x, y]) {
    return isNumber(x) && isNumber(y) && (!this.log || y > 0);
  }

  scales(width, height) {
    // Steps whose values are not finite count too, and hiding a curve moves nothing sideways.
    const steps = this.series.flatMap((series) => series.points.map(([x]) => x));
    const [left, right] = this.options.range.x ?? bounds(steps);
    const [low, high] = this.options.range.y ?? this.heights();
    const along = place(left, right, MARGIN.left, width - MARGIN.right);
    const up = this.log
      ? place(Math.log10(low), Math.log10(high), height - MARGIN.bottom, MARGIN.top)
      : place(low, high, height - MARGIN.bottom, MARGIN.top);
    return {
      width,
      height,
      x: along,
      y: this.log ? (y) => up(Math.log10(y)) : up,
      xTicks: only(steps) ?? ticks(left, right, width / 90, this.options.whole),
      yTicks: this.log ? logTicks(low, high) : (this.onlyHeight() ?? ticks(low, high, TICKS)),
      fromX: (pixel) => left + ((pixel - MARGIN.left) / (width - MARGIN.left - MARGIN.right)) * (right - left),
    };
  }

  values() {
    const points = this.shown.flatMap((series) => series.points.filter((point) => this.usable(point)));
    return points.map(([, y]) => y);
  }

  // The one tick of curves that are level, where the axis does not begin at 0.
  onlyHeight() {
    return this.options.range.y || this.options.zero ? null : only(this.values());
  }

  heights() {
    const values = this.values();
    return this.log ? logBounds(values) : rounded(...bounds(values, this.options.zero));
  }

  drawAxes(root) {
    const { width, height, x, y, xTicks, yTicks } = this.scale;
    const bottom = height - MARGIN.bottom;
    for (const tick of yTicks) {
      const at = y(tick);
      root.append(
        drawn("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: at, y2: at }),
        drawn("text", { x: MARGIN.left - 6, y: at + 4, "text-anchor": "end" }, significant(tick)),
      );
    }
    for (const tick of xTicks) {
      root.append(drawn("text", { x: x(tick), y: bottom + 16, "text-anchor": "middle" }, significant(tick)));
    }
    root.append(
      drawn("line", { class: "edge", x1: MARGIN.left, x2: width - MARGIN.right, y1: bottom, y2: bottom }),
      drawn("text", { x: width - MARGIN.right, y: height - 6, "text-anchor": "end" }, this.options.x),
    );
  }

  drawSeries(root, series) {
    const style = `stroke: ${series.color}`;
    const smooth = this.smooth && series.smooth;
    const path = (points, name) =>
      drawn("path", { class: name, d: this.path(points), style, "stroke-dasharray": series.dash });
    root.append(path(series.points, smooth ? "curve raw" : "curve"));
    if (smooth) root.append(path(smoothed(series.points), "curve"));
    // A lone point has no line.
    if (series.points.length <= 30 && !series.plain) {
      for (const point of series.points.filter((point) => this.usable(point))) {
        const [x, y] = point;
        const place = { cx: this.scale.x(x), cy: this.scale.y(y), r: 3.5 };
        root.append(drawn("circle", { class: "dot", ...place, style: `fill: ${series.color}` }));
      }
    }
    if (series.mark) {
      const [x, y] = series.mark;
      root.append(drawn("circle", { class: "mark", cx: this.scale.x(x), cy: this.scale.y(y), r: 4.5, style }));
    }
  }

  path(points) {
    let goesOn = false;
    let path = "";
    for (const point of points) {
      const usable = this.usable(point);
      if (usable) {
        const place = `${this.scale.x(point[0]).toFixed(1)} ${this.scale.y(point[1]).toFixed(1)}`;
        // A line of no length is a dot, which a point between two gaps would not be.
        path += goesOn ? `L${place}` : `M${place}h0`;
      }
      goesOn = usable;
    }
    return path;
  }

  point(event) {
    const { width, height, fromX, x, y } = this.scale;
    const box = this.plot.getBoundingClientRect();
    const wanted = fromX(Math.min(Math.max(event.clientX - box.left, MARGIN.left), width - MARGIN.right));
    const found = this.shown
      .map((series) => ({ series, point: nearest(series.points, wanted) }))
      .filter(({ point }) => point);
    if (found.length === 0) return;
    const at = nearest(found.map(({ point }) => point).sort((a, b) => a[0] - b[0]), wanted)[0];
    const rows = found.filter(({ point }) => point[0] === at);
    const line = { x1: x(at), x2: x(at), y1: MARGIN.top, y2: height - MARGIN.bottom };
    this.cursor.replaceChildren(drawn("line", { class: "cursor", ...line }));
    for (const { series, point } of rows.filter(({ point }) => this.usable(point))) {
      const place = { cx: x(at), cy: y(point[1]), r: 4 };
      this.cursor.append(drawn("circle", { class: "dot", ...place, style: `fill: ${series.color}` }));
    }
    this.showTip(at, rows);
  }

  showTip(at, rows) {
    const row = ({ series, point }) =>
      make(
        "div",
        { class: "tip-row" },
        swatch(series),
        make("span", { class: "name" }, series.name),
        make("span", {}, this.options.format(point[1]), series.note ? ` ${series.note(point)}` : null),
      );
    const more = rows.length - MOST_ROWS;
    this.tip.replaceChildren(
      make("strong", {}, this.options.head(at)),
      ...rows.slice(0, MOST_ROWS).map(row),
      ...(more > 0 ? [`and ${more} more`] : []),
    );
    this.tip.hidden = false;
    const side = this.scale.x(at) > this.scale.width / 2 ? "left" : "right";
    this.tip.style.left = side === "left" ? `${MARGIN.left}px` : "auto";
    this.tip.style.right = side === "right" ? `${MARGIN.right}px` : "auto";
  }

  leave() {
    this.tip.hidden = true;
    this.cursor.replaceChildren();
  }
}

// Columns from 0 up. columns: [{ label, value, title }]; a label stands below its column where `centred`,
// or where the column begins.
function columnChart(host, { title, x, columns, centred = false }) {
  const plot = make("div", { class: "plot" });
  host.append(make("div", { class: "chart" }, make("div", { class: "chart-head" }, make("h3", {}, title)), plot));
  const draw = () => {
    const [width, height] = [plot.clientWidth, HEIGHT];
    if (width === 0) return;
    const highest = Math.max(1, ...columns.map(({ value }) => value));
    const y = place(0, highest, height - MARGIN.bottom, MARGIN.top);
    const step = (width - MARGIN.left - MARGIN.right) / columns.length;
    const root = drawn("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": title });
    for (const tick of ticks(0, highest, 4)) {
      root.append(
        drawn("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(tick), y2: y(tick) }),
        drawn("text", { x: MARGIN.left - 6, y: y(tick) + 4, "text-anchor": "end" }, significant(tick)),
      );
    }
    const every = Math.ceil(34 / step);
    columns.forEach(({ label, value, title }, index) => {
      const left = MARGIN.left + index * step;
      const box = { x: left + 1, y: y(value), width: Math.max(step - 2, 1), height: y(0) - y(value) };
      root.append(drawn("rect", { class: "column", ...box }, drawn("title", {}, title)));
      if (index % every === 0) {
        const at = centred ? left + step / 2 : left;
        root.append(drawn("text", { x: at, y: y(0) + 16, "text-anchor": "middle" }, label));
      }
    });
    root.append(drawn("text", { x: width - MARGIN.right, y: height - 6, "text-anchor": "end" }, x));
    plot.replaceChildren(root);
  };
  new ResizeObserver(draw).observe(plot);
  draw();
}

function swatch(series) {
  const style = `color: ${series.color}; border-top-style: ${series.dash ? "dashed" : "solid"}`;
  return make("span", { class: "swatch", style });
}

function bounds(values, fromZero = false) {
  const low = values.reduce((a, b) => Math.min(a, b), fromZero ? 0 : Infinity);
  const high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  if (!Number.isFinite(high)) return [0, 1];
  if (low < high) return [low, high];
  return fromZero ? [0, 1] : [low - 0.5, high + 0.5];
}

function logBounds(values) {
  if (values.length === 0) return [0.1, 1];
  const [low, high] = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
  return low < high ? [low, high] : [low / 2, 2 * high];
}

// The one tick of an axis of which only one value is known.
function only(values) {
  return values.length > 0 && values.every((value) => value === values[0]) ? [values[0]] : null;
}

// A function that maps [from, to] onto [start, end].
function place(from, to, start, end) {
  return (value) => start + ((value - from) / (to - from)) * (end - start);
}

// Bounds moved out to the next ticks.
function rounded(low, high) {
  const step = tickStep(low, high, TICKS);
  return [step * Math.floor(low / step + 1e-9), step * Math.ceil(high / step - 1e-9)];
}

function tickStep(low, high, wanted) {
  const rough = (high - low) / Math.max(wanted, 2);
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough);
}

function ticks(low, high, wanted, whole = false) {
  const step = Math.max(tickStep(low, high, wanted), whole ? 1 : 0);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  // Multiples of a power of ten are not exact, and their last digits would be written out.
  return Array.from({ length: last - first + 1 }, (_, index) => Number(((first + index) * step).toPrecision(12)));
}

function logTicks(low, high) {
  const [from, to] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const every = Math.ceil((to - from) / 6);
  const powers = [];
  for (let power = from; power <= to; power += every) powers.push(power);
  const factors = to - from > 2 ? [1] : [1, 2, 5];
  const found = powers.flatMap((power) => factors.map((factor) => Number(`${factor}e${power}`)));
  const within = found.filter((tick) => tick >= low && tick <= high);
  return within.length >= 2 ? within : ticks(low, high, 4);
}

// An exponential mean that forgets within a fortieth of the curve.
function smoothed(points) {
  const keep = 1 - 2 / (Math.max(points.length / 40, 2) + 1);
  let [sum, weight] = [0, 0];
  return points.map(([x, y]) => {
    if (!isNumber(y)) return [x, null];
    sum = keep * sum + (1 - keep) * y;
    weight = keep * weight + (1 - keep);
    return [x, sum / weight];
  });
}

// The point whose x is nearest; points are sorted by x.
function nearest(points, x) {
  let [low, high] = [0, points.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < x) low = middle + 1;
    else high = middle;
  }
  const [before, after] = [points[low - 1], points[low]];
  return before && (!after || x - before[0] <= after[0] - x) ? before : after;
}
