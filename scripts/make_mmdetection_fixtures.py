#!/usr/bin/env python3
"""Writes what mmdetection's ATSSAssigner, QualityFocalLoss, VarifocalLoss, PAFPN and three heads compute, as fixtures for the tests.

    scripts/make_mmdetection_fixtures.py [--out FOLDER]

The files hold numbers only. `atss.json`: for each scene its size, its boxes, and which anchor is an object of which box;
scenes in which rounding could turn a decision are left out. `soft_targets.json`: logits and the qualities that their
classes should have, and of each loss the values and the gradients. `heads.json`: what ATSSHead, GFLHead and TOODHead (after its
first epochs, without the layers that are its own) were told for two images, the losses that they make of it, and the gradients. `pafpn.json`: the weights of a thin PAFPN, C2 to C5 and
the levels that it makes of them. Needs `pip install torch mmengine "mmcv-lite<2.2" mmdet`;
the numbers that are stored are those of mmdet 3.3.0.
"""

import argparse
import json
import random
import sys
import types
from pathlib import Path

import torch

# mmcv-lite has no compiled operators, of which mmdet wants to know the names; none is called here.
sys.modules["mmcv._ext"] = types.ModuleType("mmcv._ext")
sys.modules["mmcv._ext"].__getattr__ = lambda name: None

from mmdet.models.dense_heads import ATSSHead, GFLHead, TOODHead
from mmdet.models.necks import PAFPN
from mmdet.models.losses import QualityFocalLoss, VarifocalLoss
from mmdet.models.task_modules.assigners import ATSSAssigner
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub
from mmengine.structures import InstanceData

STRIDES = [8, 16, 32, 64, 128]
# How far a decision must be from turning
MARGIN = 1e-4


def scene(seed):
    """Height, width and boxes: small ones and large ones, some beside each other and some over the border."""
    rolls = random.Random(seed)
    height, width = rolls.randrange(64, 800), rolls.randrange(64, 1100)
    boxes = []
    for _ in range(rolls.randrange(1, 30)):
        w, h = (2 ** rolls.uniform(2.5, 8.5) for _ in range(2))
        x, y = rolls.uniform(-0.2 * w, width - 0.8 * w), rolls.uniform(-0.2 * h, height - 0.8 * h)
        boxes.append([round(value, 2) for value in [x, y, x + w, y + h]])
    return height, width, boxes


