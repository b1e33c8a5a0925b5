"""Rivals of one ArcFace training step on the same GPU, and the card's ceilings, as rows of the table that bench.cu prints.

A step: loss, gradient of the embeddings, SGD with momentum on the class weights (scale 64, margin 0.5, mean). PyTorch eager
and torch.compile, float32 with tf32 products and bfloat16 autocast; PyTorch in chunks of classes, which holds no B×C tensor;
Liger-Kernel and cut-cross-entropy where they are installed (plain softmax on normalised operands: less work than a margin).

python peers.py [--repeats 20] [--ceilings] [BxDxC ...]    --ceilings: those alone
"""
import argparse
import math

import torch
import torch.nn.functional as F

SCALE, MARGIN, RATE, MOMENTUM = 64.0, 0.5, 1e-3, 0.9


def timed(step, repeats):
    for _ in range(3):
        step()
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        step()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    times.sort()
    return times[len(times) // 2], times[0], times[-1]


def ceilings(repeats, device="cuda"):
    n = 8192
    for name, dtype in (("bfloat16", torch.bfloat16), ("tf32", torch.float32)):
        a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
        median, *_ = timed(lambda: a @ b, repeats)
        print(f"ceiling: {name} matmul {2 * n**3 / median / 1e9:.0f} TFLOP/s")
    source = torch.randn(1 << 28, device=device)
    target = torch.empty_like(source)
    median, *_ = timed(lambda: target.copy_(source), repeats)
    print(f"ceiling: copy {2 * source.numel() * 4 / median / 1e6:.0f} GB/s")
    logits = torch.randn(4096, 100_000, device=device, requires_grad=True)
    labels = torch.randint(0, 100_000, (4096,), device=device)

    def cross_entropy():
        logits.grad = None
        F.cross_entropy(logits, labels).backward()

    median, *_ = timed(cross_entropy, repeats)
    print(f"PyTorch cross-entropy of 4096x100000 logits, forward and backward: {median:.2f} ms")


def margin_of(cosine):
    """cos(θ + m), its line beyond π − m, and its slope."""
    sine = torch.sqrt((1 - cosine * cosine).clamp(min=1e-9))
    inside = cosine > math.cos(math.pi - MARGIN)
    value = torch.where(inside, cosine * math.cos(MARGIN) - sine * math.sin(MARGIN), cosine - MARGIN * math.sin(MARGIN))
    slope = torch.where(inside, math.cos(MARGIN) + math.sin(MARGIN) * cosine / sine, torch.ones_like(cosine))
    return value, slope


def arcface(x, w, y, half):
    with torch.autocast("cuda", torch.bfloat16, enabled=half):
        cosines = F.linear(F.normalize(x), F.normalize(w))
    cosines = cosines.float().clamp(-1, 1)
    target, _ = margin_of(cosines.gather(1, y[:, None]))
    return F.cross_entropy(SCALE * cosines.scatter(1, y[:, None], target), y)


def by_autograd(loss, x, w, y):
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    optimizer = torch.optim.SGD([w], RATE, momentum=MOMENTUM, fused=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        x.grad = None
        loss(x, w, y).backward()
        optimizer.step()

    return step


def in_chunks(x, w, y, half, chunk=16384):
    w, momentum = w.clone(), torch.zeros_like(w)
    kind = torch.bfloat16 if half else torch.float32
    rows = torch.arange(len(x), device=x.device)

    def tile(first, directions):
        part = w[first : first + chunk]
        norms = part.norm(dim=1, keepdim=True)
        unit = part / norms
        return unit, norms, SCALE * (directions @ unit.to(kind).t()).float()

    def step():
        lengths = x.norm(dim=1, keepdim=True)
        unit_x = x / lengths
        directions = unit_x.to(kind)
        cosine = (unit_x * F.normalize(w[y])).sum(1).clamp(-1, 1)
        target, slope = margin_of(cosine)

        def with_target(first, logits):
            inside = (y >= first) & (y < first + logits.shape[1])
            column = (y - first).clamp(0, logits.shape[1] - 1)
            logits[rows, column] = torch.where(inside, SCALE * target, logits[rows, column])
            return inside, column

        total = torch.full((len(x),), -math.inf, device=x.device)
        for first in range(0, len(w), chunk):
            logits = tile(first, directions)[2]
            with_target(first, logits)
            total = torch.logaddexp(total, logits.logsumexp(1))
        grad_x = torch.zeros_like(x)
        for first in range(0, len(w), chunk):
            unit, norms, logits = tile(first, directions)
            inside, column = with_target(first, logits)
            p = torch.exp(logits - total[:, None])
            p[rows, column] = torch.where(inside, (p[rows, column] - 1) * slope, p[rows, column])
            p = (p * (SCALE / len(x))).to(kind)
            grad_x += (p @ unit.to(kind)).float()
            grad = (p.t() @ directions).float()
            grad = (grad - (grad * unit).sum(1, keepdim=True) * unit) / norms
            momentum[first : first + chunk].mul_(MOMENTUM).add_(grad)
            w[first : first + chunk].sub_(momentum[first : first + chunk], alpha=RATE)
        return (grad_x - (grad_x * unit_x).sum(1, keepdim=True) * unit_x) / lengths

    return step


def contenders(x, w, y):
    for half in (True, False):
        name = "bfloat16" if half else "tf32"
        yield f"PyTorch eager {name}", lambda: by_autograd(lambda *b: arcface(*b, half), x, w, y)
        yield f"torch.compile {name}", lambda: by_autograd(torch.compile(lambda *b: arcface(*b, half)), x, w, y)
        yield f"PyTorch in chunks {name}", lambda: in_chunks(x, w, y, half)

    def operands(x, w):
        return F.normalize(x).bfloat16(), (SCALE * F.normalize(w)).bfloat16()

    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        liger = LigerFusedLinearCrossEntropyLoss()

        def liger_loss(x, w, y):
            rows, classes = operands(x, w)
            return liger(classes, rows, y)

        yield "Liger-Kernel, no margin, bfloat16", lambda: by_autograd(liger_loss, x, w, y)
    except ImportError:
        print("Liger-Kernel: not installed")
    try:
        from cut_cross_entropy import linear_cross_entropy

        def cut_loss(x, w, y):
            rows, classes = operands(x, w)
            return linear_cross_entropy(rows, classes, y)

        yield "cut-cross-entropy, no margin, bfloat16", lambda: by_autograd(cut_loss, x, w, y)
    except ImportError:
        print("cut-cross-entropy: not installed")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--ceilings", action="store_true")
    parser.add_argument("sizes", nargs="*", default=["128x512x10000", "512x512x100000", "1024x512x360000", "512x512x1000000"])
    given = parser.parse_args()
    device = "cuda"
    torch.backends.cuda.matmul.allow_tf32 = True
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}", flush=True)
    if given.ceilings:
        ceilings(given.repeats)
        return
    for size in given.sizes:
        rows, dim, classes = map(int, size.split("x"))
        generator = torch.Generator(device).manual_seed(1)
        x = torch.randn(rows, dim, device=device, generator=generator)
        w = torch.randn(classes, dim, device=device, generator=generator)
        y = torch.randint(0, classes, (rows,), device=device, generator=generator)
        for name, make in contenders(x, w, y):
            try:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
                step = make()
                median, least, most = timed(step, given.repeats)
                # Beyond a copy of the weights and their momentum, as bench.cu counts.
                used = (torch.cuda.max_memory_allocated() - before - 2 * w.numel() * 4) / 1e6
                print(f"| {name} | {size} | {median:.3f} | {least:.3f} | {most:.3f} | | | {used:.0f} | |", flush=True)
                del step
            except (RuntimeError, torch.cuda.OutOfMemoryError) as error:
                print(f"| {name} | {size} | failed: {str(error).splitlines()[0][:80]} | | | | | | |", flush=True)


if __name__ == "__main__":
    main()
