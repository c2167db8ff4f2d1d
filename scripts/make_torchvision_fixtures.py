#!/usr/bin/env python3
"""Writes what torchvision's RetinaNet computes, as fixtures for the tests.

    scripts/make_torchvision_fixtures.py [--out FOLDER] [--only NAME]...

The files hold numbers only. Parameters and images come from a hash of their names, which the tests
compute too, so neither is stored; of large tensors, a sample is. `tests/fixtures/torchvision/README.md`
describes the hash and the keys. Warnings tell of decisions that rounding could turn. Training is
repeated with 64 bits, which shows what rounding does to gradients and steps.

PyTorch comes from the Python that runs this, or else from `.venv-bench` in the project's root, which
is made at the first run. The photo comes from the folder in RETINANET_SHARED, or else from `../shared`
beside the project. It takes some minutes on one core. The output is the same at each run of the same
versions on the same kind of processor.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench_vs_torchvision import python_with_torch

# It may be another Python that has PyTorch: start again in that one.
if __name__ == "__main__" and (PYTHON := python_with_torch()) != sys.executable:
    os.execv(PYTHON, [PYTHON, *sys.argv])

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead, _default_anchorgen
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FrozenBatchNorm2d, box_iou
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "tests/fixtures/torchvision"
SHARED = Path(os.environ.get("RETINANET_SHARED", ROOT.parent / "shared"))
PHOTO = SHARED / "data/oddities/images/hopper.png"

# With torchvision's background, label 0.
CLASSES = 6
BACKBONES = ["resnet18", "resnet50", "resnext50_32x4d"]
GENERATIONS = ["v1", "v2"]

SIDE = 96
# Height and width.
IMAGE_SIZES = [(70, 96), (96, 61)]
# The second box is too small for any anchor but by low-quality matching, the others overlap.
BOXES = [[10.25, 8.5, 50.75, 38.25], [4.3, 48.6, 18.3, 66.6], [20.5, 5.75, 88.25, 66.5]]
LABELS = [1, 4, 5]

PHOTO_SIZES = [(60, 83), (101, 40)]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

# Closer than this, rounding could turn a decision.
IOU_MARGIN = 1e-5
SCORE_MARGIN = 1e-6

Fixture = tuple[dict[str, np.ndarray], dict[str, str]]


def main() -> None:
    makers: dict[str, Callable[[], Fixture]] = {"anchors": anchors_fixture, "transform": transform_fixture}
    for generation in GENERATIONS:
        for backbone in BACKBONES:
            makers[f"{generation}_{backbone}"] = partial(model_fixture, generation, backbone)
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=OUT, help="the folder, default tests/fixtures/torchvision")
    parser.add_argument("--only", action="append", choices=list(makers), help="only this file, as often as needed")
    arguments = parser.parse_args()

    # More threads could change the order of sums.
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    check_parameter_counts()
    total = 0
    for name in arguments.only or makers:
        tensors, metadata = makers[name]()
        path = arguments.out / f"{name}.safetensors"
        write_safetensors(path, tensors, metadata)
        total += path.stat().st_size
        print(f"{path.stat().st_size:8} {path.name}", flush=True)
    print(f"{total:8} in all")


def check_parameter_counts() -> None:
    """The counts that torchvision publishes for its models of 91 classes."""
    for generation, published in [("v1", 34_014_999), ("v2", 38_198_935)]:
        count = sum(each.numel() for each in build_model(generation, "resnet50", 91).parameters())
        assert count == published, (generation, count)


# Models.


def build_model(generation: str, backbone: str, classes: int, **options) -> RetinaNet:
    """As `retinanet_resnet50_fpn` from trained weights ("v1") and `retinanet_resnet50_fpn_v2` ("v2")
    build it, with any ResNet. The parameters are random."""
    if generation == "v1":
        body = getattr(resnet, backbone)(weights=None, norm_layer=FrozenBatchNorm2d)
        # So that the smallest model covers gradients down to the first convolution.
        trainable = 5 if backbone == "resnet18" else 3
        p6_p7 = LastLevelP6P7(256, 256)
        head = None
    else:
        body = getattr(resnet, backbone)(weights=None, norm_layer=nn.BatchNorm2d)
        trainable = 5
        p6_p7 = LastLevelP6P7(body.fc.in_features, 256)
        head = RetinaNetHead(256, 9, classes, norm_layer=partial(nn.GroupNorm, 32))
        head.regression_head._loss_type = "giou"
    features = _resnet_fpn_extractor(body, trainable, returned_layers=[2, 3, 4], extra_blocks=p6_p7)
    return RetinaNet(features, classes, anchor_generator=_default_anchorgen(), head=head, **options)


def model_fixture(generation: str, backbone: str) -> Fixture:
    model = build_model(generation, backbone, CLASSES)
    if backbone != "resnet18":
        fix_statistics(model)
    model.load_state_dict(hashed_state(model))
    tensors = eval_part(model, f"{generation}_{backbone}")
    losses_and_gradients, loss_metadata = loss_part(model)
    steps, step_metadata = steps_part(model)
    return tensors | losses_and_gradients | steps, versions() | loss_metadata | step_metadata


def fix_statistics(model: RetinaNet) -> None:
    """Keeps batch norms to their running statistics in training, while their parameters learn.

    Statistics of a batch of two make deep networks chaotic: one sign that turns within a ReLU, for
    rounding, changes gradients by percents."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.training = False
            module.train = lambda mode=True, module=module: module


