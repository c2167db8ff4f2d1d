#!/usr/bin/env python3
"""Checks that weights go from torchvision into the program and back, and find the same in photos.

    cargo build --release
    scripts/check_torchvision_round_trip.py [--model v1_resnet18]... [--seed N] [--photos N]

Each model is torchvision's RetinaNet with random parameters, of another seed at each run, so made that
it finds things. Its weights are imported, and the program's detections in real photos compared with
torchvision's own: the same labels, boxes and scores, one to one. Then they are exported under
torchvision's names, loaded into a fresh torchvision model, and must be the same bit for bit.

Rounding can turn a decision of post-processing: whether a score is above a cut, whether two boxes
overlap too much. A detection that only one side has for such a reason is a close call; few are allowed.

The first disagreement ends the run with code 1. PyTorch comes from the Python that runs this, or else
from `.venv-bench` in the project's root, which is made at the first run. Photos come from the folder
in RETINANET_SHARED, or else from `../shared` beside the project.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench_vs_torchvision import PROGRAM, python_with_torch

# It may be another Python that has PyTorch: start again in that one.
if __name__ == "__main__" and (PYTHON := python_with_torch()) != sys.executable:
    subprocess.run([PYTHON, "-m", "pip", "install", "--quiet", "safetensors"], check=True, stdout=sys.stderr)
    os.execv(PYTHON, [PYTHON, *sys.argv])

import numpy as np
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.ops import box_iou

from make_torchvision_fixtures import SHARED, build_model

CLASSES = 91
# Generation and backbone.
MODELS = {
    f"{generation}_{backbone}": (generation, backbone)
    for generation in ("v1", "v2")
    for backbone in ("resnet18", "resnet50")
}
PRESETS = {"v1": "torchvision", "v2": "torchvision_v2"}
PHOTO_FOLDERS = ["bccd", "coco_free", "cards", "fruits_nuts"]

# Smaller than torchvision's 800 and 1333, to be quick.
SHORT_SIDE, LONG_SIDE = 320, 533
SCORE_THRESHOLD = 0.05
NMS_THRESHOLD = 0.5
DETECTIONS = 300
# Of each photo at least.
CANDIDATES = 150
FEWEST_DETECTIONS = 10

# Overlaps this near to the threshold are close calls.
IOU_TOLERANCE = 1e-4
# Two boxes that overlap more are the same thing at different places, which is not a close call.
SAME_OVERLAP = 0.98
MOST_CLOSE_CALLS = 3


@dataclass
class Detections:
    """Of one photo: boxes `[n, 4]` with edges in its pixels, scores and labels, at 64 bits."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


@dataclass
class Comparison:
    """How one photo's detections agree, or a whole model's."""

    detections: int = 0
    box: float = 0.0
    score: float = 0.0
    close_calls: int = 0

    def add(self, other: Comparison) -> None:
        self.detections += other.detections
        self.box = max(self.box, other.box)
        self.score = max(self.score, other.score)
        self.close_calls += other.close_calls


def main() -> None:
    arguments = parse_arguments()
    if not arguments.program.exists():
        sys.exit(f"error: {arguments.program} is not built: cargo build --release")
    arguments.program = arguments.program.resolve()
    print(f"seed {arguments.seed}, torch {torch.__version__}, torchvision {torchvision.__version__}")
    use_exact_nms()
    names = arguments.model or list(MODELS)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        photos = copy_photos(folder / "photos", arguments)
        results = {name: check_model(name, folder / name, photos, arguments) for name in names}
        if "v1_resnet18" in names:
            check_forms(folder / "v1_resnet18", arguments)
    print(f"\n{table(results, len(photos))}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", action="append", choices=list(MODELS), help="only this, as often as needed")
    parser.add_argument("--seed", type=int, default=random.randrange(2**31), help="of parameters and choice of photos")
    parser.add_argument("--photos", type=int, default=4, help="how many, in turn from each data set")
    parser.add_argument("--program", type=Path, default=PROGRAM)
    parser.add_argument("--folder", type=Path, help="where to leave all files; else they are removed")
    parser.add_argument("--box-tolerance", type=float, default=0.01, help="pixels of the photo")
    parser.add_argument("--score-tolerance", type=float, default=1e-4)
    return parser.parse_args()


