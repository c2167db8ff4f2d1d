#!/usr/bin/env python3
"""Measures `retinanet bench` beside torchvision's RetinaNet on one NVIDIA GPU.

    cargo build --release
    scripts/bench_gpu_vs_torchvision.py [--out DIR] [--minutes 8] [--program FILE]

Writes `gpu.json` and `gpu.md`, a table, into DIR; needs a Python with PyTorch and torchvision that see the GPU, and a
driver with Vulkan. Nothing is downloaded. A program that was packed with `xz` is unpacked first.

A ResNet-50 at 512x512 and 800x1333, batches of 1, 4 and 16, in f32 and f16, a training step and inference; ours and
theirs in turn, each in a process of its own. torchvision's has its channels last and, in f16, autocast and a gradient
scaler; TF32 is as PyTorch has it by default. Our images are handed over as bytes in each repetition, torchvision's lie
on the GPU already. What the time does not suffice for is left out, and said so: the cases
that tell most come first.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import bench_vs_torchvision as on_cpu  # noqa: E402

CLASSES = on_cpu.CLASSES
REPEATS, WARMUP = 5, 2
# A process that takes longer has hung.
PATIENCE = 120
# What `retinanet bench` counts, by our names.
COUNTS = {
    "memory": "memory_bytes",
    "dispatches": "dispatches",
    "host_reads": "host_reads",
    "bytes_up": "bytes_up",
    "bytes_down": "bytes_down",
}


@dataclass(frozen=True)
class Case:
    """What both sides do."""

    work: str
    size: tuple[int, int]
    batch: int
    precision: str

    def title(self) -> str:
        height, width = self.size
        return f"{self.work}, {height}x{width}, batch {self.batch}, {self.precision}"


CASES = [
    Case(work, size, batch, precision)
    for batch in (4, 1, 16)
    for size in ((512, 512), (800, 1333))
    for precision in ("f32", "f16")
    for work in ("step", "inference")
]


def main() -> None:
    arguments = parse_arguments()
    if arguments.worker:
        work_on(json.loads(arguments.worker))
        return
    deadline = time.monotonic() + 60 * arguments.minutes
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        program = unpacked(arguments.program, Path(folder))
        results = [{"case": case.title(), "left_out": True} for case in CASES]
        report = {"machine": machine(program, arguments.device), "results": results}
        log(report["machine"])
        write(arguments.out, report)
        for case, result in zip(CASES, results, strict=True):
            # Less does not suffice for two processes.
            if time.monotonic() > deadline - 20:
                break
            ours = run_ours(program, case, arguments.device, deadline)
            theirs = run_theirs(case, deadline)
            del result["left_out"]
            result.update(ours=ours, torchvision=theirs)
            log(f"{case.title()}: {told(ours)}, torchvision {told(theirs)}")
            # Whoever stops it has what was measured so far.
            write(arguments.out, report)
    print((arguments.out / "gpu.md").read_text())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("."), metavar="DIR")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--program", type=Path, default=on_cpu.PROGRAM, metavar="FILE")
    parser.add_argument("--device", default="wgpu", help="of ours")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def unpacked(program: Path, folder: Path) -> Path:
    if not program.exists():
        sys.exit(f"error: {program} is not there: cargo build --release")
    if program.suffix != ".xz":
        return program.resolve()
    target = folder / "retinanet"
    with lzma.open(program) as packed, target.open("wb") as file:
        shutil.copyfileobj(packed, file)
    target.chmod(0o755)
    return target


def machine(program: Path, device: str) -> str:
    versions = "import torch, torchvision; print(torch.__version__, torchvision.__version__, torch.cuda.get_device_name(0))"
    try:
        torch, torchvision, name = on_cpu.output([sys.executable, "-c", versions]).split(maxsplit=2)
        ours = on_cpu.output([str(program), "--version"])
    except (OSError, subprocess.CalledProcessError) as error:
        lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        sys.exit(f"error: {lines[-1] if lines else error}")
    return f"{name}; {ours} on {device}, torch {torch}, torchvision {torchvision}"


def run_ours(program: Path, case: Case, device: str, deadline: float) -> dict:
    height, width = case.size
    # torchvision pads to multiples of 32.
    size = f"{-(-height // 32) * 32}x{-(-width // 32) * 32}"
    command = [str(program), "bench", "--json", "--device", device, "--only", case.work]
    command += ["--size", size, "--batch", str(case.batch), "--classes", str(CLASSES)]
    command += ["--precision", case.precision, "--repeats", str(REPEATS), "--warmup", str(WARMUP)]
    report = run(command, deadline)
    if "failed" in report:
        return report
    result = report["results"][0]
    # A CPU is not asked for such things.
    counts = result.get("device", {})
    return {"seconds": result["seconds"]} | {
        name: counts[key] for name, key in COUNTS.items() if key in counts
    }


def run_theirs(case: Case, deadline: float) -> dict:
    return run([sys.executable, __file__, "--worker", json.dumps(asdict(case))], deadline)


def run(command: list[str], deadline: float) -> dict:
    """What the process prints, JSON; or why it failed."""
    patience = max(1.0, min(PATIENCE, deadline - time.monotonic()))
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience, check=False)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            return {"failed": lines[-1][:300]}
        return json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return {"failed": f"takes more than {patience:.0f} s"}
    except (OSError, ValueError) as error:
        return {"failed": str(error)[:300]}


def write(out: Path, report: dict) -> None:
    """Both files, each whole or not at all."""
    for name, text in (("gpu.json", json.dumps(report, indent=1) + "\n"), ("gpu.md", markdown(report))):
        part = out / f"{name}.part"
        part.write_text(text)
        os.replace(part, out / name)


def markdown(report: dict) -> str:
    header = ["ResNet-50", "ours", "torchvision", "ratio", "our memory", "their memory", "dispatches", "reads", "up", "down"]
    rows = [header, ["---"] + ["---:"] * (len(header) - 1)]
    for result in report["results"]:
        if "left_out" in result:
            rows.append([result["case"], "left out: no time"] + [""] * (len(header) - 2))
            continue
        ours, theirs = result["ours"], result["torchvision"]
        row = [result["case"], told(ours), told(theirs)]
        both = "seconds" in ours and "seconds" in theirs
        row.append(f"{median(ours) / median(theirs):.2f}" if both else "")
        row += [f"{side['memory'] / 2**20:.0f} MiB" if "memory" in side else "" for side in (ours, theirs)]
        if "dispatches" in ours:
            row += [f"{ours['dispatches']:.0f}", f"{ours['host_reads']:.0f}"]
            row += [f"{ours[key] / 1e6:.2f} MB" for key in ("bytes_up", "bytes_down")]
        else:
            row += [""] * 4
        rows.append(row)
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{report['machine']}\n\n{table}\n"


def median(side: dict) -> float:
    return statistics.median(side["seconds"])


def told(side: dict) -> str:
    return f"failed: {side['failed']}" if "failed" in side else on_cpu.seconds(median(side))


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# The worker: torchvision's side of one case, in a process of its own.


def work_on(case: dict) -> None:
    """Prints the seconds of each repetition, and the most memory that PyTorch reserved, as JSON."""
    import torch

    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    work = {"step": step_work, "inference": inference_work}[case["work"]](case)
    times = []
    for _ in range(WARMUP + REPEATS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    print(json.dumps({"seconds": times[WARMUP:], "memory": torch.cuda.max_memory_reserved()}))


def model_on_gpu(case: dict):
    import torch

    height, width = case["size"]
    model = on_cpu.torch_model({"backbone": "resnet50", "size": min(height, width)})
    # Images of that size keep it.
    model.transform.min_size, model.transform.max_size = (min(height, width),), max(height, width)
    return model.cuda().to(memory_format=torch.channels_last)


def images_on_gpu(case: dict) -> list:
    import torch

    return [torch.rand(3, *case["size"], device="cuda") for _ in range(case["batch"])]


def step_work(case: dict):
    import torch

    model = model_on_gpu(case).train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=0.9, weight_decay=1e-4)
    half = case["precision"] == "f16"
    scaler = torch.amp.GradScaler("cuda", enabled=half)
    height, width = case["size"]
    images = images_on_gpu(case)
    targets = [
        {
            "boxes": on_cpu.random_boxes(on_cpu.OBJECTS, height, width).cuda(),
            "labels": torch.randint(CLASSES, (on_cpu.OBJECTS,), device="cuda"),
        }
        for _ in range(case["batch"])
    ]

    def work() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.float16, enabled=half):
            loss = sum(model(images, targets).values())
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        loss.item()

    return work


def inference_work(case: dict):
    import torch

    model = model_on_gpu(case).eval()
    images = images_on_gpu(case)
    half = case["precision"] == "f16"

    @torch.inference_mode()
    def work() -> None:
        with torch.autocast("cuda", torch.float16, enabled=half):
            model(images)

    return work


if __name__ == "__main__":
    main()
