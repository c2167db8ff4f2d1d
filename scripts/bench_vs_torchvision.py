#!/usr/bin/env python3
"""Measures `retinanet bench` beside torchvision's RetinaNet on the CPU, and prints a Markdown table.

    cargo build --release
    scripts/bench_vs_torchvision.py [--data ANNOTATIONS IMAGES] [--only step] [--json OUT]

Each measurement is a process of its own that warms up and then repeats its work; ours and theirs
run in turn, round after round, with as many threads. The table has, for each workload, the median
over the rounds of each process's median, their ratio (under 1: we are faster), the ratio that we
aim at, and the most memory that a process held, where asked. Progress goes to stderr. Nothing else
should run meanwhile.

PyTorch comes from the Python that runs this, or else from `.venv-bench` in the project's root,
which is made at the first run (PyPI's wheel for Linux brings 5 GB of CUDA along).

Same work on both sides: 91 classes, frozen batch norm, stem and C2 frozen, P6 from C5, SGD with
momentum 0.9 and weight decay 1e-4, anchors matched within the step. The weights are random, drawn
alike; torchvision's ResNet-18 gives no score above 0.05, its ResNet-50 about 10,000. Post-processing
runs as it is on both sides; `decode` measures it by itself. The learning rate is 0, lest a random
network with frozen norms diverges.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "target/release/retinanet"
VENV = ROOT / ".venv-bench"

CLASSES = 91
# As in `crates/benchmark`.
HEIGHT, WIDTH = 800, 1333
OBJECTS = 7
MANY_OBJECTS = 100
CLUSTERS = 300
MOST_IMAGES = 256
WORKERS = 2
DETECTIONS = 100


@dataclass(frozen=True)
class Workload:
    """What both sides do."""

    title: str
    # The name for `--only`, of `retinanet bench` and here.
    name: str
    # Which of `TORCH_SIDE`.
    torch: str
    backbone: str = "resnet50"
    size: int = 512
    batch: int = 1
    # Ratio ours/theirs that we aim at.
    target: float | None = None
    # Whether the table tells the most memory held.
    memory: bool = False


WORKLOADS = [
    Workload("step, ResNet-50, 256, batch 1", "step", "step", "resnet50", 256, 1, target=1.0),
    Workload("step, ResNet-18, 256, batch 2", "step", "step", "resnet18", 256, 2, target=1.0),
    Workload("step, ResNet-50, 512, batch 1", "step", "step", "resnet50", 512, 1, memory=True, target=1.0),
    Workload("step, ResNeXt-50, 800, batch 1", "step", "step", "resnext50_32x4d", 800, 1, target=1.0),
    Workload("inference, ResNeXt-50, 800", "inference", "inference", "resnext50_32x4d", 800, target=0.8),
    Workload("inference, ResNet-50, 512", "inference", "inference", "resnet50", 512, target=0.8),
    Workload("inference, ResNet-18, 256", "inference", "inference", "resnet18", 256, target=0.8),
    Workload("matcher + targets, 800x1333, 100 boxes", "matcher", "matcher", target=0.2),
    # torchvision makes the one-hot targets here, we make them on the device, within the loss.
    Workload("the same without one-hot targets", "matcher", "matcher_labels", target=0.2),
    Workload("decode + NMS, 800x1333", "decode", "decode", target=0.2),
    Workload("loader, 800/1333, batch 2, one epoch", "loader", "loader", batch=2, target=0.7),
]


# The driver. It stays small and never imports PyTorch: on Linux, a child's peak memory begins with
# its parent's.


@dataclass(frozen=True)
class Run:
    """One process's outcome."""

    median: float
    peak_mib: float


