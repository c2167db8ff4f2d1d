#!/usr/bin/env python3
"""Packs a weight file of this program's into what ships with it (`crates/pretrained/weights`).

    scripts/pack_weights.py detector.safetensors crates/pretrained/weights/resnet18.packed

A packed file is deflated safetensors. A convolution's weights are whole numbers, `I8`, times a scale for each output
channel, `F16`, under the weights' name with `.scale` behind it: from -31 to 31, and from -7 to 7 for the backbone's last
stage, which has two thirds of all weights. The scale is the one with the smallest squared error. All else is `F16`. The class
output, which knows the classes of its own data alone, is left out. Needs `pip install numpy safetensors`.
"""

import argparse
import json
import zlib
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

COARSE = "backbone.layer4."
LEFT_OUT = "class_subnet.output."


def quantize(weights, most):
    """Whole numbers up to `most` and the scales of the output channels."""
    rows = weights.reshape(len(weights), -1).astype(np.float64)
    largest = np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-8)
    best = None
    for share in np.linspace(0.3, 1.0, 36):
        scales = (largest * share / most).astype(np.float16).astype(np.float64)
        scales = np.maximum(scales, 6e-8)
        steps = np.clip(np.round(rows / scales), -most, most)
        error = ((steps * scales - rows) ** 2).sum(axis=1, keepdims=True)
        if best is None:
            best = [error, scales, steps]
            continue
        better = error < best[0]
        best = [np.where(better, new, old) for new, old in zip([error, scales, steps], best)]
    _, scales, steps = best
    return steps.astype(np.int8).reshape(weights.shape), scales.astype(np.float16).reshape(-1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    packed, errors = {}, {}
    for name, values in sorted(load_file(arguments.weights).items()):
        if name.startswith(LEFT_OUT):
            continue
        if values.ndim != 4:
            packed[name] = values.astype(np.float16)
            continue
        coarse = name.startswith(COARSE)
        packed[name], packed[f"{name}.scale"] = quantize(values, 7 if coarse else 31)
        unpacked = packed[name] * packed[f"{name}.scale"].astype(np.float64).reshape(-1, 1, 1, 1)
        errors[name] = float(((unpacked - values) ** 2).mean() / (values.astype(np.float64) ** 2).mean())
    data = zlib.compress(save(packed), 9)
    arguments.out.write_bytes(data)
    worst = sorted(errors, key=errors.get)[-3:]
    print(f"{len(packed)} tensors, {len(data)} bytes; largest relative squared errors:")
    print(json.dumps({name: errors[name] for name in worst}, indent=1))


if __name__ == "__main__":
    main()
