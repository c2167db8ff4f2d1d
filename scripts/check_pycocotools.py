#!/usr/bin/env python3
"""Checks that the program evaluates detections as pycocotools does, and times both.

    cargo build --release
    pip install pycocotools
    scripts/check_pycocotools.py [PROGRAM] [--seed N] [--rounds 3] [--at-least 10]

Compared are COCO's twelve numbers, AP and AP50 of every class, and every class's precision and score
at each recall (at an IoU of 0.5), to 1e-6. It is done for public fixtures, which come from the folder
in RETINANET_SHARED or else from `../shared` beside the project, and for a made-up case as large as
COCO's val2017: 5,000 images, 36,000 objects, and 500,000 detections of 80 classes.

The made-up case is timed as well, in turn: the program's whole process, and pycocotools from reading
the files to the finished curves. Nothing else should run meanwhile. A disagreement, or medians that
differ by less than the factor of `--at-least`, end the run with code 1.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

try:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
except ImportError:
    sys.exit("pycocotools is missing: pip install pycocotools")

ROOT = Path(__file__).resolve().parent.parent
NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
TOLERANCE = 1e-6
WIDTH, HEIGHT = 640.0, 480.0


def made_up(folder: Path, seed: int, images: int, objects: int, per_image: int) -> tuple[Path, Path]:
    """Detections that are objects moved about, some of another class, and boxes anywhere."""
    draw = random.Random(seed)
    categories = [id for id in range(1, 91) if id % 9]
    truths: list[list[dict]] = [[] for _ in range(images)]
    for id in range(1, objects + 1):
        image = draw.randrange(images)
        bbox = [draw.uniform(0, WIDTH), draw.uniform(0, HEIGHT), *sides(draw)]
        truths[image].append(
            {
                "id": id,
                "image_id": image,
                "category_id": draw.choice(categories),
                "bbox": bbox,
                "area": bbox[2] * bbox[3],
                "iscrowd": int(draw.random() < 0.01),
            }
        )
    detections = [detection(draw, image, truths[image], categories) for image in range(images) for _ in range(per_image)]
    paths = folder / "annotations.json", folder / "detections.json"
    annotations = {
        "images": [
            {"id": image, "file_name": f"{image:012}.jpg", "width": int(WIDTH), "height": int(HEIGHT)}
            for image in range(images)
        ],
        "annotations": [truth for of_image in truths for truth in of_image],
        "categories": [{"id": id, "name": f"class {id}"} for id in categories],
    }
    paths[0].write_text(json.dumps(annotations))
    paths[1].write_text(json.dumps(detections))
    return paths


def sides(draw: random.Random) -> list[float]:
    return [math.exp(draw.uniform(math.log(8), math.log(300))) for _ in range(2)]


def detection(draw: random.Random, image: int, truths: list[dict], categories: list[int]) -> dict:
    if truths and draw.random() < 0.3:
        truth = draw.choice(truths)
        x, y, width, height = truth["bbox"]
        spread = draw.choice([0.02, 0.1, 0.3])
        bbox = [
            x + draw.gauss(0, spread) * width,
            y + draw.gauss(0, spread) * height,
            width * math.exp(draw.gauss(0, spread)),
            height * math.exp(draw.gauss(0, spread)),
        ]
        category = truth["category_id"] if draw.random() < 0.8 else draw.choice(categories)
        score = draw.betavariate(4, 2)
    else:
        bbox = [draw.uniform(0, WIDTH), draw.uniform(0, HEIGHT), *sides(draw)]
        category = draw.choice(categories)
        score = draw.betavariate(1, 6)
    # Few digits, so that scores are often equal.
    bbox = [round(value, 2) for value in bbox]
    return {"image_id": image, "category_id": category, "bbox": bbox, "score": round(score, 4)}


def reference(annotations: Path, detections: Path) -> tuple[COCOeval, float]:
    """pycocotools' evaluation, and the seconds it took from reading to finished curves."""
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(detections)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        seconds = time.perf_counter() - started
        evaluation.summarize()
    return evaluation, seconds


