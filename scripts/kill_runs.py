#!/usr/bin/env python3
"""Kills the program at random moments, lets it go on, and holds what comes of it against a run left alone.

    scripts/kill_runs.py [--kills 1000] [--program target/release/retinanet] [--seed 0]

Training with its evaluations and reports is killed by SIGKILL until so many kills are reached, resuming each
time; each run that ends must have the weights, evaluations and metrics of one that was never killed, byte for
byte. Between runs, `eval --json`, `export` and `study` are killed too, and the file must be whole or absent.
Prints a line a run, and exits with 1 at the first difference. Standard library only.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fuzz_keys import CONFIG

SETTINGS = ["--set", "train.iterations=30", "--set", "train.eval_every=5", "--set", "train.checkpoint_every=3",
            "--set", "train.log_every=1"]
STUDY = """
title = "killed"
base = "tiny.toml"
set = { "train.iterations" = 4, "train.eval_every" = 2 }
[grid]
"optimizer.lr" = [0.001, 0.002]
"""


class Killer:
    def __init__(self, program, folder, seed):
        self.program, self.folder = program, folder
        self.random = random.Random(seed)
        self.kills = 0

    def run(self, arguments):
        """Runs to the end; how long that took."""
        started = time.monotonic()
        done = subprocess.run([self.program, *arguments], cwd=self.folder, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{arguments} ended with {done.returncode}:\n{done.stderr}")
        return time.monotonic() - started

    def kill(self, arguments, longest):
        """Runs and kills at a random moment; whether it ended before that, and did so well."""
        process = subprocess.Popen([self.program, *arguments], cwd=self.folder, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        try:
            _, err = process.communicate(timeout=self.random.uniform(0, longest))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            self.kills += 1
            return False
        if process.returncode != 0:
            sys.exit(f"{arguments} ended with {process.returncode} by itself:\n{err}")
        return True


def digest(program, run):
    """What a run came to: the hash of its weights, its best, its evaluations and losses, but for times."""
    line = subprocess.run([program, "runs", run, "--hash"], capture_output=True, text=True, check=True)
    parts = line.stdout.splitlines()[-1].split()[1:]
    for line in (run / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        parts.append(json.dumps({key: values[key] for key in sorted(values) if "loss" in key or "AP" in key
                                 or key in ("step", "iteration")}))
    return parts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, default=Path(__file__).parent.parent / "target/release/retinanet")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "tiny.toml").write_text(CONFIG)
        (folder / "study.toml").write_text(STUDY)
        killer = Killer(arguments.program.resolve(), folder, arguments.seed)
        train = ["train", "tiny.toml", *SETTINGS]
        killer.run([*train, "--run-dir", "alone"])
        took = killer.run([*train, "--run-dir", "alone-again"])
        expected = digest(killer.program, folder / "alone")
        if digest(killer.program, folder / "alone-again") != expected:
            sys.exit("two runs that nobody killed differ")
        outputs = {"eval": ["eval", "--run", "alone", "--json"], "export": ["export", "--run", "alone", "--out"]}
        whole = {}
        for name, command in outputs.items():
            path = f"{name}.safetensors" if name == "export" else f"{name}.json"
            killer.run([*command, path])
            whole[name] = (folder / path).read_bytes()
        number = 0
        while killer.kills < arguments.kills:
            number += 1
            run = folder / f"run-{number}"
            ended = False
            while not ended:
                resume = ["--resume"] if (run / "config.toml").exists() else []
                ended = killer.kill([*train, "--run-dir", run.name, *resume], took)
            if digest(killer.program, run) != expected:
                sys.exit(f"{run.name}, killed and resumed, is another than the run that was left alone")
            for name, command in outputs.items():
                path = folder / (f"{number}.safetensors" if name == "export" else f"{number}.json")
                killer.kill([*command, path.name], took / 4)
                if path.exists() and path.read_bytes() != whole[name]:
                    sys.exit(f"{name} left a file that is not whole")
            study = ["study", "study.toml", "--out", f"study-{number}"]
            while not killer.kill(study, took):
                pass
            table = (folder / f"study-{number}" / "table.csv").read_text()
            if table.count(",done,") != 2:
                sys.exit(f"the study that was killed did not end:\n{table}")
            left = [path for path in folder.rglob(".retinanet-*.tmp")]
            print(f"run {number}: {killer.kills} kills so far, bit-identical; {len(left)} temporary files", flush=True)
    print(f"{killer.kills} kills, {number} runs, all bit-identical")


if __name__ == "__main__":
    main()