def assign(height, width, boxes, scales):
    """The objects, as pairs of an anchor and a box, or nothing where rounding could turn one."""
    generator = AnchorGenerator(STRIDES, ratios=[1.0], **scales)
    sizes = [(-(-height // stride), -(-width // stride)) for stride in STRIDES]
    levels = generator.grid_priors(sizes, device="cpu")
    anchors = InstanceData(priors=torch.cat(levels))
    truth = InstanceData(bboxes=torch.tensor(boxes), labels=torch.zeros(len(boxes), dtype=torch.long))
    counts = [len(level) for level in levels]

    def objects(shift):
        moved = InstanceData(bboxes=truth.bboxes + shift, labels=truth.labels)
        found = ATSSAssigner(topk=9).assign(anchors, counts, moved).gt_inds
        return [[anchor, int(found[anchor]) - 1] for anchor in found.nonzero().flatten().tolist()]

    same = {json.dumps(objects(shift)) for shift in [0, MARGIN, -MARGIN]}
    return json.loads(same.pop()) if len(same) == 1 else None


def soft_targets():
    """Logits of some anchors for three classes, one of which has a quality in most, and both losses of them."""
    rolls = random.Random(7)
    anchors, classes = 24, 3
    logits = torch.tensor([[round(rolls.uniform(-6, 6), 3) for _ in range(classes)] for _ in range(anchors)])
    labels = torch.tensor([rolls.randrange(classes + 1) for _ in range(anchors)])
    scores = torch.tensor([round(rolls.uniform(0.05, 1), 3) if label < classes else 0.0 for label in labels])
    targets = torch.zeros(anchors, classes)
    objects = labels < classes
    targets[objects, labels[objects]] = scores[objects]

    def told(loss):
        ours = logits.double().requires_grad_()
        values = loss(ours)
        values.sum().backward()
        return {"sum": values.sum().item(), "gradients": ours.grad.flatten().tolist()}

    quality_focal = QualityFocalLoss(use_sigmoid=True, beta=2.0, reduction="none")
    varifocal = VarifocalLoss(use_sigmoid=True, alpha=0.75, gamma=2.0, iou_weighted=True, reduction="none")
    return {
        "classes": classes,
        "logits": logits.flatten().tolist(),
        "targets": targets.flatten().tolist(),
        "quality_focal": told(lambda it: quality_focal(it, (labels, scores.double()))),
        "varifocal": told(lambda it: varifocal(it, targets.double())),
    }


SIZE = [64, 96]
CLASSES = 3
BINS = 5
OBJECTS = [
    [[5.0, 9.0, 44.0, 51.0, 0], [50.0, 4.0, 90.0, 30.0, 2], [60.0, 40.0, 72.0, 55.0, 1]],
    [[20.0, 12.0, 61.0, 60.0, 1]],
]


def head_losses(make, values, boxes):
    """The losses of a head, and their gradients, of predictions `[images, anchors, ...]` in the order of the anchors.

    `boxes`: the range of the values of a box.
    """
    anchors = {
        "type": "AnchorGenerator",
        "ratios": [1.0],
        "octave_base_scale": 8,
        "scales_per_octave": 1,
        "strides": STRIDES,
    }
    atss, aligned = {"type": "ATSSAssigner", "topk": 9}, {"type": "TaskAlignedAssigner", "topk": 13}
    train = ConfigDict(assigner=atss, allowed_border=-1, pos_weight=-1)
    if make.__name__ == "tood":
        train.update(initial_assigner=atss, assigner=aligned, initial_epoch=0, alpha=1, beta=6)
        MessageHub.get_current_instance().update_info("epoch", 0)
    head = make(
        num_classes=CLASSES,
        in_channels=8,
        feat_channels=8,
        norm_cfg={"type": "GN", "num_groups": 4},
        anchor_generator=anchors,
        loss_bbox={"type": "GIoULoss", "loss_weight": 2.0},
        train_cfg=train,
    )
    sizes = [[-(-side // stride) for side in SIZE] for stride in STRIDES]
    count = sum(height * width for height, width in sizes)
    rolls = random.Random(values)
    ranges = [(-2.0, 2.0)] * CLASSES + [boxes] * values
    rows = [[round(rolls.uniform(*it), 3) for it in ranges] for _ in range(2 * count)]
    # Objects are rare to a network that has learnt a little.
    told = torch.tensor(rows).reshape(2, count, CLASSES + values)
    told[..., :CLASSES] -= 2.0
    told.requires_grad_()

    maps, first = [], 0
    for height, width in sizes:
        level = told[:, first : first + height * width].reshape(2, height, width, -1)
        maps.append(level.permute(0, 3, 1, 2))
        first += height * width
    logits, rest = [level[:, :CLASSES] for level in maps], [level[:, CLASSES:] for level in maps]
    if isinstance(head, GFLHead):
        predictions = [logits, rest]
    elif isinstance(head, TOODHead):
        predictions = [[level.sigmoid() for level in logits], [corners(level) for level in rest]]
    else:
        predictions = [logits, [level[:, :4] for level in rest], [level[:, 4:] for level in rest]]
    truth = [
        InstanceData(
            bboxes=torch.tensor([it[:4] for it in objects]), labels=torch.tensor([it[4] for it in objects])
        )
        for objects in OBJECTS
    ]
    shape = (*SIZE, 3)
    metas = [{"img_shape": shape, "pad_shape": shape} for _ in OBJECTS]
    losses = head.loss_by_feat(*predictions, truth, metas)
    losses = {name: sum(loss.sum() for loss in values) for name, values in losses.items()}
    sum(losses.values()).backward()
    return {
        "values": values,
        "predictions": [round(value, 3) for value in told.flatten().tolist()],
        "class_loss": losses.pop("loss_cls").item(),
        "box_loss": sum(losses.values()).item(),
        "gradients": [float(f"{value:.7g}") for value in told.grad.flatten().tolist()],
    }


def corners(distances):
    """Boxes in strides, by the distances of their sides from the cells' centres, in strides."""
    height, width = distances.shape[2:]
    x, y = torch.arange(width).reshape(1, 1, -1), torch.arange(height).reshape(1, -1, 1)
    left, up, right, down = distances.unbind(1)
    return torch.stack([x - left, y - up, x + right, y + down], 1)


def heads():
    """ATSS with centerness, GFL with distributions, and TOOD."""

    def atss(**settings):
        coder = {"type": "DeltaXYWHBBoxCoder", "target_stds": [0.1, 0.1, 0.2, 0.2]}
        focal = {"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25, "loss_weight": 1.0}
        return ATSSHead(bbox_coder=coder, loss_cls=focal, **settings)

    def gfl(**settings):
        quality = {"type": "QualityFocalLoss", "use_sigmoid": True, "beta": 2.0, "loss_weight": 1.0}
        return GFLHead(reg_max=BINS - 1, loss_cls=quality, **settings)

    def tood(**settings):
        coder = {"type": "DeltaXYWHBBoxCoder", "target_stds": [0.1, 0.1, 0.2, 0.2]}
        quality = {"type": "QualityFocalLoss", "use_sigmoid": True, "activated": True, "beta": 2.0, "loss_weight": 1.0}
        return TOODHead(bbox_coder=coder, loss_cls=quality, **settings)

    return {
        "size": SIZE,
        "objects": OBJECTS,
        "classes": CLASSES,
        "atss": head_losses(atss, 5, (-1.0, 1.0)),
        "gfl": head_losses(gfl, 4 * BINS, (-2.0, 2.0)),
        "tood": head_losses(tood, 4, (0.2, 4.0)),
    }


def pafpn():
    """A thin PAFPN on P3 to P7, for an image whose sides no stride divides."""
    torch.manual_seed(5)
    channels = [2, 3, 4, 5]
    neck = PAFPN(
        in_channels=channels,
        out_channels=3,
        num_outs=5,
        start_level=1,
        add_extra_convs="on_input",
        relu_before_extra_convs=True,
    )
    with torch.no_grad():
        for values in neck.parameters():
            values.copy_(torch.empty_like(values).uniform_(-0.5, 0.5).mul(1000).round().div(1000))
    sizes = [[-(-side // stride) for side in [72, 104]] for stride in [4, 8, 16, 32]]
    maps = [torch.randn(1, width, *size).mul(1000).round().div(1000) for width, size in zip(channels, sizes)]

    def told(tensor):
        values = [float(f"{value:.7g}") for value in tensor.detach().flatten().tolist()]
        return {"shape": list(tensor.shape), "values": values}

    return {
        "channels": channels,
        "weights": {name: told(values) for name, values in neck.named_parameters()},
        "maps": [told(it) for it in maps],
        "levels": [told(it) for it in neck(maps)],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).resolve().parent.parent / "tests/fixtures/mmdetection"
    parser.add_argument("--out", type=Path, default=default)
    arguments = parser.parse_args()

    scenes = []
    for seed in range(40):
        height, width, boxes = scene(seed)
        objects = assign(height, width, boxes, {"octave_base_scale": 8, "scales_per_octave": 1})
        if objects is not None:
            scenes.append({"height": height, "width": width, "boxes": boxes, "objects": objects})
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = ",\n".join(json.dumps(scene) for scene in scenes)
    (arguments.out / "atss.json").write_text(f"[\n{text}\n]\n")
    (arguments.out / "soft_targets.json").write_text(json.dumps(soft_targets(), indent=1) + "\n")
    (arguments.out / "heads.json").write_text(json.dumps(heads()) + "\n")
    (arguments.out / "pafpn.json").write_text(json.dumps(pafpn()) + "\n")
    print(f"{len(scenes)} scenes, {sum(len(scene['objects']) for scene in scenes)} objects")


if __name__ == "__main__":
    main()
