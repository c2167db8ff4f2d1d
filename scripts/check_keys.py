#!/usr/bin/env python3
"""Checks where keys of the config are spelled: crates below `experiment` never spell one with its section, since they
know no config file; everywhere else each that is spelled is a key.

    retinanet config keys | scripts/check_keys.py
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SECTIONS = "data|model|criterion|optimizer|schedule|train|eval|compute"
# In backticks, as messages and documents have keys: `train.batch_size`, `data.range_16_bit = [300, 900]`.
SPELLED = re.compile(rf"`((?:{SECTIONS})\.[a-z_0-9]+(?:\.[a-z_0-9]+)*)(?=[` =])")
KEY = re.compile(r"^([a-z_0-9.]+) = ", re.MULTILINE)
# The names of 0.1, which are told by their new ones, and mistakes that tests make on purpose.
NOT_OURS = {"crates/experiment/src/keys.rs", "crates/experiment/src/layers/tests.rs", "CHANGELOG.md"}


def floors():
    """The floor of each crate, as ARCHITECTURE.md has it."""
    table = re.findall(r"^\| (\d) \| \[`(\w+)`\]", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    return {name: int(floor) for floor, name in table}


def main():
    keys = set(KEY.findall(sys.stdin.read()))
    if len(keys) < 100:
        sys.exit("the keys are to come on standard input, from `retinanet config keys`")
    known = keys | {key[:end] for key in keys for end in range(len(key)) if key[end] == "."}
    of_crates = floors()
    files = [*ROOT.glob("crates/*/src/**/*.rs"), *ROOT.glob("docs/*.md"), *ROOT.glob("*.md"), *ROOT.glob("scripts/*.md")]
    faults = []
    for file in files:
        name = str(file.relative_to(ROOT))
        if name in NOT_OURS:
            continue
        crate = file.relative_to(ROOT).parts[1] if name.startswith("crates/") else None
        is_leaf = crate is not None and of_crates.get(crate, 99) < of_crates["experiment"]
        for number, line in enumerate(file.read_text().splitlines(), 1):
            for key in SPELLED.findall(line):
                if key.endswith((".json", ".yaml", ".safetensors")):
                    continue
                if is_leaf:
                    faults.append(f"{name}:{number}: `{key}` is spelled below `experiment`")
                elif key not in known:
                    faults.append(f"{name}:{number}: there is no key `{key}`")
    print("\n".join(faults) or f"{len(keys)} keys, each spelled as it is")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
