#!/usr/bin/env python3
"""How many of the positive anchors online hard example mining has room for (table 1d).

    scripts/ohem_positives.py datasets/shapes_hard/train.json --size 160 160 --anchors 12 24 48 96 192
    scripts/ohem_positives.py BCCD/train.json --size 256 192 --anchors 16 32 64 128 256

Anchors and matching are detectron2's, as the studies have them: three scales an octave, three ratios,
positive from an IoU of 0.5 on or as an object's best. Of an image's positives, in random order, those are
kept that overlap no kept one by more than 0.5 or 0.7: about what OHEM's suppression leaves where no negative
is harder than a positive. Needs NumPy.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

STRIDES = (8, 16, 32, 64, 128)
SUPPRESS_ABOVE = (0.5, 0.7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotations", type=Path, help="a COCO annotation file")
    parser.add_argument("--size", nargs=2, type=int, required=True, metavar=("WIDTH", "HEIGHT"), help="images fit into it")
    parser.add_argument("--anchors", nargs=5, type=float, required=True, help="the sizes at P3 to P7, in pixels")
    parser.add_argument("--examples", type=int, default=128, help="OHEM's number of anchors of an image")
    arguments = parser.parse_args()

    coco = json.loads(arguments.annotations.read_text())
    boxes_of: dict[int, list[list[float]]] = {image["id"]: [] for image in coco["images"]}
    for annotation in coco["annotations"]:
        boxes_of[annotation["image_id"]].append(annotation["bbox"])

    random = np.random.default_rng(0)
    anchor_count = objects = positives = crowded = 0
    kept = dict.fromkeys(SUPPRESS_ABOVE, 0)
    for image in coco["images"]:
        width, height = image["width"], image["height"]
        scale = min(arguments.size[0] / width, arguments.size[1] / height)
        anchors = anchors_of(round(width * scale), round(height * scale), arguments.anchors)
        boxes = np.array(boxes_of[image["id"]], float).reshape(-1, 4) * scale
        boxes = boxes[boxes[:, 2:].min(axis=1) > 0]
        boxes[:, 2:] += boxes[:, :2]
        found = positives_of(anchors, boxes)
        anchor_count += len(anchors)
        objects += len(boxes)
        positives += len(found)
        crowded += len(found) > arguments.examples
        for limit in SUPPRESS_ABOVE:
            kept[limit] += survivors(found[random.permutation(len(found))], limit)

    images = len(coco["images"])
    print(f"{anchor_count / images:.0f} anchors, {objects / images:.2f} objects, {positives / images:.1f} positives an image")
    print(f"{(anchor_count - positives) / positives:.0f} other anchors for each positive")
    print(f"{crowded / images:.0%} of the images have more than {arguments.examples} positives")
    for limit, count in kept.items():
        print(f"suppressed above {limit}: {count / positives:.0%} of the positives are left")


def anchors_of(width: int, height: int, sizes: list[float]) -> np.ndarray:
    levels = []
    for stride, size in zip(STRIDES, sizes):
        cell = []
        for octave in range(3):
            area = (size * 2 ** (octave / 3)) ** 2
            for ratio in (0.5, 1.0, 2.0):
                half_width = (area / ratio) ** 0.5 / 2
                cell.append((-half_width, -half_width * ratio, half_width, half_width * ratio))
        y, x = np.mgrid[0 : -(-height // stride), 0 : -(-width // stride)] * stride
        centers = np.stack([x, y, x, y], axis=-1).reshape(-1, 1, 4)
        levels.append((centers + np.array(cell)).reshape(-1, 4))
    return np.concatenate(levels)


def positives_of(anchors: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    if not len(boxes):
        return anchors[:0]
    overlaps = iou(anchors, boxes)
    best_of_an_object = (overlaps == overlaps.max(axis=0)) & (overlaps > 0)
    return anchors[(overlaps.max(axis=1) >= 0.5) | best_of_an_object.any(axis=1)]


def survivors(anchors: np.ndarray, suppress_above: float) -> int:
    overlaps = iou(anchors, anchors)
    kept: list[int] = []
    for anchor in range(len(anchors)):
        if (overlaps[anchor, kept] <= suppress_above).all():
            kept.append(anchor)
    return len(kept)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    upper_left = np.maximum(a[:, None, :2], b[None, :, :2])
    lower_right = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.clip(lower_right - upper_left, 0, None).prod(axis=-1)
    area_a, area_b = ((it[:, 2:] - it[:, :2]).prod(axis=-1) for it in (a, b))
    return common / (area_a[:, None] + area_b[None] - common)


if __name__ == "__main__":
    main()
