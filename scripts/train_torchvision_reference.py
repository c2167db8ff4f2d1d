#!/usr/bin/env python3
"""Trains torchvision's RetinaNet with a ResNet-18 from scratch, to compare what `retinanet train` learns.

    pip install torch torchvision pycocotools
    scripts/train_torchvision_reference.py --data FOLDER [--epochs 20] [--seed 0] [--json OUT]

FOLDER has `train.json` and `val.json`, in COCO's form, and `images/`. After chosen epochs and at the
end, pycocotools evaluates on `val.json`; each time one line of JSON goes to stdout, and a last one with
the median time of a step. Progress goes to stderr. All is computed on the CPU.

The network is `retinanet_resnet50_fpn` with a ResNet-18: random weights, batch norm that is trained,
nothing frozen, P6 from P5, torchvision's anchors, losses and post-processing. Category ids are labels as
they are. The recipe is SGD with weight decay on everything, warm-up as in torchvision's references, and
a tenth of the learning rate for the last tenth of the steps.

Where torchvision's references leave it open or do otherwise:

- Batches run on across the epochs' ends, so that all are full: there are `epochs * images / batch` steps,
  rounded up. An evaluation comes after the first step that completes its epoch.
- Batches are not grouped by aspect ratio.
- Boxes are clipped to their image, and then left out where a side is at most one pixel, so are crowds.
  Training images without a box left are left out, as the references do, unless `--keep-empty`.

With `seconds`, evaluations count; with `train_seconds`, they do not. A step's time has loading in it:
all of it where there are no workers.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torchvision
from PIL import Image, ImageOps
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from torchvision.transforms.functional import hflip, pil_to_tensor

LOG_EVERY = 20

Target = dict[str, Tensor]


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    train_images = CocoImages(arguments.data, "train", arguments, training=True)
    val_images = CocoImages(arguments.data, "val", arguments, training=False)
    if len(train_images) == 0:
        sys.exit("error: there is nothing to train on")
    log(f"{len(train_images)} images to train on, {train_images.left_out} left out; {len(val_images)} to evaluate")

    model = build_model(train_images.classes, arguments)
    lines = []
    for line in train(model, train_images, val_images, arguments):
        print(json.dumps(line), flush=True)
        lines.append(line)
        # Each time, so that a run that is stopped leaves something.
        if arguments.json:
            report = {"settings": settings(arguments), "lines": lines}
            arguments.json.write_text(json.dumps(report, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder with train.json, val.json and images/")
    add("--short-side", type=int, default=240)
    add("--long-side", type=int, default=480, help="at most")
    add("--batch", type=int, default=4)
    add("--epochs", type=int, default=20)
    add("--lr", type=float, default=0.01)
    add("--momentum", type=float, default=0.9)
    add("--weight-decay", type=float, default=1e-4)
    add("--warmup", type=int, default=100, help="steps over which the learning rate grows")
    add("--warmup-start", type=float, default=1e-3, help="factor that it grows from")
    add("--decay", type=float, default=0.1, help="factor on it in the last steps")
    add("--decay-share", type=float, default=0.1, help="share of the steps that are the last ones")
    add("--flip", type=float, default=0.5, help="probability of a horizontal flip")
    add("--clip-norm", type=float, default=10.0, help="the gradients' norm is cut to this")
    add("--keep-empty", action="store_true", help="trains on images without boxes too")
    add("--detections", type=int, default=300, help="of an image, at most")
    add("--score-threshold", type=float, default=0.05)
    add("--eval-at", type=int, nargs="*", default=[4, 8, 16, 20], metavar="EPOCH", help="and at the end")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=2)
    add("--workers", type=int, default=0, help="processes that load; 0: the main process does")
    add("--limit", type=int, help="only so many images of each file")
    add("--json", type=Path, metavar="OUT", help="writes the settings and all lines too")
    arguments = parser.parse_args()
    for name in ("batch", "epochs", "threads"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return arguments


def settings(arguments: argparse.Namespace) -> dict:
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
    return plain | {"torch": torch.__version__, "torchvision": torchvision.__version__}


class CocoImages(Dataset):
    """The images of a COCO file with their boxes."""

    def __init__(self, folder: Path, split: str, arguments: argparse.Namespace, training: bool) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            self.coco = COCO(folder / f"{split}.json")
        for annotation in self.coco.anns.values():
            # Evaluation needs both.
            annotation.setdefault("iscrowd", 0)
            annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])
        self.folder = folder / "images"
        self.flip = arguments.flip if training else 0.0
        self.classes = max(self.coco.getCatIds()) + 1
        ids = sorted(self.coco.getImgIds())[: arguments.limit]
        self.targets = {id: self.read_target(id) for id in ids}
        without_boxes = training and not arguments.keep_empty
        self.ids = [id for id in ids if len(self.targets[id]["boxes"]) or not without_boxes]
        self.left_out = len(ids) - len(self.ids)

    def read_target(self, id: int) -> Target:
        image = self.coco.imgs[id]
        annotations = self.coco.loadAnns(self.coco.getAnnIds(id, iscrowd=False))
        boxes = torch.tensor([annotation["bbox"] for annotation in annotations]).float().reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes[:, 0::2].clamp_(0, image["width"])
        boxes[:, 1::2].clamp_(0, image["height"])
        labels = torch.tensor([annotation["category_id"] for annotation in annotations], dtype=torch.int64)
        keep = (boxes[:, 2:] - boxes[:, :2] > 1).all(dim=1)
        return {"boxes": boxes[keep], "labels": labels[keep]}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Tensor, Target, int]:
        id = self.ids[index]
        with Image.open(self.folder / self.coco.imgs[id]["file_name"]) as file:
            image = pil_to_tensor(ImageOps.exif_transpose(file).convert("RGB")).float() / 255
        target = self.targets[id]
        if torch.rand(()) < self.flip:
            image, target = hflip(image), flipped(target, image.shape[2])
        return image, target, id


def flipped(target: Target, width: int) -> Target:
    left, top, right, bottom = target["boxes"].unbind(1)
    return target | {"boxes": torch.stack([width - right, top, width - left, bottom], dim=1)}


def build_model(classes: int, arguments: argparse.Namespace) -> RetinaNet:
    """As `retinanet_resnet50_fpn(weights=None, weights_backbone=None)`, which freezes nothing either."""
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        norm_layer=nn.BatchNorm2d,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    return RetinaNet(
        backbone,
        classes,
        min_size=arguments.short_side,
        max_size=arguments.long_side,
        score_thresh=arguments.score_threshold,
        detections_per_img=arguments.detections,
    )


def train(
    model: RetinaNet, train_images: CocoImages, val_images: CocoImages, arguments: argparse.Namespace
) -> Iterator[dict]:
    """Gives a line for each evaluation, and one for the whole."""
    steps = steps_after(arguments.epochs, len(train_images), arguments)
    epochs = {epoch for epoch in arguments.eval_at if epoch < arguments.epochs} | {arguments.epochs}
    # Of a small data set, several epochs may end with the same step: the last one counts.
    evaluations = {steps_after(epoch, len(train_images), arguments): epoch for epoch in sorted(epochs)}
    optimizer = torch.optim.SGD(
        model.parameters(), arguments.lr, momentum=arguments.momentum, weight_decay=arguments.weight_decay
    )

    losses: list[float] = []
    load_times: list[float] = []
    step_times: list[float] = []
    model.train()
    begin = start = time.perf_counter()
    loader = load(train_images, batches(len(train_images), steps, arguments), arguments)
    for step, (images, targets, _) in enumerate(loader):
        load_times.append(time.perf_counter() - start)
        rate = learning_rate(step, steps, arguments)
        losses.append(train_step(model, optimizer, rate, images, targets, arguments.clip_norm))
        step_times.append(time.perf_counter() - start)
        if (step + 1) % LOG_EVERY == 0:
            recent = statistics.mean(losses[-LOG_EVERY:])
            seconds = statistics.median(step_times[-LOG_EVERY:])
            log(f"step {step + 1}/{steps}: loss {recent:.4f}, learning rate {rate:.6f}, {seconds:.2f} s a step")
        if epoch := evaluations.get(step + 1):
            precisions = evaluate(model, val_images, arguments)
            yield {
                "epoch": epoch,
                "step": step + 1,
                **precisions,
                "seconds": round(time.perf_counter() - begin, 1),
                "train_seconds": round(sum(step_times), 1),
            }
        start = time.perf_counter()
    yield {
        "steps": steps,
        "median_step_s": round(statistics.median(step_times), 4),
        "median_load_s": round(statistics.median(load_times), 4),
        "seconds": round(time.perf_counter() - begin, 1),
        "train_seconds": round(sum(step_times), 1),
    }


def steps_after(epochs: int, images: int, arguments: argparse.Namespace) -> int:
    return math.ceil(epochs * images / arguments.batch)


def batches(images: int, steps: int, arguments: argparse.Namespace) -> list[list[int]]:
    """The indices of each step's images: one random order after the other."""
    generator = torch.Generator().manual_seed(arguments.seed)
    indices: list[int] = []
    while len(indices) < steps * arguments.batch:
        indices += torch.randperm(images, generator=generator).tolist()
    return [indices[step * arguments.batch :][: arguments.batch] for step in range(steps)]