def main() -> None:
    arguments = parse_arguments()
    if arguments.worker:
        work_on(json.loads(arguments.worker))
        return
    if not PROGRAM.exists():
        sys.exit(f"error: {PROGRAM} is not built: cargo build --release")
    python = python_with_torch()
    described = machine(python, arguments.threads)
    print(described)
    if arguments.machine:
        return

    workloads = chosen(arguments)
    runs = measure(workloads, python, arguments)
    results = [summary(workload, *runs[workload]) for workload in workloads]
    print(f"\n{table(results)}")
    if arguments.json:
        report = {"machine": described, "results": results}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    names = list(dict.fromkeys(workload.name for workload in WORKLOADS))
    parser.add_argument("--only", action="append", choices=names, help="only this, as often as needed")
    parser.add_argument(
        "--data",
        nargs=2,
        type=Path,
        metavar=("ANNOTATIONS", "IMAGES"),
        help="for the loader: a COCO annotation file and the folder of its images",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5, help="measured repetitions of each process")
    parser.add_argument("--warmup", type=int, default=2, help="repetitions before them")
    floats = ("f32", "bf16")
    parser.add_argument("--precision", choices=floats, default="f32", help="ours, of steps and inference")
    parser.add_argument("--theirs", choices=floats, default="f32", help="torchvision's: bf16 is `torch.autocast`")
    parser.add_argument("--json", type=Path, metavar="OUT", help="writes every round's numbers too")
    parser.add_argument("--machine", action="store_true", help="only describes the machine")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def chosen(arguments: argparse.Namespace) -> list[Workload]:
    workloads = [w for w in WORKLOADS if not arguments.only or w.name in arguments.only]
    missing = [path for path in arguments.data or [] if not path.exists()]
    if missing:
        sys.exit(f"error: {missing[0]} is not there")
    if not arguments.data and any(workload.name == "loader" for workload in workloads):
        log("skipped: the loader needs --data ANNOTATIONS IMAGES")
        workloads = [workload for workload in workloads if workload.name != "loader"]
    return workloads


def measure(
    workloads: list[Workload], python: str, arguments: argparse.Namespace
) -> dict[Workload, tuple[list[Run], list[Run]]]:
    """Ours and theirs of every round."""
    runs: dict[Workload, tuple[list[Run], list[Run]]] = {workload: ([], []) for workload in workloads}
    for number in range(arguments.rounds):
        for workload in workloads:
            ours, theirs = runs[workload]
            # Who goes first changes, lest one side always finds the machine warm.
            if number % 2 == 0:
                ours.append(run_ours(workload, arguments))
                theirs.append(run_theirs(workload, python, arguments))
            else:
                theirs.append(run_theirs(workload, python, arguments))
                ours.append(run_ours(workload, arguments))
            last = f"{seconds(ours[-1].median)}, torchvision {seconds(theirs[-1].median)}"
            log(f"round {number + 1}: {workload.title}: {last}")
    return runs


def run_ours(workload: Workload, arguments: argparse.Namespace) -> Run:
    command = [str(PROGRAM), "bench", "--json", "--only", workload.name, "--classes", str(CLASSES)]
    command += ["--backbone", workload.backbone, "--size", str(workload.size), "--batch", str(workload.batch)]
    for option in ("threads", "repeats", "warmup"):
        command += [f"--{option}", str(getattr(arguments, option))]
    if workload.name in ("step", "inference"):
        command += ["--precision", arguments.precision]
    if workload.name == "loader":
        annotations, images = arguments.data
        command += ["--annotations", str(annotations), "--images", str(images), "--workers", str(WORKERS)]
    report, peak_mib = run_process(command)
    return Run(report["results"][0]["median_s"], peak_mib)


def run_theirs(workload: Workload, python: str, arguments: argparse.Namespace) -> Run:
    case = asdict(workload) | {
        "threads": arguments.threads,
        "repeats": arguments.repeats,
        "warmup": arguments.warmup,
        "precision": arguments.theirs,
        "data": [str(path) for path in arguments.data or []],
    }
    report, peak_mib = run_process([python, __file__, "--worker", json.dumps(case)])
    return Run(statistics.median(report["seconds"]), peak_mib)


