"""What each kernel of a training step takes (ArcFace, SGD with momentum, resident weights), by CUPTI through torch.profiler, which
sees every kernel of the process.

python kernels.py <library of step.cu> [BxDxC] [precision ...]
"""
import collections
import re
import sys

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from executor import PRECISIONS, Executor

STEPS = 5


def short(name):
    """void a::b::kernel<c::d>(e) as kernel."""
    name = name.replace("(anonymous namespace)::", "")
    return re.sub(r"[<(].*", "", name).split("::")[-1] if "::" in name else name


def main():
    executor = Executor(sys.argv[1])
    text = sys.argv[2] if len(sys.argv) > 2 else "512x512x100000"
    rows, dim, classes = size = tuple(map(int, text.split("x")))
    torch.zeros(1, device="cuda")  # opens the context that the profiler watches
    batches = dict(
        input=torch.randn(STEPS, rows, dim), labels=torch.randint(0, classes, (STEPS, rows), dtype=torch.int32),
        losses=torch.empty(STEPS, rows), gradInput=torch.empty(rows, dim),
    )
    weight, momentum = torch.randn(classes, dim), torch.zeros(classes, dim)

    def train(precision, steps):
        executor.train(
            size, **batches, steps=steps, precision=precision, learningRate=1e-3, momentum=0.9,
            weight=weight, weightState=[momentum, None],
        )

    for precision in sys.argv[3:] or reversed(PRECISIONS):
        train(precision, 2)
        with profile(activities=[ProfilerActivity.CUDA]) as record:
            train(precision, STEPS)
        times, counts = collections.Counter(), collections.Counter()
        for event in record.key_averages():
            if event.device_type != DeviceType.CUDA:
                continue
            times[short(event.key)] += event.device_time_total
            counts[short(event.key)] += event.count
        kernels = {name: time for name, time in times.most_common() if not re.match("Mem(cpy|set)", name)}
        total = sum(kernels.values())
        print(f"\n{text} {precision}: {total / STEPS:.0f} µs of kernels a step, on {torch.cuda.get_device_name()}\n")
        print("| kernel | launches a step | µs a step | share | µs each |\n|---|--:|--:|--:|--:|")
        for name, time in kernels.items():
            count = counts[name]
            print(f"| {name} | {count / STEPS:g} | {time / STEPS:.1f} | {100 * time / total:.1f} % | {time / count:.2f} |")
        if not kernels:
            print("no kernel was seen: the profiler has no CUPTI here")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
