#!/usr/bin/env python3
"""Reads annotations of the size of COCO's train2017 with us and with pycocotools, in turn.

    cargo build --release
    pip install pycocotools
    scripts/bench_coco_sized_json.py [--images 118287] [--boxes 860001] [--rounds 3] [--file FILE]

The file is made up: as many images and boxes as COCO's, with a polygon for each box, about 0.4 GB.
For each program it prints the median of the seconds over the rounds and the most memory that the
process held. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def make(path: Path, images: int, boxes: int) -> None:
    """Writes line by line: the whole of it in memory would take gigabytes."""
    draw = random.Random(0)
    with path.open("w") as file:
        file.write('{"info": {}, "licenses": [], "images": [\n')
        for image in range(images):
            record = {
                "license": 1,
                "file_name": f"{image:012}.jpg",
                "coco_url": f"http://images.cocodataset.org/train2017/{image:012}.jpg",
                "height": 480,
                "width": 640,
                "date_captured": "2013-11-14 11:18:45",
                "id": image,
            }
            file.write(json.dumps(record) + (",\n" if image + 1 < images else "\n"))
        file.write('], "annotations": [\n')
        for box in range(boxes):
            width, height = draw.uniform(4, 300), draw.uniform(4, 300)
            x, y = draw.uniform(0, 640 - width), draw.uniform(0, 480 - height)
            points = [
                round(edge + draw.random() * side, 2)
                for _ in range(20)
                for edge, side in ((x, width), (y, height))
            ]
            record = {
                "segmentation": [points],
                "area": round(0.6 * width * height, 4),
                "iscrowd": 0,
                "image_id": draw.randrange(images),
                "bbox": [round(value, 2) for value in (x, y, width, height)],
                "category_id": draw.randint(1, 80),
                "id": box + 1,
            }
            file.write(json.dumps(record) + (",\n" if box + 1 < boxes else "\n"))
        categories = [{"id": id, "name": f"class {id}"} for id in range(1, 81)]
        file.write('], "categories": ' + json.dumps(categories) + "}\n")


def measure(command: list[str]) -> tuple[float, float]:
    """Seconds, and the most memory held in GiB."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"{' '.join(command)}: exit status {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - started, usage.ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=118_287)
    parser.add_argument("--boxes", type=int, default=860_001)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--file", type=Path, help="made unless it is there, and kept")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        path = arguments.file or Path(folder) / "coco_sized.json"
        if not path.exists():
            make(path, arguments.images, arguments.boxes)
        print(f"{path.stat().st_size / 2**20:.0f} MiB")

        ours = str(ROOT / "target/release/retinanet")
        theirs = "import sys; from pycocotools.coco import COCO; COCO(sys.argv[1])"
        commands = {
            "retinanet dataset stats": [ours, "dataset", "stats", str(path)],
            "pycocotools COCO(file)": [sys.executable, "-c", theirs, str(path)],
        }
        measured: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(arguments.rounds):
            for name, command in commands.items():
                measured[name].append(measure(command))
        for name, rounds in measured.items():
            seconds = statistics.median(seconds for seconds, _ in rounds)
            print(f"{name:24} {seconds:6.2f} s  {max(memory for _, memory in rounds):.2f} GiB")


if __name__ == "__main__":
    main()
