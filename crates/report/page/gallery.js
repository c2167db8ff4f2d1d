// Validation images with what was to find and what was found.

// More pictures come when asked for.
const PICTURES = 12;

const gallery = {
  score: 0,
  shows: { object: true, right: true, wrong: true },
  order: "worst",
  category: "",
  limit: PICTURES,
  pictures: [],
  // The picture that is open in the dialog, as a place in `pictures`.
  open: null,
};

const ORDERS = {
  worst: ["worst first", (a, b) => a.f1 - b.f1],
  best: ["best first", (a, b) => b.f1 - a.f1],
  name: ["by file", (a, b) => a.file_name.localeCompare(b.file_name, "en", { numeric: true })],
};

function showGallery() {
  if (data.gallery.length === 0) return empty("gallery", "No evaluation with images yet.");
  gallery.score = data.analysis?.score ?? 0;
  gallery.list = make("div", { class: "pictures" });
  gallery.more = make("button", { type: "button", onclick: showMore }, "show more images");
  gallery.dialog = makeDialog();
  content("gallery").append(galleryControls(), gallery.list, gallery.more, gallery.dialog.root);
  choosePictures();
}

function galleryControls() {
  const scores = data.gallery.flatMap(({ detections }) => detections.map(({ score }) => score));
  const lowest = scores.reduce((a, b) => Math.min(a, b), 0);
  const highest = scores.reduce((a, b) => Math.max(a, b), 1);
  const output = make("output", { for: "score" }, gallery.score.toFixed(3));
  const slider = make("input", {
    type: "range",
    id: "score",
    min: lowest,
    max: highest,
    step: "any",
    value: gallery.score,
  });
  slider.addEventListener("input", () => {
    gallery.score = Number(slider.value);
    output.textContent = gallery.score.toFixed(3);
    drawBoxes();
  });
  return make(
    "div",
    { class: "controls" },
    make("label", {}, "score from", slider, output),
    layer("object", "objects", "object"),
    layer("right", "right detections", "detection right"),
    layer("wrong", "wrong detections", "detection"),
    chooser("order", Object.entries(ORDERS).map(([value, [label]]) => [value, label])),
    chooser("category", [["", "all classes"], ...galleryClasses()]),
  );
}

function layer(name, label, key) {
  const colors = { object: "var(--found)", right: "var(--right)", wrong: "var(--wrong)" };
  const toggle = checkbox("", true, (on) => {
    gallery.shows[name] = on;
    drawBoxes();
  });
  toggle.append(make("span", { class: `key ${key}`, style: `border-color: ${colors[name]}` }), label);
  toggle.dataset.layer = name;
  if (name === "object") {
    toggle.append(make("span", { class: "key object", style: "border-color: var(--missed)" }), "missed");
  }
  return toggle;
}

function chooser(name, choices) {
  const select = make(
    "select",
    { id: name, "aria-label": name },
    ...choices.map(([value, label]) => make("option", { value }, label)),
  );
  select.addEventListener("change", () => {
    gallery[name] = select.value;
    gallery.limit = PICTURES;
    choosePictures();
  });
  return select;
}

function galleryClasses() {
  const found = data.gallery.flatMap(({ objects }) => objects.map(({ category_id }) => category_id));
  const named = [...new Set(found)].map((category) => [category, className(category)]);
  return named.sort(([, a], [, b]) => a.localeCompare(b, "en", { numeric: true }));
}

function choosePictures() {
  const [, order] = ORDERS[gallery.order];
  const isOf = ({ category_id }) => gallery.category === "" || String(category_id) === gallery.category;
  gallery.pictures = data.gallery
    .filter(({ objects, detections }) => gallery.category === "" || objects.some(isOf) || detections.some(isOf))
    .sort(order);
  gallery.list.replaceChildren();
  gallery.views = [];
  addPictures();
}

function showMore() {
  gallery.limit += PICTURES;
  addPictures();
}

function addPictures() {
  const shown = gallery.pictures.slice(0, gallery.limit);
  for (let index = gallery.views.length; index < shown.length; index++) {
    const view = makeView(shown[index], "button");
    view.frame.addEventListener("click", () => openPicture(index));
    gallery.views.push(view);
    gallery.list.append(view.root);
  }
  gallery.more.hidden = shown.length === gallery.pictures.length;
  drawBoxes();
}

