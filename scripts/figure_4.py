#!/usr/bin/env python3
"""Prints the paper's Figure 4 of a run as a table: which share of the loss the hardest anchors carry.

    scripts/figure_4.py RUN...

Each RUN is a run's folder; what `retinanet train` wrote there at its last evaluation as
`eval/loss_shares.json` is read. For each focusing exponent γ, over positive and over negative anchors,
the share of the loss (without α) that the hardest 1 %, 5 % and 20 % of the anchors carry.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HARDEST = (0.01, 0.05, 0.20)

Curve = list[list[float]]


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    for run in map(Path, sys.argv[1:]):
        file = run / "eval" / "loss_shares.json"
        if not file.is_file():
            sys.exit(f"error: {file} does not exist; is {run} a run that was evaluated?")
        shares = json.loads(file.read_text())
        print(f"{run.name}: {shares['positives']} positives, {shares['negatives']} negatives\n")
        heads = [f"hardest {share:.0%} of {side}" for side in ("positives", "negatives") for share in HARDEST]
        print(f"| γ | {' | '.join(heads)} |")
        print(f"|{'---|' * (len(heads) + 1)}")
        for curves in shares["curves"]:
            cells = [
                f"{100 * share_of_hardest(curves[side], share):.1f} %" if curves[side] else "–"
                for side in ("positives", "negatives")
                for share in HARDEST
            ]
            print(f"| {curves['gamma']:g} | {' | '.join(cells)} |")
        print()


def share_of_hardest(curve: Curve, share: float) -> float:
    """What the hardest anchors carry. A curve goes from the easiest, `[0, 0]`, to `[1, 1]`."""
    at = 1 - share
    for (x, y), (next_x, next_y) in zip(curve, curve[1:]):
        if next_x >= at:
            return 1 - (y + (next_y - y) * (at - x) / (next_x - x))
    return 0.0


if __name__ == "__main__":
    main()