def check_model(name: str, folder: Path, photos: list[Path], arguments: argparse.Namespace) -> Comparison:
    """There and back with one model."""
    folder.mkdir(parents=True, exist_ok=True)
    generation, backbone = MODELS[name]
    model = lively_model(generation, backbone, arguments.seed, [read_photo(photo) for photo in photos])
    torch.save(model.state_dict(), folder / "model.pth")
    write_config(folder / "config.toml", generation, backbone)

    import_weights(folder, "model.pth", "imported.safetensors", arguments)
    ours = predict(folder, photos, arguments)
    theirs = {photo.name: torchvision_detections(model, photo) for photo in photos}
    total = Comparison()
    for photo in photos:
        found = len(theirs[photo.name].scores)
        if found < FEWEST_DETECTIONS:
            sys.exit(f"error: {name} finds only {found} things in {photo.name}: try another seed")
        result = compare(theirs[photo.name], ours[photo.name], f"{name}, {photo.name}", arguments)
        print(f"{name}: {photo.name}: {described(result)}", flush=True)
        total.add(result)
    check_way_back(name, folder, model, theirs, photos, arguments)
    return total


# Models and photos.


def lively_model(generation: str, backbone: str, seed: int, photos: list[Tensor]) -> RetinaNet:
    """A model with random parameters that finds things in each photo."""
    torch.manual_seed(seed)
    model = build_model(generation, backbone, CLASSES, min_size=SHORT_SIDE, max_size=LONG_SIDE).eval()
    assert (model.score_thresh, model.nms_thresh) == (SCORE_THRESHOLD, NMS_THRESHOLD)
    assert model.detections_per_img == DETECTIONS
    with torch.no_grad():
        # Of frozen batch norms, weights are not parameters.
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.7, 1.3)
            elif name.endswith("running_mean"):
                tensor.normal_(0.0, 0.1)
            elif name.endswith(".bias"):
                tensor.normal_(0.0, 0.1)
            elif name.endswith(".weight") and tensor.dim() == 1:
                tensor.uniform_(0.5, 1.0)
        for module in model.head.modules():
            if isinstance(module, nn.Conv2d):
                # Keeps the size of what goes through; torchvision's own shrinks it to nearly nothing.
                module.weight.normal_(0.0, 0.03)
        # So small that boxes stay near their anchors.
        model.head.regression_head.bbox_reg.weight.mul_(0.3)
        raise_scores(model, photos)
    return model


def raise_scores(model: RetinaNet, photos: list[Tensor]) -> None:
    """Shifts the bias of all classes so that each photo has candidates enough, but not many more."""
    model.head.classification_head.cls_logits.bias.normal_(-3.0, 0.5)
    lowest = math.inf
    for photo in photos:
        features = model.backbone(model.transform([photo])[0].tensors)
        logits = model.head.classification_head(list(features.values()))
        lowest = min(lowest, logits.flatten().topk(CANDIDATES).values[-1].item())
    wanted = math.log(SCORE_THRESHOLD / (1 - SCORE_THRESHOLD))
    model.head.classification_head.cls_logits.bias += wanted - lowest