def load(images: CocoImages, batches: list[list[int]], arguments: argparse.Namespace) -> DataLoader:
    return DataLoader(
        images, batch_sampler=batches, num_workers=arguments.workers, collate_fn=lambda items: tuple(zip(*items))
    )


def learning_rate(step: int, steps: int, arguments: argparse.Namespace) -> float:
    rate = arguments.lr
    if step < arguments.warmup:
        done = step / arguments.warmup
        rate *= arguments.warmup_start * (1 - done) + done
    if step >= steps - int(steps * arguments.decay_share):
        rate *= arguments.decay
    return rate


def train_step(
    model: RetinaNet,
    optimizer: torch.optim.SGD,
    rate: float,
    images: tuple[Tensor, ...],
    targets: tuple[Target, ...],
    clip_norm: float,
) -> float:
    """The loss before the step."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss = sum(model(list(images), list(targets)).values())
    if not math.isfinite(loss.item()):
        sys.exit(f"error: the loss is {loss.item()}")
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    return loss.item()


@torch.inference_mode()
def evaluate(model: RetinaNet, images: CocoImages, arguments: argparse.Namespace) -> dict[str, float]:
    """AP, AP50 and AP75; the model is back in training mode afterwards."""
    model.eval()
    results = []
    starts = range(0, len(images), arguments.batch)
    groups = [list(range(len(images)))[start : start + arguments.batch] for start in starts]
    for batch, _, ids in load(images, groups, arguments):
        for id, found in zip(ids, model(list(batch)), strict=True):
            results += coco_results(id, found)
    model.train()
    log(f"{len(results)} detections in {len(images)} images")
    if not results:
        # pycocotools cannot read an empty list.
        return {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}
    with contextlib.redirect_stdout(sys.stderr):
        evaluation = COCOeval(images.coco, images.coco.loadRes(results), "bbox")
        evaluation.params.imgIds = images.ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: round(float(value), 4) for name, value in zip(("AP", "AP50", "AP75"), evaluation.stats)}


def coco_results(image: int, found: Target) -> list[dict]:
    boxes = found["boxes"].clone()
    boxes[:, 2:] -= boxes[:, :2]
    columns = zip(boxes.tolist(), found["scores"].tolist(), found["labels"].tolist())
    return [
        {"image_id": image, "bbox": box, "score": score, "category_id": label} for box, score, label in columns
    ]


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
