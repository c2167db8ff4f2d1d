// The data sets: boxes by class, size and image.

function showData() {
  const { training_data: training, validation_data: validation } = data;
  if (!training) return empty("dataset", "Not counted.");
  content("dataset").append(
    tiles([
      ["training images", whole(training.images), `${whole(training.images_without_boxes)} without boxes`],
      ["training boxes", whole(training.boxes), `${whole(training.crowds)} crowds besides`],
      ...(validation
        ? [
            ["validation images", whole(validation.images), `${whole(validation.images_without_boxes)} without boxes`],
            ["validation boxes", whole(validation.boxes), `${whole(validation.crowds)} crowds besides`],
          ]
        : []),
    ]),
  );
  const charts = make("div", { class: "charts" });
  content("dataset").append(charts);
  const histogram = (title, x, bins, noun) =>
    columnChart(charts, {
      title,
      x,
      centred: true,
      columns: bins.map(({ label, count }) => ({ label, value: count, title: `${label}: ${whole(count)} ${noun}` })),
    });
  histogram("Training boxes by size", "√area in pixels, up to", training.sides, "boxes");
  histogram("Training images by number of boxes", "boxes", training.boxes_per_image, "images");
  content("dataset").append(classTable(training, validation));
}

function classTable(training, validation) {
  const found = new Map((validation?.classes ?? []).map((it) => [it.name, it.boxes]));
  const columns = [
    { name: "class", about: "The category's name", value: (row) => row.name },
    { name: "share", about: "Of all training boxes", value: (row) => row.share, show: percent, share: true },
    { name: "training boxes", about: "How many", value: (row) => row.boxes, show: whole },
    { name: "on images", about: "Training images that have it", value: (row) => row.images, show: whole },
    { name: "median √area", about: "In pixels of the original image", value: (row) => row.median_side, show: significant },
  ];
  if (validation) {
    columns.push({ name: "validation boxes", about: "How many", value: (row) => found.get(row.name) ?? 0, show: whole });
  }
  return sortableTable("Boxes by class", columns, training.classes);
}
