#!/usr/bin/env python3
"""Lets the disk run full at many points of a training, and holds what is left against a run that had room.

    sudo scripts/full_disk.py [--points 200] [--program target/release/retinanet]

For each point a file system in memory (tmpfs) of another size takes the run. Training must end with exit code 1
and one error; no temporary file may be left; and with room again, `--resume` must end in the weights of the run
that always had room, bit for bit. Needs the right to mount. Standard library only.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from fuzz_keys import CONFIG
from kill_runs import SETTINGS, digest


def mounted(folder, kibibytes, remount=False):
    options = f"size={kibibytes}k" + (",remount" if remount else "")
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, default=Path(__file__).parent.parent / "target/release/retinanet")
    parser.add_argument("--points", type=int, default=200)
    arguments = parser.parse_args()
    program = arguments.program.resolve()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "tiny.toml").write_text(CONFIG)

        def train(run, *more):
            command = [program, "train", "tiny.toml", *SETTINGS, "--run-dir", run, *more]
            return subprocess.run(command, cwd=folder, capture_output=True, text=True)

        train("roomy").check_returncode()
        expected = digest(program, folder / "roomy")
        needed = sum(path.stat().st_size for path in (folder / "roomy").rglob("*") if path.is_file())
        # Twice as much while a checkpoint is written beside the one before it.
        largest = 2 * needed // 1024 + 64
        disk = folder / "disk"
        disk.mkdir()
        full = 0
        for point in range(arguments.points):
            size = 8 + point * largest // arguments.points
            mounted(disk, size)
            try:
                ended = train("disk/run")
                errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
                if ended.returncode not in (0, 1) or len(errors) != ended.returncode or "panicked" in ended.stderr:
                    sys.exit(f"{size} KiB: exit code {ended.returncode}\n{ended.stderr}")
                full += ended.returncode
                left = list(disk.rglob("*.tmp"))
                if left:
                    sys.exit(f"{size} KiB: left {left}")
                mounted(disk, 4 * largest, remount=True)
                begun = (disk / "run/config.toml").exists()
                ended = train("disk/run", *(["--resume"] if begun else []))
                if ended.returncode != 0:
                    sys.exit(f"{size} KiB: with room again, exit code {ended.returncode}\n{ended.stderr}")
                if digest(program, disk / "run") != expected:
                    sys.exit(f"{size} KiB: the run that went on is another than the one that had room")
            finally:
                subprocess.run(["umount", disk], check=True)
        print(f"{arguments.points} sizes, {full} of them too small, all bit-identical with room again, no file left")


if __name__ == "__main__":
    main()