// A picture with its overlay and caption; `frame` is a button where a click opens it.
function makeView(picture, frameName) {
  const { file_name, width, height, jpeg } = picture;
  const overlay = drawn("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  const image = make("img", { src: `data:image/jpeg;base64,${jpeg}`, alt: file_name, width, height, loading: "lazy", decoding: "async" });
  const isButton = frameName === "button";
  const frame = make(frameName, { class: "frame", type: isButton ? "button" : null, "aria-label": isButton ? `Enlarge ${file_name}` : null }, image, overlay);
  const counts = make("span", {});
  const caption = make("figcaption", {}, make("span", { class: "name" }, file_name), make("br"), counts);
  return { picture, overlay, frame, counts, root: make("figure", { class: "picture" }, frame, caption) };
}

function drawBoxes() {
  for (const view of gallery.views) drawView(view, false);
  if (gallery.dialog.view) drawView(gallery.dialog.view, true);
}

function drawView({ picture, overlay, counts }, labelled) {
  const { objects, detections, f1 } = picture;
  const shown = detections.filter(({ score }) => score >= gallery.score);
  const isFound = ({ found }) => found !== null && found >= gallery.score;
  const right = shown.filter((detection) => detection.right).length;
  const missed = objects.filter((object) => !isFound(object));
  const lost = missed.length > 0 ? ` (${namesOf(missed)})` : "";
  counts.textContent = `${right} right, ${shown.length - right} wrong, ${missed.length} missed${lost} · F1 ${metric(f1)}`;
  const boxes = [];
  if (gallery.shows.object) {
    for (const object of objects) {
      boxes.push(box(object, isFound(object) ? "object" : "object missed", className(object.category_id)));
    }
  }
  for (const detection of shown.filter((it) => gallery.shows[it.right ? "right" : "wrong"])) {
    const label = `${className(detection.category_id)} ${detection.score.toFixed(2)}`;
    boxes.push(box(detection, detection.right ? "detection right" : "detection", label));
  }
  overlay.replaceChildren(...boxes);
  if (labelled) addLabels(overlay, picture, shown, missed);
}

// The classes of some objects, each once, with how often it is there.
function namesOf(objects) {
  const times = new Map();
  for (const { category_id } of objects) times.set(category_id, (times.get(category_id) ?? 0) + 1);
  return [...times].map(([category, n]) => (n > 1 ? `${n} × ${className(category)}` : className(category))).join(", ");
}

function box({ bbox: [x, y, width, height] }, name, label) {
  const size = { x, y, width: Math.max(width, 0), height: Math.max(height, 0) };
  return drawn("rect", { class: name, ...size }, drawn("title", {}, label));
}

// Text scales with the overlay, so its size is that of 12 pixels on the screen.
function addLabels(overlay, { width }, detections, missed) {
  const size = (12 * width) / Math.max(overlay.getBoundingClientRect().width, 1);
  const label = ([x, top], text, name) => {
    const y = Math.max(top - 0.3 * size, size);
    overlay.append(drawn("text", { class: name, x, y, "font-size": size, "stroke-width": size / 4 }, text));
  };
  if (gallery.shows.object) {
    for (const { bbox, category_id } of missed) label(bbox, `${className(category_id)}, missed`, "missed");
  }
  for (const { bbox, category_id, score, right } of detections) {
    if (!gallery.shows[right ? "right" : "wrong"]) continue;
    label(bbox, `${className(category_id)} ${score.toFixed(2)}`);
  }
}

function makeDialog() {
  const host = make("div", {});
  const button = (label, act) => make("button", { type: "button", onclick: act }, label);
  const root = make(
    "dialog",
    { "aria-label": "Enlarged image" },
    make(
      "div",
      { class: "controls" },
      button("← previous", () => openPicture(gallery.open - 1)),
      button("next →", () => openPicture(gallery.open + 1)),
      button("close", () => root.close()),
    ),
    host,
  );
  root.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") openPicture(gallery.open - 1);
    if (event.key === "ArrowRight") openPicture(gallery.open + 1);
  });
  // The backdrop counts as the dialog itself.
  root.addEventListener("click", (event) => {
    if (event.target === root) root.close();
  });
  root.addEventListener("close", () => {
    gallery.dialog.view = null;
    host.replaceChildren();
  });
  return { root, host, view: null };
}

function openPicture(index) {
  const picture = gallery.pictures.at(index % gallery.pictures.length);
  const view = makeView(picture, "div");
  gallery.open = gallery.pictures.indexOf(picture);
  gallery.dialog.view = view;
  const shape = picture.width / picture.height;
  view.frame.style.width = `min(90vw, 76rem, calc(78vh * ${shape.toFixed(4)}))`;
  gallery.dialog.host.replaceChildren(view.root);
  if (!gallery.dialog.root.open) gallery.dialog.root.showModal();
  drawView(view, true);
}

window.addEventListener("resize", () => {
  if (gallery.dialog?.view) drawView(gallery.dialog.view, true);
});
