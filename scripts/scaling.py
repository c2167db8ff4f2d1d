#!/usr/bin/env python3
"""Predicts how training scales over GPUs, for scripts/SCALING.md.

    scripts/scaling.py [--parameters 37_746_292] [--step 0.4] [--bytes 4]

Every step adds up one gradient for each parameter that is trained. A ring all-reduce over N processes
sends 2 (N - 1) / N times that from each of them, in 2 (N - 1) messages one after another for each buffer
of 64 MiB (Thakur et al. 2005). Nothing of it is hidden behind the backward pass: the efficiency is step / (step + communication),
with the images of each process as they are. `--step` is the time of a step of one process, in seconds.
"""

from __future__ import annotations

import argparse
import math

BUFFER = 64 * 1024**2
GPUS = (1, 2, 4, 8, 16, 32, 64)
# Gbit/s, and seconds that a message takes at least: Ethernet's and InfiniBand's usual figures.
NETWORKS = ((10, 50e-6), (100, 10e-6), (400, 5e-6))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--parameters", type=int, default=37_746_292, help="that are trained")
    parser.add_argument("--step", type=float, default=0.4, help="seconds of a step of one process")
    parser.add_argument("--bytes", type=int, default=4, help="of a gradient")
    arguments = parser.parse_args()

    size = arguments.parameters * arguments.bytes
    print(f"{size / 1e6:.0f} MB of gradients a step, {arguments.step} s a step of one process\n")
    heads = [f"{gigabits} Gbit/s: ms, efficiency" for gigabits, _ in NETWORKS]
    print(f"| GPUs | {' | '.join(heads)} |")
    print(f"|---|{'---|' * len(heads)}")
    for gpus in GPUS:
        cells = []
        for gigabits, latency in NETWORKS:
            seconds = all_reduce(size, gpus, gigabits * 1e9 / 8, latency)
            efficiency = arguments.step / (arguments.step + seconds)
            cells.append(f"{1000 * seconds:.0f}, {efficiency:.0%}")
        print(f"| {gpus} | {' | '.join(cells)} |")


def all_reduce(size: float, processes: int, bandwidth: float, latency: float) -> float:
    """Seconds of a ring all-reduce of `size` bytes over a network of `bandwidth` bytes a second."""
    steps = 2 * (processes - 1)
    buffers = math.ceil(size / BUFFER)
    return steps / processes * size / bandwidth + buffers * steps * latency


if __name__ == "__main__":
    main()