def run_process(command: list[str]) -> tuple[dict, float]:
    """What the process printed, JSON, and the most memory that it held, in MiB."""
    with tempfile.TemporaryFile("w+") as out:
        child = subprocess.Popen(command, stdout=out)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            sys.exit(f"error: {' '.join(command[:3])} ... ended with {child.returncode}")
        out.seek(0)
        report = json.load(out)
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return report, usage.ru_maxrss * unit / 2**20


def python_with_torch() -> str:
    """A Python that has PyTorch and torchvision: this one, or that of a virtual environment."""
    if all(importlib.util.find_spec(name) for name in ("torch", "torchvision")):
        return sys.executable
    python = VENV / "bin/python"
    if not python.exists():
        log(f"installing PyTorch into {VENV}")
        venv.create(VENV, with_pip=True)
    # Does nothing if they are there, and completes an installation that was stopped.
    command = [str(python), "-m", "pip", "install", "--quiet", "torch", "torchvision", "numpy"]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return str(python)


def machine(python: str, threads: int) -> str:
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
        cpu = next((value.strip() for key, _, value in lines if key.strip() == "model name"), cpu)
    versions = "import torch, torchvision; print(torch.__version__, torchvision.__version__)"
    torch, torchvision = output([python, "-c", versions]).split()
    return (
        f"{cpu}, {os.cpu_count()} cores, {threads} threads, {platform.system()}; "
        f"{output([str(PROGRAM), '--version'])}, torch {torch}, torchvision {torchvision}"
    )


def output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def summary(workload: Workload, ours: list[Run], theirs: list[Run]) -> dict:
    our_median, their_median = (statistics.median(run.median for run in runs) for runs in (ours, theirs))
    return {
        "workload": workload.title,
        "ours_s": [run.median for run in ours],
        "theirs_s": [run.median for run in theirs],
        "ours_median_s": our_median,
        "theirs_median_s": their_median,
        "ratio": our_median / their_median,
        "target": workload.target,
        "memory": workload.memory,
        "ours_peak_mib": max(run.peak_mib for run in ours),
        "theirs_peak_mib": max(run.peak_mib for run in theirs),
    }


def table(results: list[dict]) -> str:
    header = ["workload", "ours", "torchvision", "ratio", "target", "our peak", "their peak"]
    rows = [header, ["---"] + ["---:"] * (len(header) - 1)]
    for result in results:
        peaks = [result["ours_peak_mib"], result["theirs_peak_mib"]]
        rows.append(
            [
                result["workload"],
                seconds(result["ours_median_s"]),
                seconds(result["theirs_median_s"]),
                f"{result['ratio']:.2f}",
                f"{result['target']:.2f}" if result["target"] else "",
                *(f"{peak:.0f} MiB" if result["memory"] else "" for peak in peaks),
            ]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 10 else f"{1e3 * value:.1f} ms"


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# The worker: torchvision's side, one workload, in a process of its own.


def work_on(case: dict) -> None:
    """Prints the seconds of each repetition as JSON."""
    import torch

    torch.set_num_threads(case["threads"])
    torch.manual_seed(0)
    work = TORCH_SIDE[case["torch"]](case)
    times = []
    for _ in range(case["warmup"] + case["repeats"]):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    print(json.dumps({"seconds": times[case["warmup"] :]}))


def torch_model(case: dict):
    """The same network as ours with `--norm frozen_batch_norm --freeze-at 2`."""
    from torchvision.models import resnet
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
    from torchvision.ops import FrozenBatchNorm2d
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    body = getattr(resnet, case["backbone"])(weights=None, norm_layer=FrozenBatchNorm2d)
    # Other inputs than P5's 256 channels make it start from C5.
    p6_p7 = LastLevelP6P7(body.fc.in_features, 256)
    # Three trainable layers are layer2 to layer4: conv1 and layer1 are frozen.
    backbone = _resnet_fpn_extractor(body, 3, returned_layers=[2, 3, 4], extra_blocks=p6_p7)
    # Images of that size keep it.
    size = case["size"]
    return RetinaNet(backbone, CLASSES, min_size=size, max_size=size, detections_per_img=DETECTIONS)


def autocast(case: dict):
    import torch

    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=case["precision"] == "bf16")


