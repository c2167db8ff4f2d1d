#!/usr/bin/env python3
"""Writes the weights of a thin ResNet-18 in the formats that PyTorch users keep weights in.

    scripts/make_pytorch_fixtures.py

The files go to `tests/fixtures/pytorch`: PyTorch's zip with the weights under "model", as training
scripts save them; the format before PyTorch 1.6; and safetensors. All hold the same numbers, under
torchvision's names, classifier included.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

from bench_vs_torchvision import python_with_torch

if __name__ == "__main__" and (PYTHON := python_with_torch()) != sys.executable:
    os.execv(PYTHON, [PYTHON, __file__, *sys.argv[1:]])

import torch
from torchvision.models import resnet18

from make_torchvision_fixtures import write_safetensors

OUT = Path(__file__).resolve().parents[1] / "tests/fixtures/pytorch"
# 64 channels become 2.
THINNER = 32


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    weights = {name: thin(tensor) for name, tensor in resnet18(weights=None).state_dict().items()}
    # No variance is negative.
    weights = {name: tensor.abs() if name.endswith("running_var") else tensor for name, tensor in weights.items()}
    torch.save({"model": weights, "epoch": 3}, OUT / "resnet18_thin.pth")
    torch.save(weights, OUT / "resnet18_thin_legacy.pt", _use_new_zipfile_serialization=False)
    arrays = {name: tensor.numpy() for name, tensor in weights.items()}
    write_safetensors(OUT / "resnet18_thin.safetensors", arrays, {})
    for path in sorted(OUT.iterdir()):
        print(f"{path.stat().st_size:8} {path.name}")


def thin(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor with a fraction of the channels, filled with a wave."""
    shape = [max(side // THINNER, 1) if side >= 64 else side for side in tensor.shape]
    if not tensor.is_floating_point():
        return torch.zeros_like(tensor)
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float32)).reshape(shape)


if __name__ == "__main__":
    main()
