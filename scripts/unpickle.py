#!/usr/bin/env python3
"""Makes a safetensors file of a pickle of NumPy arrays, as detectron2's model zoo publishes.

    scripts/unpickle.py model.pkl model.safetensors

A pickle is a program, and `pickle.load` runs it. This reader knows the few names that arrays and dictionaries
are made of and refuses all others, so that a pickle from nobody knows where does nothing. Needs NumPy.
"""

import json
import pickle
import struct
import sys

ALLOWED = {
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
}


class ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs; nothing was run")
        return super().find_class(module, name)


def main(source, target):
    with open(source, "rb") as file:
        try:
            content = ArrayUnpickler(file, encoding="latin1").load()
        except Exception as error:
            sys.exit(f"error: `{source}`: {error}")
    import numpy

    content = content.get("model", content) if isinstance(content, dict) else None
    arrays = {name: numpy.ascontiguousarray(value, dtype="<f4") for name, value in (content or {}).items()
              if isinstance(value, numpy.ndarray) and value.dtype.kind == "f"}
    if not arrays:
        sys.exit(f"error: `{source}` holds no arrays of numbers by name")
    header, offset = {}, 0
    for name, array in arrays.items():
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    header = json.dumps(header).encode()
    header += b" " * (-len(header) % 8)
    with open(target, "xb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for array in arrays.values():
            file.write(array.tobytes())
    print(f"wrote {target} with {len(arrays)} arrays")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