def step_work(case: dict) -> Callable[[], None]:
    import torch

    model = torch_model(case).train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=0.9, weight_decay=1e-4)
    size = case["size"]
    images = [torch.rand(3, size, size) for _ in range(case["batch"])]
    targets = [
        {"boxes": random_boxes(OBJECTS, size, size), "labels": torch.randint(CLASSES, (OBJECTS,))}
        for _ in range(case["batch"])
    ]

    def work() -> None:
        optimizer.zero_grad()
        with autocast(case):
            loss = sum(model(images, targets).values())
        loss.backward()
        optimizer.step()
        if not math.isfinite(loss.item()):
            sys.exit("error: torchvision's loss is not finite")

    return work


def inference_work(case: dict) -> Callable[[], None]:
    import torch

    model = torch_model(case).eval()
    images = [torch.rand(3, case["size"], case["size"]) for _ in range(case["batch"])]

    @torch.inference_mode()
    def work() -> None:
        with autocast(case):
            model(images)

    return work


def random_boxes(count: int, height: int, width: int):
    """Boxes with sides from 16 to 512 pixels, evenly in the logarithm, clipped to the image."""
    import torch

    sides = 16 * 32 ** torch.rand(count, 2)
    centers = torch.rand(count, 2) * torch.tensor([width, height])
    boxes = torch.cat([centers - sides / 2, centers + sides / 2], dim=1)
    boxes[:, 0::2].clamp_(0, width)
    boxes[:, 1::2].clamp_(0, height)
    return boxes


def level_anchors() -> list:
    """The anchors of each level, `[anchors, 4]`, in torchvision's shapes and order."""
    import torch
    from torchvision.models.detection.image_list import ImageList
    from torchvision.models.detection.retinanet import _default_anchorgen

    shapes = [(math.ceil(HEIGHT / stride), math.ceil(WIDTH / stride)) for stride in (8, 16, 32, 64, 128)]
    features = [torch.zeros(1, 1, height, width) for height, width in shapes]
    images = ImageList(torch.zeros(1, 3, HEIGHT, WIDTH), [(HEIGHT, WIDTH)])
    anchors = _default_anchorgen()(images, features)[0]
    return list(anchors.split([height * width * 9 for height, width in shapes]))


def matcher_work(case: dict) -> Callable[[], None]:
    """Matching and targets of one image, as `compute_loss` of the model and of its two heads."""
    import torch
    from torchvision.models.detection._utils import BoxCoder, Matcher
    from torchvision.ops import box_iou

    anchors = torch.cat(level_anchors())
    boxes = random_boxes(MANY_OBJECTS, HEIGHT, WIDTH)
    labels = torch.randint(CLASSES, (MANY_OBJECTS,))
    one_hot_too = case["torch"] == "matcher"

    @torch.inference_mode()
    def work() -> None:
        matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
        coder = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))
        matched = matcher(box_iou(boxes, anchors))
        if one_hot_too:
            foreground = matched >= 0
            one_hot = torch.zeros(len(anchors), CLASSES)
            one_hot[foreground, labels[matched[foreground]]] = 1.0
            matched != Matcher.BETWEEN_THRESHOLDS
        positives = torch.where(matched >= 0)[0]
        labels[matched[positives]]
        coder.encode_single(boxes[matched[positives]], anchors[positives])

    return work


def decode_work(case: dict) -> Callable[[], None]:
    """Detections of one image: `RetinaNet.forward` from the heads' outputs on."""
    import torch
    from torch import nn
    from torchvision.models.detection import RetinaNet

    class NoBackbone(nn.Module):
        """`RetinaNet` wants a backbone; this never runs it."""

        out_channels = 1

    model = RetinaNet(NoBackbone(), CLASSES, head=nn.Identity(), detections_per_img=DETECTIONS)
    levels = level_anchors()
    logits, deltas = random_predictions(torch.cat(levels))
    counts = [len(level) for level in levels]

    @torch.inference_mode()
    def work() -> None:
        outputs = {
            "cls_logits": list(logits.split(counts, dim=1)),
            "bbox_regression": list(deltas.split(counts, dim=1)),
        }
        model.postprocess_detections(outputs, [levels], [(HEIGHT, WIDTH)])

    return work


