#!/usr/bin/env python3
"""Checks that `configs/bccd_r18.toml` trains as torchvision does: step by step, from the same weights.

    cargo build --release
    scripts/check_torchvision_training.py [--steps N] [--run RUN]

torchvision's RetinaNet-18 is drawn at random, as in `train_torchvision_reference.py`. From its weights both
train on the same few photos of BCCD, all of them in each batch and all mirrored, and the losses of each step
must agree. So the mirrored boxes, the networks, the norms that learn, the losses, the gradients, momentum,
weight decay and warm-up are the same: after 16 steps a momentum of 0.89 would differ by 7e-4 of the loss, a
weight decay of 1e-3 by 4e-5. After some twenty steps rounding has grown, as it does in any two trainings, and
they part.

With `--run`, the weights of a finished run of that config go to torchvision, which evaluates them on BCCD's
validation split: its AP must be the run's but for what decoders of JPEG do differently. Then both go on from
there, step by step as above.

A disagreement ends the script with code 1. PyTorch and photos come from where
`check_torchvision_round_trip.py` has them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_vs_torchvision import PROGRAM, ROOT, python_with_torch

# It may be another Python that has PyTorch: start again in that one.
if __name__ == "__main__" and (PYTHON := python_with_torch()) != sys.executable:
    subprocess.run(
        [PYTHON, "-m", "pip", "install", "--quiet", "safetensors", "pycocotools"], check=True, stdout=sys.stderr
    )
    os.execv(PYTHON, [PYTHON, *sys.argv])

import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision.models.detection import RetinaNet

from make_torchvision_fixtures import SHARED
from train_torchvision_reference import (
    CocoImages,
    build_model,
    evaluate,
    learning_rate,
    parse_arguments as parse_recipe,
    train_step,
)

BCCD = SHARED / "data/bccd"
CONFIG = ROOT / "configs/bccd_r18.toml"


def main() -> None:
    arguments = parse_arguments()
    if not arguments.program.exists():
        sys.exit(f"error: {arguments.program} is not built: cargo build --release")
    print(f"torch {torch.__version__}, seed {arguments.seed}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_photos(folder, arguments.photos)
        settings = recipe(folder, arguments.photos)
        torch.manual_seed(arguments.seed)
        photos = CocoImages(folder, "train", settings, training=True)
        model = build_model(photos.classes, settings)
        print("\nfrom random weights")
        check_steps(model, photos, folder / "random", settings, arguments)
        if arguments.run:
            print(f"\nfrom {arguments.run}")
            weights = folder / "run.safetensors"
            run(arguments, "export", "--run", arguments.run.resolve(), "--names", "torchvision", "--out", weights)
            model.load_state_dict(load_file(weights), strict=True)
            check_evaluation(model, arguments)
            check_steps(model, photos, folder / "run", settings, arguments)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--photos", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    parser.add_argument("--run", type=Path, help="a finished run of configs/bccd_r18.toml")
    parser.add_argument("--program", type=Path, default=PROGRAM)
    parser.add_argument("--loss-tolerance", type=float, default=1e-5, help="of the loss, as a share of it")
    parser.add_argument("--ap-tolerance", type=float, default=0.003)
    return parser.parse_args()


# Steps.


def check_steps(
    model: RetinaNet, photos: CocoImages, folder: Path, settings: argparse.Namespace, arguments: argparse.Namespace
) -> None:
    """Both from the model's weights; torchvision trains the model itself."""
    folder.mkdir()
    torch.save(model.state_dict(), folder / "start.pth")
    theirs = torchvision_losses(model, photos, settings, arguments.steps)
    ours = program_losses(folder, arguments)
    worst = 0.0
    print("step  torchvision         ours  difference")
    for step, (their, our) in enumerate(zip(theirs, ours, strict=True), 1):
        difference = abs(our - their) / their
        worst = max(worst, difference)
        print(f"{step:4}  {their:11.7f}  {our:11.7f}  {difference:10.1e}")
        if not difference <= arguments.loss_tolerance:
            sys.exit(f"error: step {step}: the losses differ by more than {arguments.loss_tolerance:.0e} of them")
    print(f"{len(ours)} steps, loss {ours[0]:.4f} to {ours[-1]:.4f}: the largest difference is {worst:.1e} of it")


def write_photos(folder: Path, count: int) -> None:
    """The first photos with a training and a validation file of them, as PNG: decoders of JPEG differ."""
    content = json.loads((BCCD / "train.json").read_text())
    content["images"] = content["images"][:count]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [each for each in content["annotations"] if each["image_id"] in ids]
    (folder / "images").mkdir()
    for image in content["images"]:
        source = BCCD / "images" / image["file_name"]
        image["file_name"] = f"{source.stem}.png"
        with Image.open(source) as file:
            file.convert("RGB").save(folder / "images" / image["file_name"])
    for split in ("train", "val"):
        (folder / f"{split}.json").write_text(json.dumps(content))


def recipe(data: Path, photos: int) -> argparse.Namespace:
    """The reference's own, with all photos in a batch, mirrored where it trains."""
    given = sys.argv
    sys.argv = [given[0], "--data", str(data), "--batch", str(photos), "--flip", "1"]
    settings = parse_recipe()
    sys.argv = given
    return settings


def torchvision_losses(model: RetinaNet, photos: CocoImages, settings: argparse.Namespace, steps: int) -> list[float]:
    images, targets, _ = zip(*(photos[index] for index in range(len(photos))))
    model.train()
    optimizer = torch.optim.SGD(
        model.parameters(), settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    losses = []
    for step in range(steps):
        # As if there were more to come: at the end of a training it falls.
        rate = learning_rate(step, 2 * steps, settings)
        losses.append(train_step(model, optimizer, rate, images, targets, settings.clip_norm))
    return losses


def program_losses(folder: Path, arguments: argparse.Namespace) -> list[float]:
    settings = {
        "data.root": folder.parent,
        "data.augment.horizontal_flip": 1.0,
        "model.pretrained": folder / "start.pth",
        "optimizer.reference_batch": arguments.photos,
        "schedule.milestones": [2 * arguments.steps],
        "train.batch_size": arguments.photos,
        "train.epochs": arguments.steps,
        "train.eval_every": arguments.steps,
        # Another order of the same sums.
        "compute.winograd": "false",
    }
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    run(arguments, "train", CONFIG, "--run-dir", folder / "run", *options)
    lines = map(json.loads, (folder / "run/metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["kind"] == "step"]


# Evaluation.


def check_evaluation(model: RetinaNet, arguments: argparse.Namespace) -> None:
    settings = recipe(BCCD, arguments.photos)
    images = CocoImages(BCCD, "val", settings, training=False)
    theirs = evaluate(model, images, settings)
    lines = map(json.loads, (arguments.run / "metrics.jsonl").read_text().splitlines())
    # The best of a run is what is exported.
    ours = max((line for line in lines if line["kind"] == "evaluation"), key=lambda line: line["AP"])
    for name, their in theirs.items():
        print(f"{name}: torchvision {their:.4f}, ours {ours[name]:.4f}")
    if not abs(theirs["AP"] - ours["AP"]) <= arguments.ap_tolerance:
        sys.exit(f"error: the AP differ by more than {arguments.ap_tolerance}")


def run(arguments: argparse.Namespace, *command: object) -> None:
    words = [str(word) for word in command]
    done = subprocess.run([str(arguments.program), *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"error: retinanet {' '.join(words)}\nended with {done.returncode}:\n{done.stderr}")


if __name__ == "__main__":
    main()
