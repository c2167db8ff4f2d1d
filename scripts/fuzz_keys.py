#!/usr/bin/env python3
"""Trains with one numeric key of the config at a time set to values that nobody means.

    scripts/fuzz_keys.py [--program target/release/retinanet] [--jobs 2] [--only train.] [--seconds 10]

Every run must end within its time and memory: with exit code 0, or with one error and exit code 1 or 2; or
train, and stop with a checkpoint when it is asked to. A
panic, a crash, a hang, an allocation that fails or a run that ends well with numbers that are none is a
fault; the script lists them and then exits with 1. Standard library only.
"""

import argparse
import concurrent.futures
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

# A config that trains three steps in a fifth of a second.
CONFIG = """
[data]
root = "data"
short_side = 64
long_side = 64
workers = 1
synth = { train_images = 6, val_images = 2, width = 64, height = 64 }

[model]
backbone = "resnet18"
width = 8
norm = "batch_norm"
freeze_at = 0
fpn_channels = 16
head = { depth = 1, norm = "group_norm" }
anchors = { sizes = [8.0, 16.0, 32.0, 64.0, 128.0] }

[criterion]
class = { gamma = 1.0 }
normalizer = "batch"

[optimizer]
name = "adamw"
lr = 0.002
reference_batch = 2

[schedule]
warmup = 1
milestones = [2]

[train]
iterations = 3
batch_size = 2
eval_every = 3
checkpoint_every = 3
"""

# Keys that have no value unless someone gives one.
OPTIONAL = [
    "data.eval_short_side", "data.repeat_threshold", "data.prefetch", "model.head.channels",
    "criterion.sampling.positive_share", "optimizer.clip_norm", "schedule.end_factor",
    "train.epochs", "train.unfreeze_at", "train.patience", "train.ema_decay", "train.keep_last",
    "train.checkpoint_minutes", "train.max_seconds", "compute.threads", "criterion.class.alpha",
]

VALUES = ["0", "-1", "1", "0.5", "-0.0", "1e-300", "1e300", "3.0e38", "nan", "inf", "-inf", "1000000",
          "4294967296", "9223372036854775807", "-9223372036854775808", "1.5"]


def leaves(table, path=()):
    """Every numeric key with whether it is a list."""
    for key, value in table.items():
        here = (*path, key)
        if isinstance(value, dict):
            yield from leaves(value, here)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield ".".join(here), None
        elif isinstance(value, list) and all(isinstance(it, (int, float)) for it in value):
            yield ".".join(here), value


def trials(program, folder):
    shown = subprocess.run([program, "config", "show", folder / "tiny.toml"], capture_output=True,
                           text=True, check=True).stdout
    keys = dict(leaves(tomllib.loads(shown)))
    for key in OPTIONAL:
        keys.setdefault(key, None)
    keys.setdefault("data.range_16_bit", [0, 65_535])
    for key, items in keys.items():
        for value in VALUES:
            yield key, value if items is None else f"[{', '.join([value] * max(1, len(items)))}]"
        if items is not None:
            yield key, "[]"
            yield key, "[" + ", ".join(["1"] * 30_000) + "]"


def limited(seconds, gibibytes):
    def limit():
        os.setsid()
        size = int(gibibytes * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return limit


def fault(program, folder, key, value, arguments):
    """What is wrong with the way that a run ends; nothing if it ends as it should."""
    run = Path(tempfile.mkdtemp(dir=folder))
    command = [program, "train", folder / "tiny.toml", "--run-dir", run / "run", "--set", f"{key}={value}"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               errors="replace", preexec_fn=limited(arguments.seconds, arguments.gibibytes))
    try:
        out, err = process.communicate(timeout=arguments.seconds)
    except subprocess.TimeoutExpired:
        # A long training is none, if it trains and can be stopped.
        os.killpg(process.pid, signal.SIGINT)
        try:
            out, err = process.communicate(timeout=arguments.seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            return f"hang: {last_line(err)}"
        if process.returncode == 130 and "checkpoints/last" in err:
            return None
        return f"hang, stopped with {process.returncode}: {last_line(err)}"
    finally:
        shutil.rmtree(run, ignore_errors=True)
    code = process.returncode
    if "panicked" in err:
        return "panic: " + next(line for line in err.splitlines() if "panicked" in line)
    if "memory allocation" in err:
        return "out of memory"
    if code not in (0, 1, 2):
        return f"exit code {code}: {last_line(err)}"
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    if code != 0 and len(errors) != 1:
        return f"{len(errors)} errors, exit code {code}"
    if code == 0 and re.search(r"\b(NaN|nan|inf)\b", out + err):
        lines = (out + err).splitlines()
        return "nonsense: " + next(line for line in lines if re.search(r"\b(NaN|nan|inf)\b", line))
    return None


def last_line(text):
    lines = text.strip().splitlines()
    return lines[-1][:160] if lines else ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, default=Path(__file__).parent.parent / "target/release/retinanet")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="keys that begin with this")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--gibibytes", type=float, default=2)
    arguments = parser.parse_args()
    program = arguments.program.resolve()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "tiny.toml").write_text(CONFIG)
        # Renders the shapes, and shows that the config trains.
        subprocess.run([program, "train", folder / "tiny.toml", "--run-dir", folder / "run"], cwd=folder,
                       capture_output=True, check=True)
        all_trials = [it for it in trials(program, folder) if it[0].startswith(arguments.only)]
        found = 0
        with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
            faults = pool.map(lambda it: fault(program, folder, *it, arguments), all_trials)
            for (key, value), wrong in zip(all_trials, faults):
                if wrong:
                    found += 1
                    print(f"{key} = {value[:60]}: {wrong}", flush=True)
    print(f"{len(all_trials)} trials, {found} faults")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
