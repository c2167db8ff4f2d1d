#!/usr/bin/env python3
"""Measures `retinanet bench` beside onnxruntime and OpenVINO on the CPU, and prints a Markdown table.

    cargo build --release
    scripts/bench_vs_engines.py [--rounds 3]

All run the same network, ResNet with COCO's 91 classes, random weights and frozen norms, in single precision and with as
many threads, in turn, round after round; each measurement is a process of its own that warms up and then repeats its
work, and the medians over the rounds of the medians stand. Nothing else should run meanwhile. The engines run the graph
that `export --format onnx --raw --fold --input float32` writes, the network alone; ours has decoding and suppression in
it, and beside it is the same in eight bits (`--only int8`). Needs `pip install onnxruntime openvino`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "target/release/retinanet"

# As `bench` has them.
CLASSES = 91
CASES = [("resnet18", 256), ("resnet50", 512), ("resnext50_32x4d", 800)]
WARMUP = 3
REPEATS = 10

CONFIG = """
[data]
root = "{folder}/data"
train = {{ annotations = "train.json", images = "images" }}
val = {{ annotations = "val.json", images = "images" }}
short_side = 64
long_side = 64

[model]
backbone = "{backbone}"

[schedule]
warmup = 0

[train]
iterations = 1
batch_size = 1
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        engine, graph, size = arguments.worker
        print(json.dumps(run_engine(engine, graph, int(size), arguments.threads)))
        return
    print("| network | ours | onnxruntime | OpenVINO | ratio to the quicker | ours in eight bits | of ours |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        make_data(Path(folder) / "data")
        for backbone, size in CASES:
            graph = export(Path(folder), backbone)
            times = {name: [] for name in ["inference", "int8", "onnxruntime", "openvino"]}
            for _ in range(arguments.rounds):
                for name, found in times.items():
                    found.append(measure(name, backbone, size, graph, arguments.threads))
            ours, int8, onnxruntime, openvino = (1e3 * statistics.median(found) for found in times.values())
            ratio = ours / min(onnxruntime, openvino)
            print(
                f"| {backbone}, {size} | {ours:.0f} ms | {onnxruntime:.0f} ms | {openvino:.0f} ms | {ratio:.2f} "
                f"| {int8:.0f} ms | {int8 / ours:.2f} |",
                flush=True,
            )


def make_data(folder):
    """An image to take a step on, in as many classes as `bench` has."""
    few = ["--train-images", "1", "--val-images", "1", "--width", "64", "--height", "64"]
    subprocess.run([PROGRAM, "dataset", "synth", *few, "--out", folder], check=True, capture_output=True)
    for split in ["train.json", "val.json"]:
        data = json.loads((folder / split).read_text())
        known = len(data["categories"])
        data["categories"] += [{"id": 1000 + it, "name": f"class {it}"} for it in range(CLASSES - known)]
        (folder / split).write_text(json.dumps(data))


def export(folder, backbone):
    """The graph of a network that has taken one step."""
    config, run, graph = (folder / f"{backbone}.{end}" for end in ["toml", "run", "onnx"])
    config.write_text(CONFIG.format(folder=folder, backbone=backbone))
    subprocess.run([PROGRAM, "train", config, "--run-dir", run], check=True, capture_output=True)
    command = [PROGRAM, "export", "--run", run, "--checkpoint", "last", "--format", "onnx", "--raw", "--fold"]
    subprocess.run([*command, "--input", "float32", "--out", graph], check=True, capture_output=True)
    return graph


def measure(name, backbone, size, graph, threads):
    if name in ["inference", "int8"]:
        command = [PROGRAM, "bench", "--only", name, "--backbone", backbone, "--size", str(size), "--json"]
        command += ["--threads", str(threads), "--repeats", str(REPEATS), "--warmup", str(WARMUP)]
        found = subprocess.run(command, check=True, capture_output=True, text=True)
        return json.loads(found.stdout)["results"][0]["median_s"]
    command = [sys.executable, __file__, "--threads", str(threads), "--worker", name, graph, str(size)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(found.stdout)


def run_engine(engine, graph, size, threads):
    import numpy

    images = numpy.random.default_rng(0).uniform(0, 255, [1, 3, size, size]).astype(numpy.float32)
    if engine == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        run = lambda: session.run(None, {"images": images})
    else:
        import openvino

        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        compiled = openvino.Core().compile_model(graph, "CPU", settings)
        run = lambda: compiled(images)
    times = []
    for _ in range(WARMUP + REPEATS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times[WARMUP:])


if __name__ == "__main__":
    main()
