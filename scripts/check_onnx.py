#!/usr/bin/env python3
"""Runs exported graphs in onnxruntime, and in OpenVINO where asked, beside what this program said of the same images.

    scripts/check_onnx.py CASES [--openvino]

CASES holds a folder for each detector, as `tests/it/onnx.rs` writes them: `detections.onnx`, `raw.onnx`,
`images.npy`, and ours in `logits.npy`, `deltas.npy` and `detections.npy` (image, label, score, x1, y1, x2, y2).
Needs `pip install onnx onnxruntime` (`openvino`).
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx

# Of the largest logit or delta
PREDICTIONS = 1e-4
PIXELS = 0.01
SCORES = 1e-4


def in_onnxruntime(path, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images})))


def in_openvino(path, images):
    import openvino

    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled(images)
    return {name: found[output] for output in compiled.outputs for name in output.names}


def differences(case, run):
    """What differs between ours and another program's, in words."""
    images = np.load(case / "images.npy")
    raw = run(case / "raw.onnx", images)
    for name in ["logits", "deltas"]:
        ours, theirs = np.load(case / f"{name}.npy"), raw[name]
        if ours.shape != theirs.shape:
            yield f"{name} are of {theirs.shape} and ours of {ours.shape}"
            continue
        difference = np.abs(ours - theirs).max() / max(np.abs(ours).max(), 1e-30)
        if not difference <= PREDICTIONS:
            yield f"{name} differ by {difference:.1e} of the largest"
    if raw["anchors"].shape != (raw["deltas"].shape[1], 4):
        yield f"anchors are of {raw['anchors'].shape}"

    found = run(case / "detections.onnx", images)
    ours = np.load(case / "detections.npy")
    threshold = np.load(case / "threshold.npy")[0]
    for image in range(len(images)):
        count = int(found["num_detections"][image])
        theirs = np.column_stack(
            [found[name][image].astype(np.float64) for name in ["labels", "scores", "boxes"]]
        )
        behind = theirs[count:]
        if not ((behind[:, 0] == -1).all() and (behind[:, 1:] == 0).all()):
            yield f"image {image}: something stands behind the last detection"
        if not (np.diff(theirs[:count, 1]) <= 0).all():
            yield f"image {image}: the best do not come first"
        yield from unmatched(image, ours[ours[:, 0] == image][:, 1:], theirs[:count], threshold)


def unmatched(image, ours, theirs, threshold):
    """Detections that only one of the two has."""
    last = min(ours[:, 1].min(initial=1), theirs[:, 1].min(initial=1))
    rest = list(theirs)
    for one in ours:
        same = [
            place
            for place, other in enumerate(rest)
            if one[0] == other[0]
            and abs(one[1] - other[1]) <= SCORES
            and np.abs(one[2:] - other[2:]).max() <= PIXELS
        ]
        if same:
            del rest[same[0]]
        # Rounding decides what is just above the threshold, and which of two alike is the last one that stays.
        elif one[1] > max(threshold, last) + SCORES:
            yield f"image {image}: {one} is ours alone"
    for other in rest:
        if other[1] > max(threshold, last) + SCORES:
            yield f"image {image}: {other} is theirs alone"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=Path)
    parser.add_argument("--openvino", action="store_true")
    arguments = parser.parse_args()

    runs = {"onnxruntime": in_onnxruntime}
    if arguments.openvino:
        runs["OpenVINO"] = in_openvino
    cases = sorted(path.parent for path in arguments.cases.glob("*/raw.onnx"))
    failed = 0
    detections = 0
    for case in cases:
        for graph in ["raw", "detections"]:
            onnx.checker.check_model(onnx.load(case / f"{graph}.onnx"), full_check=True)
        detections += len(np.load(case / "detections.npy"))
        for name, run in runs.items():
            for difference in differences(case, run):
                failed += 1
                print(f"{case.name}, {name}: {difference}")
    print(f"{len(cases)} detectors, {detections} detections, {failed} differences")
    if failed or not cases or not detections:
        sys.exit(1)


if __name__ == "__main__":
    main()
