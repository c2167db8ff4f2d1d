#!/usr/bin/env python3
"""Spoils some labels of a COCO file, and measures how many of them a list finds.

    scripts/spoil_labels.py spoil train.json spoiled.json [--share 0.05] [--seed 0]
    scripts/spoil_labels.py measure spoiled.json errors.json

A quarter of the spoiled labels is moved by 0.4 to 0.8 of their sides, a quarter is dropped, a quarter has another class (or
is moved, where there is one class) and a quarter is doubled, with edges that are off by up to a tenth. What was spoiled
stands in the file under `spoiled`, which readers of COCO pass over.

`measure` reads what `retinanet dataset errors --json` wrote: the precision of its first 20, and the share of the spoiled
labels in its first 2 n, where n were spoiled. An entry is right if its box, or what is predicted there, overlaps a spoiled
label of its image by half, or the place that the label was moved or dropped from; each spoiled label counts once.
"""

import argparse
import json
import random
from collections import Counter
from pathlib import Path

KINDS = ["moved", "dropped", "another class", "doubled"]


def spoil(coco, share, seed):
    rolls = random.Random(seed)
    sizes = {image["id"]: (image["width"], image["height"]) for image in coco["images"]}
    classes = [category["id"] for category in coco["categories"]]
    labels = [label for label in coco["annotations"] if not label.get("iscrowd")]
    chosen = rolls.sample(labels, round(share * len(labels)))
    spoiled, next_id = [], max(label["id"] for label in coco["annotations"]) + 1
    for place, label in enumerate(chosen):
        kind = KINDS[place % len(KINDS)]
        if kind == "another class" and len(classes) == 1:
            kind = "moved"
        x, y, width, height = was = label["bbox"]
        entry = {"image_id": label["image_id"], "kind": kind, "was": was, "class_was": label["category_id"]}
        if kind == "moved":
            image_width, image_height = sizes[label["image_id"]]
            for _ in range(100):
                dx, dy = (rolls.choice([-1, 1]) * rolls.uniform(0.4, 0.8) for _ in range(2))
                x1, y1 = x + dx * width, y + dy * height
                if 0 <= x1 + width / 2 < image_width and 0 <= y1 + height / 2 < image_height:
                    break
            label["bbox"] = [x1, y1, width, height]
            label.pop("segmentation", None)
        elif kind == "dropped":
            coco["annotations"].remove(label)
        elif kind == "another class":
            label["category_id"] = rolls.choice([it for it in classes if it != label["category_id"]])
        else:
            off = [rolls.uniform(-0.1, 0.1) * side for side in [width, height, width, height]]
            double = {**label, "id": next_id, "bbox": [value + it for value, it in zip(was, off)]}
            double.pop("segmentation", None)
            coco["annotations"].append(double)
            next_id += 1
            entry["is"] = double["bbox"]
        entry.setdefault("is", label["bbox"])
        spoiled.append(entry)
    coco["spoiled"] = spoiled
    return coco


def iou(a, b):
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if across <= 0 or down <= 0:
        return 0.0
    both = across * down
    return both / (a[2] * a[3] + b[2] * b[3] - both)


def measure(spoiled, listed):
    listed = [entry for entry in listed if entry["split"] == "train"]
    free = list(range(len(spoiled)))
    right, found = [], []
    for entry in listed:
        boxes = [entry[key] for key in ["bbox", "predicted_bbox"] if entry.get(key)]

        def hits(place):
            spot = spoiled[place]
            same_image = spot["image_id"] == entry["image_id"]
            return same_image and any(iou(box, at) >= 0.5 for box in boxes for at in [spot["was"], spot["is"]])

        hit = next((place for place in free if hits(place)), None)
        # A moved label is told twice at times: where it is and where it should be.
        again = hit is None and any(hits(place) for place in found)
        right.append(hit is not None or again)
        if hit is not None:
            free.remove(hit)
            found.append(hit)
        if len(right) == 2 * len(spoiled):
            break
    kinds = Counter(spot["kind"] for spot in spoiled)
    of_kind = Counter(spoiled[place]["kind"] for place in found)
    print(f"{len(spoiled)} spoiled; precision of the first 20: {sum(right[:20]) / len(right[:20]):.2f}")
    print(f"found in the first {len(right)}: {len(found) / len(spoiled):.2f}")
    print(", ".join(f"{kind}: {of_kind[kind]} of {kinds[kind]}" for kind in KINDS if kinds[kind]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    spoils = commands.add_parser("spoil")
    spoils.add_argument("annotations", type=Path)
    spoils.add_argument("out", type=Path)
    spoils.add_argument("--share", type=float, default=0.05)
    spoils.add_argument("--seed", type=int, default=0)
    measures = commands.add_parser("measure")
    measures.add_argument("spoiled", type=Path)
    measures.add_argument("errors", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "spoil":
        coco = spoil(json.loads(arguments.annotations.read_text()), arguments.share, arguments.seed)
        arguments.out.write_text(json.dumps(coco))
        print(Counter(spot["kind"] for spot in coco["spoiled"]))
    else:
        measure(json.loads(arguments.spoiled.read_text())["spoiled"], json.loads(arguments.errors.read_text()))


if __name__ == "__main__":
    main()
