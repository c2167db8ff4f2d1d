// What the report holds, how elements are made, and how numbers are written.

const data = JSON.parse(document.getElementById("data").textContent);

function make(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function drawn(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

// Text stays text: a name with a tag in it must not become one.
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

// A sentence whose parts between backticks are code.
function prose(sentence) {
  return sentence.split("`").map((part, index) => (index % 2 === 1 ? make("code", {}, part) : part));
}

function content(section) {
  return document.querySelector(`#${section} .content`);
}

function empty(section, sentence) {
  content(section).append(make("p", { class: "empty" }, sentence));
}

function checkbox(label, checked, change) {
  const input = make("input", { type: "checkbox", checked });
  input.addEventListener("change", () => change(input.checked));
  return make("label", {}, input, label);
}

const NONE = "–";

function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

// COCO's numbers are -1 where they are undefined.
function isDefined(value) {
  return isNumber(value) && value >= 0;
}

function defined(value) {
  return isDefined(value) ? value : null;
}

function metric(value) {
  return isDefined(value) ? value.toFixed(3) : NONE;
}

function percent(value) {
  return isNumber(value) ? `${(100 * value).toFixed(1)} %` : NONE;
}

function whole(value) {
  return isNumber(value) ? Math.round(value).toLocaleString("en-US") : NONE;
}

function significant(value) {
  if (!isNumber(value)) return NONE;
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) {
    return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
  }
  return size >= 1e3 ? whole(value) : String(Number(value.toPrecision(4)));
}

function duration(seconds) {
  if (!isNumber(seconds)) return NONE;
  const minutes = Math.round(seconds / 60);
  if (minutes < 1) return `${Math.round(seconds)} s`;
  if (minutes < 60) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function color(index) {
  return `var(--c${index % 8})`;
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function count(number, one, many) {
  return `${whole(number)} ${number === 1 ? one : many}`;
}