def copy_photos(folder: Path, arguments: argparse.Namespace) -> list[Path]:
    """Some photos as PNG: decoders of JPEG differ."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(arguments.seed)
    photos = []
    for k in range(arguments.photos):
        origin = PHOTO_FOLDERS[k % len(PHOTO_FOLDERS)]
        source = chance.choice(sorted((SHARED / "data" / origin / "images").glob("*.[jJ][pP][gG]")))
        photos.append(folder / f"{k}_{origin}_{source.stem}.png")
        # By way of an array, lest metadata come along.
        Image.fromarray(np.array(Image.open(source).convert("RGB"))).save(photos[-1])
    return photos


def read_photo(path: Path) -> Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1).float() / 255


# The two sides.


def use_exact_nms() -> None:
    """Where candidates are few, torchvision shifts the boxes of each class by thousands of pixels, so
    that those of other classes do not overlap, and rounds them to 0.004 pixels thereby. Where they are
    many, it goes class by class. Always do that."""
    torchvision.ops.boxes._batched_nms_coordinate_trick = torchvision.ops.boxes._batched_nms_vanilla


@torch.no_grad()
def torchvision_detections(model: RetinaNet, photo: Path) -> Detections:
    # One by one: a batch is padded to its largest image, which changes features and anchors.
    found = model([read_photo(photo)])[0]
    return Detections(found["boxes"].double(), found["scores"].double(), found["labels"])


def write_config(path: Path, generation: str, backbone: str) -> None:
    path.write_text(
        f'preset = "{PRESETS[generation]}"\n\n'
        f"[data]\nshort_side = {SHORT_SIDE}\nlong_side = {LONG_SIDE}\n\n"
        f'[model]\nbackbone = "{backbone}"\n'
    )


def import_weights(folder: Path, source: str, out: str, arguments: argparse.Namespace) -> None:
    run(arguments, folder, "import", source, "--config", "config.toml", "--out", out)


def predict(folder: Path, photos: list[Path], arguments: argparse.Namespace) -> dict[str, Detections]:
    """The program's detections, by the photo's name."""
    options = ["--weights", "imported.safetensors", "--config", "config.toml", "--score", str(SCORE_THRESHOLD)]
    options += ["--out", "drawn", "--json", "detections.json"]
    run(arguments, folder, "predict", *options, *map(str, photos))
    records = json.loads((folder / "detections.json").read_text())
    detections = {}
    for photo in photos:
        ours = [record for record in records if Path(record["file_name"]).name == photo.name]
        boxes = torch.tensor([record["bbox"] for record in ours], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        scores = torch.tensor([record["score"] for record in ours], dtype=torch.float64)
        labels = torch.tensor([record["category_id"] for record in ours], dtype=torch.int64)
        detections[photo.name] = Detections(boxes, scores, labels)
    return detections


def run(arguments: argparse.Namespace, folder: Path, *command: str) -> None:
    done = subprocess.run([str(arguments.program), *command], cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"error: retinanet {' '.join(command)}\nended with {done.returncode}:\n{done.stderr}")


# The comparison.


def compare(theirs: Detections, ours: Detections, where: str, arguments: argparse.Namespace) -> Comparison:
    """One to one; ends the run where they disagree by more than close calls."""
    edges, scores, cost = differences(theirs, ours, arguments)
    pairs = one_to_one(cost)
    lone_theirs = sorted(set(range(len(theirs.scores))) - {i for i, _ in pairs})
    lone_ours = sorted(set(range(len(ours.scores))) - {j for _, j in pairs})
    for side, lone, other, other_lone, title in [
        (theirs, lone_theirs, ours, lone_ours, "torchvision's"),
        (ours, lone_ours, theirs, lone_theirs, "our"),
    ]:
        excused = close_calls(side, lone, other, other_lone, arguments.score_tolerance)
        for index in sorted(set(lone) - excused):
            sys.exit(f"error: {where}: {unmatched(side, index, other, title)}")
    close = len(lone_theirs) + len(lone_ours)
    if close > MOST_CLOSE_CALLS:
        sys.exit(f"error: {where}: {close} close calls are too many")
    worst_box = max((edges[pair].item() for pair in pairs), default=0.0)
    worst_score = max((scores[pair].item() for pair in pairs), default=0.0)
    return Comparison(len(theirs.scores), worst_box, worst_score, close)


def differences(
    theirs: Detections, ours: Detections, arguments: argparse.Namespace
) -> tuple[Tensor, Tensor, Tensor]:
    """Each with each: the largest of box edges, of scores, and of both in tolerances."""
    edges = (theirs.boxes[:, None] - ours.boxes[None]).abs().amax(dim=2)
    scores = (theirs.scores[:, None] - ours.scores[None]).abs()
    cost = torch.maximum(edges / arguments.box_tolerance, scores / arguments.score_tolerance)
    cost[theirs.labels[:, None] != ours.labels[None]] = math.inf
    return edges, scores, cost


def one_to_one(cost: Tensor) -> list[tuple[int, int]]:
    """Pairs within the tolerances, the best of each in turn."""
    pairs = []
    cost = cost.clone()
    for i in range(cost.shape[0] if cost.numel() else 0):
        j = int(cost[i].argmin())
        if cost[i, j] <= 1:
            pairs.append((i, j))
            cost[:, j] = math.inf
    return pairs


def close_calls(
    side: Detections, lone: list[int], other: Detections, other_lone: list[int], tolerance: float
) -> set[int]:
    """Which of those that only one side has are there for rounding."""
    direct = {index for index in lone if is_close_call(side, index, other, tolerance)}
    # Who lost to, or won against, a close call of the other side.
    opposite = [index for index in other_lone if is_close_call(other, index, side, tolerance)]
    rivals = other.labels[opposite], other.boxes[opposite]
    return direct | {index for index in lone if overlaps(side, index, *rivals, NMS_THRESHOLD, SAME_OVERLAP)}


def is_close_call(side: Detections, index: int, other: Detections, tolerance: float) -> bool:
    if overlaps(side, index, other.labels, other.boxes, SAME_OVERLAP, 1.0):
        return False
    score = side.scores[index].item()
    cuts = [SCORE_THRESHOLD] + [each.scores.min().item() for each in (side, other) if len(each.scores) == DETECTIONS]
    if any(abs(score - cut) <= tolerance for cut in cuts):
        return True
    for each in (side, other):
        if overlaps(side, index, each.labels, each.boxes, NMS_THRESHOLD - IOU_TOLERANCE, NMS_THRESHOLD + IOU_TOLERANCE):
            return True
    # Nearly the same score as the one that won over there.
    near = (other.scores - score).abs() <= tolerance
    return overlaps(side, index, other.labels[near], other.boxes[near], NMS_THRESHOLD, SAME_OVERLAP)


def overlaps(side: Detections, index: int, labels: Tensor, boxes: Tensor, low: float, high: float) -> bool:
    """Whether any box of the same label overlaps this one by as much as that."""
    overlap = box_iou(side.boxes[index : index + 1], boxes[labels == side.labels[index]])
    return bool(((overlap >= low) & (overlap <= high)).any())


def unmatched(side: Detections, index: int, other: Detections, title: str) -> str:
    text = f"{title} detection {index} is not there on the other side: {one(side, index)}"
    same = torch.where(other.labels == side.labels[index])[0]
    if len(same) == 0:
        return f"{text}\nnothing there has that label"
    nearest = same[(other.boxes[same] - side.boxes[index]).abs().amax(dim=1).argmin()].item()
    return f"{text}\nthe nearest there: {one(other, nearest)}"


def one(detections: Detections, index: int) -> str:
    edges = ", ".join(f"{edge:.3f}" for edge in detections.boxes[index].tolist())
    return f"label {detections.labels[index]}, score {detections.scores[index]:.6f}, box {edges}"


# The way back, and other files.


def check_way_back(
    name: str,
    folder: Path,
    model: RetinaNet,
    theirs: dict[str, Detections],
    photos: list[Path],
    arguments: argparse.Namespace,
) -> None:
    """Exported weights must load into a fresh model, be the same and find the same."""
    options = ["--weights", "imported.safetensors", "--config", "config.toml"]
    options += ["--format", "safetensors", "--names", "torchvision", "--out", "back.safetensors"]
    run(arguments, folder, "export", *options)
    back = load_file(folder / "back.safetensors")
    fresh = build_model(*MODELS[name], CLASSES, min_size=SHORT_SIDE, max_size=LONG_SIDE).eval()
    try:
        fresh.load_state_dict(back, strict=True)
    except RuntimeError as failure:
        sys.exit(f"error: {name}: torchvision cannot load the exported weights: {failure}")
    for key, tensor in model.state_dict().items():
        # Frozen batch norms may come with or without `num_batches_tracked`; torchvision checks the rest.
        if key in back and not same_bits(tensor, back[key]):
            sys.exit(f"error: {name}: {key} came back changed")
    for photo in photos:
        again = torchvision_detections(fresh, photo)
        before = theirs[photo.name]
        if not all(torch.equal(getattr(again, key), getattr(before, key)) for key in ("boxes", "scores", "labels")):
            sys.exit(f"error: {name}: the model that came back finds something else in {photo.name}")


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()


def check_forms(folder: Path, arguments: argparse.Namespace) -> None:
    """The same weights in other files must be imported as the same bytes."""
    state = torch.load(folder / "model.pth")
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, folder / "plain.safetensors")
    torch.save({"model": state}, folder / "nested.pth")
    torch.save(old_names(state), folder / "old_names.pth")
    expected = (folder / "imported.safetensors").read_bytes()
    for source in ["plain.safetensors", "nested.pth", "old_names.pth"]:
        out = f"imported_{Path(source).stem}.safetensors"
        import_weights(folder, source, out, arguments)
        if (folder / out).read_bytes() != expected:
            sys.exit(f"error: {source} is imported differently from model.pth")
        print(f"{source}: the same import")


def old_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As before torchvision 0.13, and so in its published weights of the first model: `conv.2.weight`
    in the heads is `conv.1.0.weight` now."""
    renamed = {}
    for key, tensor in state.items():
        head, found, rest = key.partition("_head.conv.")
        if found:
            number, _, kind = rest.split(".")
            key = f"{head}{found}{2 * int(number)}.{kind}"
        renamed[key] = tensor
    return renamed


def described(result: Comparison) -> str:
    return (
        f"{result.detections} detections, worst difference {result.box:.1e} px, {result.score:.1e} in score, "
        f"{result.close_calls} close calls"
    )


def table(results: dict[str, Comparison], photos: int) -> str:
    rows = [["model", "photos", "detections", "worst box", "worst score", "close calls", "way back"]]
    rows.append(["---"] + ["---:"] * 5 + ["---"])
    for name, each in results.items():
        numbers = [photos, each.detections, f"{each.box:.1e} px", f"{each.score:.1e}", each.close_calls]
        rows.append([name, *map(str, numbers), "same bits"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    main()