def ours(program: Path, annotations: Path, detections: Path) -> tuple[dict, float]:
    """What the program says, and the seconds its process took."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "analysis.json"
        command = [str(program), "eval", "--annotations", str(annotations), "--detections", str(detections)]
        started = time.perf_counter()
        subprocess.run([*command, "--json", str(out)], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        return json.loads(out.read_text()), seconds


def mean(values) -> float:
    values = values[values > -1]
    return float(values.mean()) if values.size else -1.0


def differences(analysis: dict, evaluation: COCOeval):
    """Every number of both, by what it is."""
    metrics = analysis["metrics"]
    for name, expected in zip(NAMES, evaluation.stats, strict=True):
        yield name, metrics[name], expected
    precision, scores = (evaluation.eval[key][..., 0, 2] for key in ("precision", "scores"))
    ids = evaluation.params.catIds
    if [found["category_id"] for found in analysis["classes"]] != ids:
        sys.exit("the classes are not the annotations' categories")
    for index, found in enumerate(analysis["classes"]):
        name = found["name"]
        yield f"AP of {name}", found["AP"], mean(precision[:, :, index])
        yield f"AP50 of {name}", found["AP50"], mean(precision[0, :, index])
        defined = precision[0, :, index] > -1
        for key, curve in ("precision", precision), ("scores", scores):
            expected = curve[0, :, index][defined]
            if len(found[key]) != len(expected):
                sys.exit(f"{name}: {len(found[key])} {key} instead of {len(expected)}")
            for recall, (a, b) in enumerate(zip(found[key], expected)):
                yield f"{key} of {name} at recall {recall / 100}", a, b


def check(name: str, analysis: dict, evaluation: COCOeval) -> None:
    largest, count = 0.0, 0
    for what, found, expected in differences(analysis, evaluation):
        distance = abs(found - expected)
        if not distance <= TOLERANCE:
            sys.exit(f"{name}: {what} is {found} instead of {expected}")
        largest, count = max(largest, distance), count + 1
    print(f"{name}: {count} numbers agree, the largest difference is {largest:.1e}", flush=True)


def check_fixtures(program: Path) -> None:
    folder = Path(os.environ.get("RETINANET_SHARED", ROOT.parent / "shared")) / "data/coco_eval"
    if not folder.is_dir():
        print(f"skipped: no fixtures in {folder}")
        return
    for name, pair in json.loads((folder / "expected.json").read_text()).items():
        if pair["iou_type"] == "bbox":
            paths = folder / pair["gt"], folder / pair["dt"]
            check(name, ours(program, *paths)[0], reference(*paths)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("program", type=Path, nargs="?", default=ROOT / "target/release/retinanet")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--at-least", type=float, default=10.0, help="how many times faster the program must be")
    arguments = parser.parse_args()

    check_fixtures(arguments.program)
    with tempfile.TemporaryDirectory() as folder:
        paths = made_up(Path(folder), arguments.seed, images=5_000, objects=36_000, per_image=100)
        seconds: list[tuple[float, float]] = []
        for round in range(arguments.rounds):
            analysis, our_seconds = ours(arguments.program, *paths)
            evaluation, reference_seconds = reference(*paths)
            if round == 0:
                check("made up", analysis, evaluation)
            seconds.append((our_seconds, reference_seconds))
            print(f"round {round + 1}: {our_seconds:.2f} s, pycocotools {reference_seconds:.2f} s", flush=True)
    medians = [statistics.median(column) for column in zip(*seconds)]
    ratio = medians[1] / medians[0]
    print(f"median: {medians[0]:.2f} s, pycocotools {medians[1]:.2f} s, {ratio:.1f} times faster")
    if ratio < arguments.at_least:
        sys.exit(f"that is less than {arguments.at_least} times")


if __name__ == "__main__":
    main()