@torch.no_grad()
def eval_part(model: RetinaNet, name: str) -> dict[str, np.ndarray]:
    """Features, the heads' outputs and detections of both images."""
    model.eval()
    batch = image_batch(2)
    tensors: dict[str, np.ndarray] = {}
    for key, feature in zip(["c3", "c4", "c5"], model.backbone.body(batch).values()):
        tensors |= sampled(key, feature, 256)
    features = list(model.backbone(batch).values())
    for key, feature in zip(["p3", "p4", "p5", "p6", "p7"], features):
        tensors |= sampled(key, feature, 256)
    outputs = model.head(features)
    tensors |= sampled("logits", outputs["cls_logits"], 1024)
    tensors |= sampled("deltas", outputs["bbox_regression"], 1024)

    anchors = model.anchor_generator(ImageList(batch, IMAGE_SIZES), features)
    # As `RetinaNet.forward` splits them.
    counts = [9 * feature.size(2) * feature.size(3) for feature in features]
    outputs = {key: list(output.split(counts, dim=1)) for key, output in outputs.items()}
    anchors = [list(each.split(counts)) for each in anchors]
    detections = model.postprocess_detections(outputs, anchors, IMAGE_SIZES)
    for k, each in enumerate(detections):
        tensors |= {f"detections{k}.{key}": tensor.numpy() for key, tensor in each.items()}
    warn_of_near_ties(name, model, outputs, anchors)
    return tensors


def loss_part(model: RetinaNet) -> Fixture:
    """Losses and gradients, of the first image alone and of both."""
    names = trainable_names(model)
    tensors: dict[str, np.ndarray] = {}
    for case, count in [("single", 1), ("pair", 2)]:
        class_loss, box_loss, gradients = training_pass(copy.deepcopy(model), count)
        _, _, exact = training_pass(copy.deepcopy(model).double(), count)
        tensors[f"{case}.class_loss"] = class_loss.reshape(1).numpy()
        tensors[f"{case}.box_loss"] = box_loss.reshape(1).numpy()
        norms = [gradient.double().norm().item() for gradient in gradients]
        noise = [(gradient - better).norm().item() for gradient, better in zip(gradients, exact)]
        tensors[f"{case}.gradient_norms"] = np.array(norms)
        tensors[f"{case}.gradient_noise"] = np.array(noise)
    return tensors, {"parameters": json.dumps(names)}


