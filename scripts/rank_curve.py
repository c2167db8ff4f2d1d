#!/usr/bin/env python3
"""Measures whether photos that `dataset rank` chooses teach a detector more than as many boxes of photos chosen at random.

    cargo build --release
    scripts/rank_curve.py my.toml ANNOTATIONS IMAGES OUT [--seeds 0 1 2] [--first 20] [--take 20] [--rounds 4] [--jobs 2]

`my.toml` is a config whose validation images stay as they are; ANNOTATIONS and IMAGES are those that it trains on, whose
labels are hidden at first. For each seed both ways begin with the same photos, chosen at random. After each round a
detector is trained on what is labelled so far, from the config's own start and for as many steps, and as many more photos
are labelled: those that the detector ranks first, or any. Both see the boxes that the file has. Prints AP beside the boxes
that were labelled; runs that are there are not trained again.
"""

import argparse
import json
import random
import statistics
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "target/release/retinanet"
WAYS = ["random", "rank"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--first", type=int, default=20)
    parser.add_argument("--take", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    data = json.loads(arguments.annotations.read_text())
    with ThreadPoolExecutor(arguments.jobs) as pool:
        tasks = [(way, seed) for seed in arguments.seeds for way in WAYS]
        curves = list(pool.map(lambda task: curve(arguments, data, *task), tasks))
    print("| way | seed | " + " | ".join(f"round {it}" for it in range(arguments.rounds)) + " |")
    print("|---|---|" + "---|" * arguments.rounds)
    for (way, seed), points in zip(tasks, curves):
        cells = [f"{boxes} boxes, {ap:.3f}" for boxes, ap in points]
        print(f"| {way} | {seed} | " + " | ".join(cells) + " |")
    for way in WAYS:
        of_way = [points for (it, _), points in zip(tasks, curves) if it == way]
        for place in range(arguments.rounds):
            boxes, aps = zip(*(points[place] for points in of_way))
            spread = statistics.stdev(aps) if len(aps) > 1 else 0.0
            print(f"{way}, round {place}: {statistics.mean(boxes):.0f} boxes, AP {statistics.mean(aps):.3f} ± {spread:.3f}")


def curve(arguments, data, way, seed):
    """Boxes and AP after each round."""
    pool = [image["id"] for image in data["images"]]
    random.Random(seed).shuffle(pool)
    labelled, points = pool[: arguments.first], []
    for place in range(arguments.rounds):
        # Both ways begin alike.
        name = f"seed-{seed}-first" if place == 0 else f"seed-{seed}-{way}-{place}"
        folder = arguments.out / (name if place else f"{name}-{way}")
        points.append(train(arguments, data, labelled, folder, seed))
        if place + 1 == arguments.rounds:
            break
        rest = [image for image in pool if image not in set(labelled)]
        if way == "rank":
            chosen = ranked(arguments, data, rest, folder)
        else:
            chosen = rest[: arguments.take]
        labelled = labelled + chosen
    return points


def train(arguments, data, labelled, folder, seed):
    folder.mkdir(parents=True, exist_ok=True)
    kept = set(labelled)
    part = {
        **data,
        "images": [it for it in data["images"] if it["id"] in kept],
        "annotations": [it for it in data["annotations"] if it["image_id"] in kept],
    }
    (folder / "train.json").write_text(json.dumps(part))
    run = folder / "run"
    metrics = folder / "eval.json"
    if not metrics.exists():
        train_on = f"data.train={{ annotations = '{(folder / 'train.json').resolve()}', images = '{arguments.images.resolve()}' }}"
        settings = [train_on, f"seed={seed}", *arguments.set]
        command = [PROGRAM, "train", arguments.config, "--run-dir", run]
        call([*command, *(word for setting in settings for word in ["--set", setting])])
        call([PROGRAM, "eval", "--run", run, "--checkpoint", "last", "--json", metrics])
    return len(part["annotations"]), json.loads(metrics.read_text())["metrics"]["AP"]


def ranked(arguments, data, rest, folder):
    """The photos that a detector would have labelled next."""
    names = {image["file_name"]: image["id"] for image in data["images"]}
    wanted = set(rest)
    files = [arguments.images / name for name, image in names.items() if image in wanted]
    found = folder / "next.json"
    command = [PROGRAM, "dataset", "rank", "--run", folder / "run", "--checkpoint", "last", "--take", str(arguments.take)]
    call([*command, "--json", found, *files])
    return [names[line["file_name"]] for line in json.loads(found.read_text())]


def call(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stderr}")


if __name__ == "__main__":
    main()
