"""The CUDA executor through the shared library that step.cu makes. Needs nothing but Python."""
import ctypes

# In the order of the enums of native/core/problem.h and native/core/optimizer.h.
PRECISIONS = ["float32", "tf32", "bfloat16"]
REDUCTIONS = ["mean", "sum", "none"]
OPTIMIZERS = ["sgd", "adamw"]
# A margin's parameters in the order of native/formulas/margin.h, with the factories' defaults.
PARAMETERS = {
    "softmax": {},
    "normface": {"scale": 30},
    "cosface": {"scale": 64, "margin": 0.35},
    "arcface": {"scale": 64, "margin": 0.5, "easyMargin": False},
    "combined": {"scale": 64, "m1": 1, "m2": 0.3, "m3": 0.2},
    "sphereface": {"scale": 0, "m": 4, "base": 1000, "gamma": 0.12, "power": 1, "lambdaMin": 5, "iteration": 0},
    "mvsoftmax": {"scale": 32, "margin": 0.35, "t": 0.2, "adaptive": True, "easyMargin": True, "kind": 0},
    "curricularface": {"scale": 64, "margin": 0.5, "t": 0},
}
# The largest error of a result, as a share of its norm.
BOUNDS = {"float32": 1e-5, "tf32": 1e-2, "bfloat16": 1e-2}


class Arguments(ctypes.Structure):
    """As in step.cu, where each member is described."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("bytes", "rows", "dim", "classes", "steps")),
        *((name, ctypes.c_int64) for name in ("reduction", "precision", "optimizer", "parameterCount")),
        ("parameters", ctypes.POINTER(ctypes.c_double)),
        ("margin", ctypes.c_char_p),
        *((name, ctypes.c_double) for name in ("labelSmoothing", "learningRate", "momentum", "weightDecay")),
        *((name, ctypes.c_double) for name in ("beta1", "beta2", "epsilon")),
        *((name, ctypes.c_void_p) for name in ("input", "labels", "gradOutput", "weight", "bias")),
        *((name, ctypes.c_void_p * 2) for name in ("weightState", "biasState")),
        *((name, ctypes.c_void_p) for name in ("losses", "gradInput", "gradWeight", "gradBias")),
        ("loss", ctypes.c_double),
        ("message", ctypes.c_char * 400),
    ]


def address(values):
    """Of a ctypes array, or of a tensor whose elements lie in order in host memory; None stays None."""
    if values is None:
        return None
    if not hasattr(values, "data_ptr"):
        return ctypes.addressof(values)
    if values.is_cuda or not values.is_contiguous():
        raise ValueError("Expected a contiguous tensor in host memory")
    return values.data_ptr()


class Executor:
    def __init__(self, library):
        self._library = ctypes.CDLL(library)

    def step(self, size, **given):
        """Writes losses, gradInput, gradWeight and gradBias, as far as they are given; returns the loss.

        `size` is (rows, dim, classes); what else may be given is what Arguments has, precision and reduction by name.
        """
        return self._call(self._library.margin_softmax_step, size, **given)

    def train(self, size, **given):
        """Takes `steps` steps, each with a batch of its own; changes weight, bias and states; returns the last loss."""
        return self._call(self._library.margin_softmax_train, size, **given)

    @staticmethod
    def _call(function, size, *, margin="arcface", parameters=None, reduction="mean", precision="float32", optimizer="sgd", **given):
        settings = {**PARAMETERS[margin], **(parameters or {})}
        values = (ctypes.c_double * len(settings))(*(float(settings[name]) for name in PARAMETERS[margin]))
        arguments = Arguments(
            bytes=ctypes.sizeof(Arguments),
            **dict(zip(("rows", "dim", "classes"), size)),
            parameterCount=len(values),
            parameters=values,
            margin=margin.encode(),
            reduction=REDUCTIONS.index(reduction),
            precision=PRECISIONS.index(precision),
            optimizer=OPTIMIZERS.index(optimizer),
        )
        for name, value in given.items():
            kind = dict(Arguments._fields_)[name]
            if kind is ctypes.c_void_p:
                value = address(value)
            elif kind is ctypes.c_void_p * 2:
                value = kind(*map(address, value))
            setattr(arguments, name, value)
        if function(ctypes.byref(arguments)):
            raise RuntimeError(arguments.message.decode())
        return arguments.loss