def training_pass(model: RetinaNet, count: int) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Both losses and the gradients of their sum, in the order of `trainable_names`."""
    class_loss, box_loss = losses(model, count)
    (class_loss + box_loss).backward()
    gradients = [model.get_parameter(name).grad for name in trainable_names(model)]
    return class_loss.detach(), box_loss.detach(), gradients


def steps_part(model: RetinaNet) -> Fixture:
    """What two steps of SGD make of the parameters and of the running statistics."""
    before = model.state_dict()
    after = state_after_two_steps(copy.deepcopy(model))
    exact = state_after_two_steps(copy.deepcopy(model).double())
    names = trainable_names(model)
    # Those of a frozen batch norm stay.
    names += [name for name in before if "running_" in name and not torch.equal(after[name], before[name])]
    values = [sample(f"after/{name}", after[name], 8) for name in names]
    moved = [largest_difference(after[name], before[name]) for name in names]
    noise = [largest_difference(after[name], exact[name]) for name in names]
    tensors = {
        "after.values": np.stack(values),
        "after.moved": np.array(moved, dtype=np.float32),
        "after.noise": np.array(noise, dtype=np.float32),
    }
    return tensors, {"after": json.dumps(names)}


def state_after_two_steps(model: RetinaNet) -> dict[str, Tensor]:
    parameters = [model.get_parameter(name) for name in trainable_names(model)]
    optimizer = torch.optim.SGD(parameters, lr=0.005, momentum=0.9, weight_decay=1e-4)
    for _ in range(2):
        optimizer.zero_grad()
        sum(losses(model, 2)).backward()
        optimizer.step()
    return model.state_dict()


def largest_difference(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


def losses(model: RetinaNet, count: int) -> tuple[Tensor, Tensor]:
    """The loss of classification and that of boxes, in training mode, of the first `count` images, at
    the precision of the model."""
    model.train()
    precision = next(model.parameters()).dtype
    batch = image_batch(count).to(precision)
    features = list(model.backbone(batch).values())
    outputs = model.head(features)
    anchors = model.anchor_generator(ImageList(batch, IMAGE_SIZES[:count]), features)
    wanted = targets()[:count]
    for each in wanted:
        each["boxes"] = each["boxes"].to(precision)
    found = model.compute_loss(wanted, outputs, anchors)
    return found["classification"], found["bbox_regression"]


def targets() -> list[dict[str, Tensor]]:
    """The second image has no boxes."""
    return [
        {"boxes": torch.tensor(BOXES), "labels": torch.tensor(LABELS)},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]


def trainable_names(model: nn.Module) -> list[str]:
    """In the order of the state dict, as are the parameters."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


# Near ties.


def warn_of_near_ties(name: str, model: RetinaNet, outputs: dict, anchors: list[list[Tensor]]) -> None:
    for k, size in enumerate(IMAGE_SIZES):
        image = {key: [level[k : k + 1] for level in levels] for key, levels in outputs.items()}

        def detections(**settings) -> dict[str, Tensor]:
            return with_settings(model, settings, lambda: model.postprocess_detections(image, [anchors[k]], [size]))[0]

        candidates = detections(nms_thresh=2.0, detections_per_img=10**9)
        kept = detections(detections_per_img=10**9)
        found = len(detections()["scores"])
        print(f"{name}, image {k}: {len(candidates['scores'])} candidates, {found} detections", file=sys.stderr)
        warnings = list(candidate_ties(model, image["cls_logits"])) + list(nms_ties(model, candidates, kept))
        for warning in warnings:
            print(f"warning: {name}, image {k}: {warning}", file=sys.stderr)


def with_settings(model: RetinaNet, settings: dict, work: Callable) -> list[dict[str, Tensor]]:
    before = {key: getattr(model, key) for key in settings}
    model.__dict__.update(settings)
    result = work()
    model.__dict__.update(before)
    return result


def candidate_ties(model: RetinaNet, logits: list[Tensor]) -> Iterator[str]:
    """Scores at the threshold, or around the last candidate of a level."""
    for number, level in enumerate(logits, start=3):
        scores = torch.sigmoid(level).flatten().sort(descending=True).values
        most = model.topk_candidates
        if len(scores) > most and scores[most] > model.score_thresh:
            gap, cut = scores[most - 1] - scores[most], f"candidate {most}"
        else:
            gap, cut = (scores - model.score_thresh).abs().min(), "the threshold"
        if gap < SCORE_MARGIN:
            yield f"a score of P{number} is within {gap:.1e} of {cut}"


