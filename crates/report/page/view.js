// Images of a data set with their boxes, and what a check has found in them.

const view = { hidden: new Set(), category: "", onlyFound: false, labels: true, pictures: [] };

function showChoice() {
  const found = data.images.filter(({ findings }) => findings.length > 0).length;
  const redraw = () => view.pictures.forEach(drawPicture);
  const category = make(
    "select",
    { id: "category", "aria-label": "class" },
    make("option", { value: "" }, "images of all classes"),
    ...data.classes.map(({ name }, index) => make("option", { value: index }, name)),
  );
  category.addEventListener("change", () => {
    view.category = category.value;
    showImages();
  });
  const controls = make(
    "div",
    { class: "controls" },
    category,
    checkbox(`only images with findings (${whole(found)} of ${whole(data.images.length)})`, false, (on) => {
      view.onlyFound = on;
      showImages();
    }),
    checkbox("names", true, (on) => {
      view.labels = on;
      redraw();
    }),
  );
  content("choice").append(controls, legend(redraw));
  if (data.settings !== "") {
    const settings = make("pre", { tabindex: 0, "aria-label": "Augmentation" }, data.settings);
    content("choice").append(make("details", {}, make("summary", {}, "Augmentation"), settings));
  }
}

// A button for each class, which hides its boxes.
function legend(redraw) {
  const boxes = data.images.flatMap(({ views }) => views[0].objects);
  const button = (name, color, hides) => {
    const times = boxes.filter(hides.counts).length;
    if (times === 0) return null;
    const element = make(
      "button",
      { type: "button", "aria-pressed": "true", title: name },
      make("span", { class: "key", style: `border-color: ${color}` }),
      make("span", { class: "name" }, `${name} (${whole(times)})`),
    );
    element.addEventListener("click", () => {
      const shows = view.hidden.delete(hides.key) || !view.hidden.add(hides.key);
      element.setAttribute("aria-pressed", String(shows));
      redraw();
    });
    return element;
  };
  const classes = data.classes.map(({ name, color }, index) =>
    button(name, color, { key: index, counts: (it) => it.class === index && !it.crowd }),
  );
  const ignored = button("ignored", IGNORED, { key: "ignored", counts: (it) => it.crowd });
  return make("div", { class: "legend", role: "group", "aria-label": "classes" }, ...classes, ignored);
}

const IGNORED = "#969696";

function showImages() {
  const isOf = ({ views }) => views[0].objects.some((it) => String(it.class) === view.category);
  const shown = data.images.filter(
    (image) => (view.category === "" || isOf(image)) && (!view.onlyFound || image.findings.length > 0),
  );
  view.pictures = [];
  const host = document.getElementById("images");
  host.replaceChildren(...shown.map(imageSection));
  if (shown.length === 0) host.append(make("p", { class: "empty" }, "No image is as chosen."));
  view.pictures.forEach(drawPicture);
}

function imageSection({ file_name, about, findings, views }) {
  const finding = ({ severity, title, detail }) =>
    make("li", {}, make("strong", { class: `severity ${severity}` }, severity), ...prose(` ${title}: ${detail}`));
  return make(
    "section",
    { class: "image" },
    make("h2", {}, file_name),
    make("p", { class: "muted" }, about),
    findings.length > 0 ? make("ul", { class: "list findings" }, ...findings.map(finding)) : null,
    make("div", { class: "pictures" }, ...views.map((it) => picture(it, false))),
  );
}

// A picture with its boxes; where it is not large, a click enlarges it.
function picture(shown, isLarge) {
  const { caption, file, width, height } = shown;
  const address = file.split("/").map(encodeURIComponent).join("/");
  const overlay = drawn("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  const image = make("img", { src: address, alt: caption, width, height, loading: "lazy", decoding: "async" });
  const frame = isLarge
    ? make("div", { class: "frame" }, image, overlay)
    : make("button", { class: "frame", type: "button", "aria-label": `Enlarge ${caption}`, onclick: () => enlarge(shown) }, image, overlay);
  view.pictures.push({ shown, overlay });
  return make("figure", { class: "picture" }, frame, make("figcaption", {}, caption));
}

function drawPicture({ shown, overlay }) {
  const scale = shown.width / Math.max(overlay.getBoundingClientRect().width, 1);
  const size = 12 * scale;
  overlay.replaceChildren();
  for (const { class: index, bbox, crowd } of shown.objects) {
    if (view.hidden.has(crowd ? "ignored" : index)) continue;
    const [x, y, width, height] = bbox;
    const { name, color } = data.classes[index];
    const style = `stroke: ${crowd ? IGNORED : color}`;
    const label = crowd ? `${name}, ignored` : name;
    const box = { x, y, width: Math.max(width, 0), height: Math.max(height, 0), style };
    overlay.append(drawn("rect", { class: crowd ? "object crowd" : "object truth", ...box }, drawn("title", {}, label)));
    if (!view.labels) continue;
    // Towards the right edge a name ends with its box, so that it is not cut off.
    const atEnd = x > 0.7 * shown.width;
    const at = {
      x: atEnd ? x + width : x,
      y: Math.max(y - 0.3 * size, size),
      "text-anchor": atEnd ? "end" : "start",
      "font-size": size,
      "stroke-width": size / 4,
    };
    overlay.append(drawn("text", at, label));
  }
}

function enlarge(shown) {
  const large = picture(shown, true);
  const drawing = view.pictures.at(-1);
  const close = make("button", { type: "button", onclick: () => dialog.close() }, "close");
  const dialog = make("dialog", { "aria-label": "Enlarged image" }, make("div", { class: "controls" }, close), large);
  large.querySelector(".frame").style.width = `min(90vw, 76rem, calc(78vh * ${(shown.width / shown.height).toFixed(4)}))`;
  // The backdrop counts as the dialog itself.
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", () => {
    dialog.remove();
    view.pictures = view.pictures.filter((it) => it !== drawing);
  });
  document.body.append(dialog);
  dialog.showModal();
  drawPicture(drawing);
}

document.getElementById("title").textContent = data.title;
document.getElementById("about").textContent = data.about;
showChoice();
showImages();
window.addEventListener("resize", () => view.pictures.forEach(drawPicture));
