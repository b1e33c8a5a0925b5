"""The CUDA executor beside float64 autograd at sizes that golden vectors do not reach: several tiles of rows, many chunks of
classes, operands in one plane (dim >= 128) and in pairs, remainders everywhere; gradients, then training of resident weights.
Each result must be right, and have the same bits when it is computed again.

python agree.py <library of step.cu> [BxDxC ...]
"""
import math
import sys
import time

import torch
import torch.nn.functional as F

from executor import BOUNDS, Executor

SIZES = ["1x1x1", "129x127x257", "130x136x300", "100x65x20000", "257x520x40000", "512x512x50000"]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SCALE, MARGIN = 32.0, 0.4
STEPS = 3


class Case:
    """A batch for each of STEPS steps, with an ignored row and a label that comes twice where there are rows enough."""

    def __init__(self, size, margin, reduction="mean", smoothing=0.0):
        rows, dim, classes = self.size = size
        self.margin, self.reduction, self.smoothing = margin, reduction, smoothing
        self.input = torch.randn(STEPS, rows, dim) * (1 if margin == "arcface" else 0.3)
        self.weight = torch.randn(classes, dim)
        self.bias = torch.randn(classes) if margin == "softmax" else None
        self.labels = torch.randint(0, classes, (STEPS, rows), dtype=torch.int32)
        if rows > 2:
            self.labels[:, 1], self.labels[:, 2] = -1, self.labels[:, 0]
        self.grad_output = torch.rand(rows) if reduction == "none" else None

    def settings(self, precision):
        return dict(
            margin=self.margin, parameters={"scale": SCALE, "margin": MARGIN} if self.margin == "arcface" else {},
            reduction=self.reduction, labelSmoothing=self.smoothing, precision=precision,
            input=self.input, labels=self.labels, gradOutput=self.grad_output,
        )

    def losses(self, x, w, bias, y):
        """As a paper has them, every logit held."""
        if self.margin == "softmax":
            logits = F.linear(x, w, bias)
        else:
            cosines = F.linear(F.normalize(x), F.normalize(w))
            place = y.clamp(min=0)[:, None]
            c = cosines.gather(1, place)
            inside = c * math.cos(MARGIN) - (1 - c * c).clamp(min=1e-30).sqrt() * math.sin(MARGIN)
            target = torch.where(c > math.cos(math.pi - MARGIN), inside, c - MARGIN * math.sin(MARGIN))
            logits = SCALE * cosines.scatter(1, place, target)
        return F.cross_entropy(logits, y, ignore_index=-1, label_smoothing=self.smoothing, reduction="none")

    def backward(self, losses, y):
        if self.grad_output is None:
            (losses.sum() / (y >= 0).sum()).backward()
        else:
            (losses * self.grad_output.to(losses)).sum().backward()


def double(values):
    return None if values is None else values.to(DEVICE, torch.float64).requires_grad_()


def off(got, expected):
    """‖got − expected‖ / ‖expected‖; ‖got‖ where nothing is expected."""
    norm = expected.norm().item()
    return (got.to(expected) - expected).norm().item() / (norm or 1)


def gradients(executor, case):
    """Yields for each precision what is off by how much, and whether a second run gave the same bits."""
    rows, dim, classes = case.size
    x, w, bias = double(case.input[0]), double(case.weight), double(case.bias)
    y = case.labels[0].to(DEVICE).long()
    losses = case.losses(x, w, bias, y)
    case.backward(losses, y)
    expected = {"losses": losses.detach(), "gradInput": x.grad, "gradWeight": w.grad}
    if bias is not None:
        expected["gradBias"] = bias.grad

    def compute(precision):
        out = {name: torch.full(values.shape, math.nan) for name, values in expected.items()}
        executor.step(case.size, **case.settings(precision), weight=case.weight, bias=case.bias, **out)
        return out

    for precision in BOUNDS:
        got, again = compute(precision), compute(precision)
        same = all(torch.equal(got[name], again[name]) for name in got)
        yield precision, {name: off(got[name], expected[name]) for name in expected}, same


def reference_training(case, make_optimizer, w, bias):
    parameters = [w] if bias is None else [w, bias]
    optimizer = make_optimizer(parameters)
    for x, y in zip(case.input, case.labels):
        optimizer.zero_grad()
        x, y = double(x), y.to(DEVICE).long()
        losses = case.losses(x, w, bias, y)
        case.backward(losses, y)
        optimizer.step()
    return [optimizer.state[p] for p in parameters], losses.detach(), x.grad