def nms_ties(model: RetinaNet, candidates: dict[str, Tensor], kept: dict[str, Tensor]) -> Iterator[str]:
    """What another rounding of overlaps and scores could change in NMS and in the final cut."""
    most = model.detections_per_img
    scores = kept["scores"]
    if len(scores) > most and scores[most - 1] - scores[most] < SCORE_MARGIN:
        yield f"the scores around detection {most} are close"
    tied = int((scores[:most].diff().abs() < SCORE_MARGIN).sum())
    if tied:
        yield f"the order of {tied} neighbouring detections is that of close scores"

    lowest = scores[:most].min()
    for label in kept["labels"].unique():
        ours = candidates["labels"] == label
        boxes, scores = candidates["boxes"][ours], candidates["scores"][ours]
        winners = kept["labels"] == label
        overlap = box_iou(kept["boxes"][winners], boxes)
        lead = kept["scores"][winners][:, None] - scores[None]
        surely = ((overlap > model.nms_thresh + IOU_MARGIN) & (lead > 0)).any(dim=0)
        perhaps = ((overlap > model.nms_thresh - IOU_MARGIN) & (lead > 0)).any(dim=0)
        close = int((perhaps & ~surely & (scores >= lowest)).sum())
        if close:
            yield f"{close} overlaps of label {label} are within {IOU_MARGIN} of the threshold"
        # Every box overlaps itself; a box suppressed by a much better one as well is no matter.
        rival = (overlap > model.nms_thresh - IOU_MARGIN) & (lead >= 0) & (lead < SCORE_MARGIN)
        clear = ((overlap > model.nms_thresh) & (lead > SCORE_MARGIN)).any(dim=0)
        close = int((rival[:, ~clear & (scores >= lowest)].sum(dim=0) > 1).sum())
        if close:
            yield f"{close} boxes of label {label} lose to one of nearly the same score"


# Anchors and images.


def anchors_fixture() -> Fixture:
    anchors = anchors_of(SIDE, SIDE)
    boxes = torch.tensor(BOXES)
    overlap = box_iou(boxes, anchors)
    matched = build_model("v1", "resnet18", CLASSES).proposal_matcher(overlap)
    for threshold in [0.4, 0.5]:
        gap = (overlap.max(dim=0).values - threshold).abs().min()
        if gap < IOU_MARGIN:
            print(f"warning: an anchor's overlap is within {gap:.1e} of {threshold}", file=sys.stderr)
    counts = {value: int((matched == value).sum()) for value in matched.unique().tolist()}
    print(f"matched anchors: {counts}", file=sys.stderr)

    large = anchors_of(800, 1344)
    rows = sample_positions("anchors_800x1344", len(large), 512)
    tensors = {
        "anchors": anchors.numpy(),
        "matched": matched.numpy(),
        "boxes": boxes.numpy(),
        "labels": np.array(LABELS),
        "anchors_800x1344": large.numpy()[rows],
        "anchors_800x1344.count": np.array([len(large)]),
    }
    sizes = {"image0": IMAGE_SIZES[0], "image1": IMAGE_SIZES[1], "padded": (SIDE, SIDE)}
    return tensors, versions() | {"sizes": json.dumps(sizes)}


def anchors_of(height: int, width: int) -> Tensor:
    """The anchors of all levels, whose features have the sizes that the backbone gives them."""
    shapes = [(math.ceil(height / stride), math.ceil(width / stride)) for stride in (8, 16, 32, 64, 128)]
    features = [torch.zeros(1, 1, *shape) for shape in shapes]
    images = ImageList(torch.zeros(1, 3, height, width), [(height, width)])
    return _default_anchorgen()(images, features)[0]


def transform_fixture() -> Fixture:
    """Photos, normalised, resized and padded."""
    cases = [(f"photo{k}", hash_photo(k), (100, 160)) for k in range(2)]
    cases += [(f"photo{k}", hash_photo(k), (37, 64)) for k in range(2)]
    hopper = np.asarray(Image.open(PHOTO))
    assert hopper.shape == (128, 128, 3) and hopper.dtype == np.uint8
    cases += [("hopper", hopper, sides) for sides in [(200, 333), (75, 100)]]

    tensors: dict[str, np.ndarray] = {}
    for name, photo, (short, long) in cases:
        transform = GeneralizedRCNNTransform(short, long, MEAN, STD).eval()
        image = torch.from_numpy(photo.copy()).permute(2, 0, 1).float() / 255
        images, _ = transform([image])
        key = f"{name}_{short}_{long}"
        tensors |= sampled(key, images.tensors[0], 1024)
        tensors[f"{key}.size"] = np.array(images.image_sizes[0])
        tensors[f"{key}.padded"] = np.array(images.tensors.shape[-2:])
    return tensors, versions() | {"hopper": "oddities/images/hopper.png"}