def random_predictions(anchors) -> tuple:
    """Logits `[1, anchors, classes]` and deltas `[1, anchors, 4]` as of a model that has learnt: a
    background about the prior, and high scores for what overlaps some object."""
    import torch
    from torchvision.models.detection._utils import BoxCoder
    from torchvision.ops import box_iou

    logits = torch.randn(len(anchors), CLASSES) - 4.6
    deltas = 0.1 * torch.randn(len(anchors), 4)
    objects = random_boxes(CLUSTERS, HEIGHT, WIDTH)
    labels = torch.randint(CLASSES, (CLUSTERS,))
    coder = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))
    for bbox, label, overlap in zip(objects, labels, box_iou(objects, anchors)):
        near = torch.where(overlap > 0.4)[0]
        logits[near, label] = 6 * (overlap[near] - 0.4) / 0.6 - 1 + torch.randn(len(near))
        exact = coder.encode_single(bbox.expand(len(near), 4), anchors[near])
        deltas[near] = exact + 0.05 * torch.randn(len(near), 4)
    return logits[None], deltas[None]


def loader_work(case: dict) -> Callable[[], None]:
    """One epoch as torchvision's reference training reads it: workers decode and mirror, the model's
    transform normalises, resizes and pads in the main process. Anchors and targets are not made."""
    import torch
    from torch.utils.data import DataLoader
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    loader = DataLoader(
        coco_images(*map(Path, case["data"])),
        batch_size=case["batch"],
        shuffle=True,
        num_workers=WORKERS,
        # Images of different sizes cannot be stacked yet.
        collate_fn=lambda samples: tuple(map(list, zip(*samples))),
        persistent_workers=True,
    )
    transform = GeneralizedRCNNTransform(800, 1333, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]).train()

    @torch.no_grad()
    def work() -> None:
        for images, targets in loader:
            transform(images, targets)

    return work


def coco_images(annotations: Path, folder: Path):
    """A data set of the images with boxes of a COCO file, which is read with plain `json`."""
    import torch
    from PIL import Image
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    content = json.loads(annotations.read_text())
    records = content["images"][:MOST_IMAGES]
    found: dict[int, list[dict]] = {record["id"]: [] for record in content["images"]}
    for annotation in content["annotations"]:
        # A box without width or height would be refused.
        if all(side > 0 for side in annotation["bbox"][2:]):
            found[annotation["image_id"]].append(annotation)
    # The order of `references/detection/presets.py`: mirrored while still 8 bits deep.
    augment = v2.Compose(
        [
            v2.RandomHorizontalFlip(p=0.5),
            v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
            v2.ToPureTensor(),
        ]
    )

    class CocoImages(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(records)

        def __getitem__(self, index: int):
            record = records[index]
            picture = Image.open(folder / record["file_name"]).convert("RGB")
            image = tv_tensors.Image(v2.functional.pil_to_tensor(picture))
            objects = found[record["id"]]
            boxes = torch.tensor([each["bbox"] for each in objects], dtype=torch.float32).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            size = tuple(image.shape[-2:])
            target = {
                "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
                "labels": torch.tensor([each["category_id"] for each in objects], dtype=torch.int64),
            }
            return augment(image, target)

    return CocoImages()


TORCH_SIDE: dict[str, Callable[[dict], Callable[[], None]]] = {
    "step": step_work,
    "inference": inference_work,
    "matcher": matcher_work,
    "matcher_labels": matcher_work,
    "decode": decode_work,
    "loader": loader_work,
}


if __name__ == "__main__":
    main()