def first_gradient(case):
    """The root mean square of the first step's gradient of the weights."""
    w, y = double(case.weight), case.labels[0].to(DEVICE).long()
    case.backward(case.losses(double(case.input[0]), w, double(case.bias), y), y)
    return w.grad.square().mean().sqrt().item()


def training(executor, case, optimizer):
    """As `gradients`, of STEPS steps: how far the weights and the bias moved, the optimizer's states, the last step's outputs."""
    rows, dim, classes = case.size
    typical = first_gradient(case) or 1
    # Weights move by some percent of themselves, so that float32 can tell how far. AdamW's ε is as large as a typical
    # gradient: else an update would be the sign of the gradient, right or wrong where that is about zero. Its β are exact in
    # float32: 1 − 0.999 is off by 1.3e-5 there, on every device.
    settings = {
        "sgd": dict(learningRate=0.02 / typical, momentum=0.9, weightDecay=0.1 * typical),
        "adamw": dict(learningRate=0.05, beta1=0.875, beta2=0.9375, epsilon=typical, weightDecay=0.5),
    }[optimizer]

    def make(parameters):
        rate, decay = settings["learningRate"], settings["weightDecay"]
        if optimizer == "sgd":
            return torch.optim.SGD(parameters, rate, momentum=settings["momentum"], weight_decay=decay)
        betas = settings["beta1"], settings["beta2"]
        return torch.optim.AdamW(parameters, rate, betas, settings["epsilon"], weight_decay=decay)

    before = {"weight": case.weight, "bias": case.bias}
    after = {name: double(values) for name, values in before.items()}
    states, losses, grad_input = reference_training(case, make, after["weight"], after["bias"])
    names = ["momentum_buffer"] if optimizer == "sgd" else ["exp_avg", "exp_avg_sq"]
    expected = {"losses": losses, "gradInput": grad_input}
    for (name, values), state in zip(before.items(), states):
        expected[name] = after[name].detach() - values.to(DEVICE, torch.float64)
        expected.update({f"{name}.{key}": state[key] for key in names})

    def compute(precision):
        arrays = {name: None if values is None else values.clone() for name, values in before.items()}
        kept = {name: [torch.zeros_like(values) for _ in names] + [None] * (2 - len(names)) if values is not None else [None] * 2
                for name, values in before.items()}
        losses, grad_input = torch.full((STEPS, rows), math.nan), torch.full((rows, dim), math.nan)
        executor.train(
            case.size, **case.settings(precision), **arrays, optimizer=optimizer, **settings, steps=STEPS,
            weightState=kept["weight"], biasState=kept["bias"], losses=losses, gradInput=grad_input,
        )
        got = {"losses": losses[-1], "gradInput": grad_input}
        for name, values in before.items():
            if values is not None:
                got[name] = arrays[name].double() - values.double()
                got.update({f"{name}.{key}": state for key, state in zip(names, kept[name])})
        return got

    for precision in BOUNDS:
        got, again = compute(precision), compute(precision)
        same = all(torch.equal(got[name], again[name]) for name in got)
        yield precision, {name: off(got[name], expected[name]) for name in expected}, same


def checks(executor, size):
    yield "arcface", gradients(executor, Case(size, "arcface"))
    yield "softmax, bias, smoothing", gradients(executor, Case(size, "softmax", smoothing=0.1))
    yield "arcface, a gradient for each row", gradients(executor, Case(size, "arcface", reduction="none"))
    yield f"arcface, {STEPS} steps of sgd", training(executor, Case(size, "arcface"), "sgd")
    yield f"softmax, bias, {STEPS} steps of adamw", training(executor, Case(size, "softmax"), "adamw")


def main():
    torch.manual_seed(1)
    executor = Executor(sys.argv[1])
    wrong = 0
    print(f"float64 on {DEVICE}; what each result is off by, as a share of its norm", flush=True)
    for text in sys.argv[2:] or SIZES:
        begin = time.monotonic()
        size = tuple(map(int, text.split("x")))
        for what, results in checks(executor, size):
            try:
                for precision, errors, same in results:
                    right = same and all(error <= BOUNDS[precision] for error in errors.values())
                    wrong += not right
                    figures = " ".join(f"{name} {error:.1e}" for name, error in errors.items())
                    print("ok   " if right else "WRONG", text, what, precision, figures,
                          "" if same else "OTHER BITS THE SECOND TIME", flush=True)
            except RuntimeError as error:
                wrong += 1
                print("WRONG", text, what, str(error).splitlines()[0], flush=True)
        print(f"     {text}: {time.monotonic() - begin:.1f} s", flush=True)
    return min(wrong, 100)


if __name__ == "__main__":
    sys.exit(main())