def hash_photo(k: int) -> np.ndarray:
    height, width = PHOTO_SIZES[k]
    return (bits(f"photo{k}", height * width * 3) >> 24).astype(np.uint8).reshape(height, width, 3)


def image_batch(count: int) -> Tensor:
    """The first `count` images, `[count, 3, SIDE, SIDE]`, as if normalised already."""
    batch = torch.zeros(count, 3, SIDE, SIDE)
    for k, (height, width) in enumerate(IMAGE_SIZES[:count]):
        pixels = (unit(f"image{k}", 3 * height * width) * 2.0).astype(np.float32)
        batch[k, :, :height, :width] = torch.from_numpy(pixels.reshape(3, height, width))
    return batch


# The hash, and what is made from it.


def bits(name: str, count: int) -> np.ndarray:
    """The first `count` numbers of a name, u32."""
    fnv1a = 2166136261
    for byte in name.encode():
        fnv1a = (fnv1a ^ byte) * 16777619 % 2**32
    x = np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B1)
    x ^= np.uint32(fnv1a)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return x


def unit(name: str, count: int) -> np.ndarray:
    """The same as numbers from -1 up to 1, f64."""
    return (bits(name, count) >> np.uint32(8)) / 2**24 * 2 - 1


def hashed_state(model: nn.Module) -> dict[str, Tensor]:
    """A state dict whose every tensor follows from its name and shape."""
    state = {}
    for name, tensor in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            center, scale = center_and_scale(name, tensor)
            values = (center + scale * unit(name, tensor.numel())).astype(np.float32)
            tensor = torch.from_numpy(values).reshape(tensor.shape)
        state[name] = tensor.clone()
    return state


def center_and_scale(name: str, tensor: Tensor) -> tuple[float, float]:
    if tensor.dim() == 4:
        fan_in = math.prod(tensor.shape[1:])
        if "cls_logits" in name or "bbox_reg" in name:
            # Small outputs, so that two steps of SGD do not blow up.
            return 0.0, 0.25 * math.sqrt(6 / fan_in)
        return 0.0, math.sqrt((3 if ".fpn." in name else 6) / fan_in)
    if name == "head.classification_head.cls_logits.bias":
        return -3.0, 1.0
    kinds = {"running_var": (1.0, 0.5), "running_mean": (0.0, 0.1), "weight": (0.5, 0.2), "bias": (0.0, 0.1)}
    return kinds[name.rpartition(".")[2]]


def sampled(key: str, tensor: Tensor, count: int) -> dict[str, np.ndarray]:
    """A tensor's sample, its shape and its largest magnitude."""
    return {
        key: sample(key, tensor, count),
        f"{key}.shape": np.array(tensor.shape),
        f"{key}.max": tensor.abs().max().reshape(1).numpy(),
    }


def sample(key: str, tensor: Tensor, count: int) -> np.ndarray:
    flat = tensor.detach().contiguous().flatten().numpy()
    return flat[sample_positions(key, len(flat), count)]


def sample_positions(key: str, length: int, count: int) -> np.ndarray:
    """Which of `length` elements to keep; some may come twice."""
    return bits(f"sample/{key}", count) % np.uint32(length)


# Files.


def versions() -> dict[str, str]:
    return {"torch": torch.__version__, "torchvision": torchvision.__version__}


def write_safetensors(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """The package `safetensors` writes the metadata in another order at each run."""
    types = {"float32": "F32", "float64": "F64", "int64": "I64"}
    # The widest elements first, so that all are aligned.
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    header: dict = {"__metadata__": dict(sorted(metadata.items()))}
    blobs, end = [], 0
    for name in names:
        array = tensors[name]
        blobs.append(array.tobytes())
        start, end = end, end + len(blobs[-1])
        header[name] = {"dtype": types[array.dtype.name], "shape": list(array.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + b"".join(blobs))


if __name__ == "__main__":
    main()
