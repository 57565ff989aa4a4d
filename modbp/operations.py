"""What each operation of PyTorch is to a rule: a rectifier, an affine map, a rearrangement, or nothing it can treat.

PyTorch spells one operation in many ways: a function of `torch`, one of `torch.nn.functional`, a method, an operator.
The tables below collect the spellings, and `affine_map` reads an affine operation's arguments.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves

from modbp.errors import UnsupportedModelError
from modbp.rules.affine import AveragePool, Convolution, Dense, Diagonal, Geometry, LinearMap, Sum

Function = Callable[..., Any]


def _spellings(*names: str) -> set[Function]:
    """Return every function of these names that PyTorch offers."""
    homes = (F, torch, Tensor, torch._C._nn)
    return {f for name in names for home in homes if (f := getattr(home, name, None)) is not None}


RELU = _spellings("relu", "relu_")
CLAMP = _spellings("clamp", "clamp_", "clip", "clip_", "clamp_min", "clamp_min_")
THRESHOLD = _spellings("threshold", "threshold_")
HARDTANH = _spellings("hardtanh", "hardtanh_")
RELU6 = _spellings("relu6")
ZERO_PRESERVING = _spellings(
    *("leaky_relu", "leaky_relu_", "prelu", "rrelu", "rrelu_", "elu", "elu_", "selu", "selu_", "celu", "celu_"),
    *("gelu", "silu", "mish", "hardswish", "tanh", "tanh_", "softshrink", "hardshrink", "tanhshrink", "softsign"),
)
"""Elementwise functions, other than ReLUs, that map zero to zero."""

OTHER_RECTIFIERS = _spellings("glu", "softplus") | ZERO_PRESERVING - _spellings(
    "tanh", "tanh_", "hardshrink", "tanhshrink", "softsign"
)
OTHER_ELEMENTWISE = _spellings("sigmoid", "sigmoid_", "softplus", "logsigmoid", "hardsigmoid", "exp", "square", "abs")
"""Elementwise functions that do not map zero to zero, or are no activation of their input's sign."""

CONVOLUTIONS: dict[Function, tuple[int, bool]] = {
    getattr(torch, f"conv{'_transpose' if transposed else ''}{n}d"): (n, transposed)
    for n in (1, 2, 3)
    for transposed in (False, True)
}
LINEAR = {F.linear}
MATMUL = _spellings("matmul", "mm", "__matmul__")
ADDMM = _spellings("addmm")
BATCH_NORM = {F.batch_norm}
AVERAGE_POOLS = _spellings(
    *(f"{kind}avg_pool{n}d" for kind in ("", "adaptive_") for n in (1, 2, 3)),
    *("mean", "sum"),
)
MAX_POOLS = _spellings(
    *(f"{kind}max_pool{n}d" for kind in ("", "adaptive_") for n in (1, 2, 3)),
    *("amax",),
    *(f"{kind}max_pool{n}d_with_indices" for kind in ("", "adaptive_") for n in (1, 2, 3)),
)
MAX = _spellings("max")
ADD, SUBTRACT = _spellings("add", "__add__", "__radd__"), _spellings("sub", "subtract", "__sub__", "rsub", "__rsub__")
REVERSED_SUBTRACT = _spellings("rsub", "__rsub__")
ADDITIVE = ADD | SUBTRACT
SCALE = _spellings("mul", "multiply", "__mul__", "__rmul__", "neg", "negative", "__neg__", "positive")
POSITIVE = _spellings("positive")
DIVIDE = _spellings("div", "divide", "true_divide", "__truediv__")
DROPOUT = _spellings("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
REARRANGEMENTS = _spellings(
    *("view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "permute", "transpose", "t", "swapaxes"),
    *("swapdims", "movedim", "moveaxis", "squeeze", "unsqueeze", "expand", "expand_as", "broadcast_to", "chunk"),
    *("split", "split_with_sizes", "tensor_split", "unbind", "cat", "concat", "concatenate", "stack", "__getitem__"),
    *("narrow", "select", "index_select", "contiguous", "clone", "to", "float", "double", "half", "bfloat16", "type"),
    *("type_as", "cpu", "cuda", "pad", "roll", "flip", "repeat", "repeat_interleave", "tile", "hstack", "vstack"),
    *("dstack", "ravel", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "identity"),
    *("adjoint", "rot90", "fliplr", "flipud", "take_along_dim", "gather", "masked_select", "unfold", "requires_grad_"),
) | {Tensor.T.__get__, Tensor.mT.__get__, Tensor.real.__get__}  # type: ignore[attr-defined]
"""Operations that copy, move or drop entries: the gradient sends each relevance where its entry came from."""

CUTS = _spellings("detach", "detach_") | {Tensor.data.__get__}  # type: ignore[attr-defined]
"""Operations behind which a model itself says that nothing is to come back."""

KEEP_NO_RESULT = {
    *("AddBackward0", "AddmmBackward0", "CatBackward0", "ConvolutionBackward0", "SubBackward0"),
    *("BatchNormBackwardElemt0", "CudnnBatchNormBackward0", "MiopenBatchNormBackward0", "NativeBatchNormBackward0"),
}
"""Names in the graph of operations whose backward pass does not need their result, which may be overwritten."""


def _twins() -> dict[Function, Function]:
    """Map each in-place arithmetic method of a tensor to the out-of-place method of the same name."""
    dunder = {"__iadd__": "add", "__isub__": "sub", "__imul__": "mul", "__itruediv__": "div", "__ipow__": "pow"}
    plain = (
        *("add", "sub", "mul", "div", "pow", "neg", "abs", "exp", "log", "sqrt", "rsqrt", "square", "reciprocal"),
        *("sigmoid", "tanh", "clamp", "clip", "clamp_min", "clamp_max", "addcmul", "addcdiv", "masked_fill", "relu"),
        *("subtract", "multiply", "divide", "true_divide", "lerp", "sin", "cos", "index_add"),
    )
    names = {**dunder, **{f"{name}_": name for name in plain if hasattr(Tensor, f"{name}_")}}
    twins = {getattr(Tensor, inplace): getattr(Tensor, name) for inplace, name in names.items()}
    for name in ("relu_", "clamp_", "clip_", "clamp_min_", "threshold_"):
        twins[getattr(torch, name)] = getattr(torch, name[:-1])
    for name in ("relu_", "hardtanh_", "leaky_relu_", "elu_", "selu_", "celu_", "rrelu_", "threshold_"):
        if hasattr(F, name):
            twins.setdefault(getattr(F, name), getattr(F, name[:-1]))
    return twins


TWINS = _twins()
"""For each in-place operation the one that writes to a new tensor."""


@functools.cache
def _inplace_position(function: Function) -> int | None:
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # most built-in functions have none
        return None
    return names.index("inplace") if "inplace" in names else None


def argument(args: tuple[Any, ...], kwargs: dict[str, Any], position: int, name: str, default: Any = None) -> Any:
    """Return an argument that may have been given by position or by name.

    Examples
    --------
    >>> argument((1, 2), {}, 1, "max"), argument((1,), {"max": 3}, 1, "max"), argument((1,), {}, 1, "max")
    (2, 3, None)
    """
    return args[position] if len(args) > position else kwargs.get(name, default)


def out_of_place(
    function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Function, tuple[Any, ...], dict[str, Any]] | None:
    """Return the call that computes the same without writing to its input, or None where this one does not write.

    Examples
    --------
    >>> x = torch.zeros(1)
    >>> out_of_place(Tensor.add_, (x, 1), {})[0] is Tensor.add
    True
    >>> out_of_place(Tensor.add, (x, 1), {}) is None
    True
    """
    if function in TWINS:
        return TWINS[function], args, kwargs
    if kwargs.get("inplace") is True:
        return function, args, {**kwargs, "inplace": False}
    if len(args) > 1 and args[-1] is True:
        position = _inplace_position(function)
        if position is not None and len(args) > position and args[position] is True:
            return function, (*args[:position], False, *args[position + 1 :]), kwargs
    return None


def _is_number(bound: Any, value: float) -> bool:
    return isinstance(bound, int | float) and bound == value


def _bounds(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Return between what a clamp or a hardtanh keeps its input."""
    if function in HARDTANH:
        return argument(args, kwargs, 1, "min_val", -1.0), argument(args, kwargs, 2, "max_val", 1.0)
    return argument(args, kwargs, 1, "min"), argument(args, kwargs, 2, "max")


def rectifier(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, float] | None:
    """Return what kind of rectifier an operation is, and its cap.

    Parameters
    ----------
    function : callable
        As a `TorchFunctionMode` sees it.
    args, kwargs : tuple, dict
        Its arguments.

    Returns
    -------
    (str, float) or None
        `("relu", cap)` for min(max(x, 0), cap), where the cap is infinite for a ReLU and 6 for a ReLU6; `("other",
        inf)` for other rectifiers; None for everything else.

    Examples
    --------
    >>> x = torch.zeros(1)
    >>> rectifier(F.relu, (x,), {}), rectifier(F.hardtanh, (x, 0.0, 6.0), {}), rectifier(F.gelu, (x,), {})
    (('relu', inf), ('relu', 6.0), ('other', inf))
    """
    if function in RELU:
        return "relu", math.inf
    if function in RELU6:
        return "relu", 6.0
    if function in CLAMP or function in HARDTANH:
        low, high = _bounds(function, args, kwargs)
        if _is_number(low, 0) and (high is None or (isinstance(high, int | float) and high > 0)):
            return "relu", math.inf if high is None else float(high)
        return ("other", math.inf) if function in HARDTANH or _is_number(low, 0) else None
    if function in THRESHOLD:
        below, value = argument(args, kwargs, 1, "threshold"), argument(args, kwargs, 2, "value")
        return ("relu" if _is_number(below, 0) and _is_number(value, 0) else "other"), math.inf
    return ("other", math.inf) if function in OTHER_RECTIFIERS else None


def preserves_zero(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether an operation is an elementwise activation that maps zero to zero, so that relevance may pass it.

    Examples
    --------
    >>> preserves_zero(torch.tanh, (torch.zeros(1),), {}), preserves_zero(torch.sigmoid, (torch.zeros(1),), {})
    (True, False)
    """
    if function in ZERO_PRESERVING or function in RELU or function in RELU6:
        return True
    if function in CLAMP or function in HARDTANH:
        low, high = _bounds(function, args, kwargs)
        return all(b is None or isinstance(b, int | float) for b in (low, high)) and (low or 0) <= 0 <= (high or 0)
    return function in THRESHOLD and _is_number(argument(args, kwargs, 2, "value"), 0)


def elementwise(function: Function) -> bool:
    """Return whether an operation acts on each entry of its first argument alone.

    Examples
    --------
    >>> elementwise(torch.sigmoid), elementwise(torch.softmax)
    (True, False)
    """
    return any(
        function in table for table in (RELU, RELU6, CLAMP, HARDTANH, THRESHOLD, ZERO_PRESERVING, OTHER_ELEMENTWISE)
    )


@dataclass(frozen=True)
class Affine:
    """An affine operation read from a call: z = W x + b.

    Attributes
    ----------
    kind : str
        `"linear"`, `"convolution"`, `"batch_norm"`, `"average_pool"` or `"sum"`.
    inputs : tuple of Tensor
        x, as the call gives it; a sum has several.
    linear : callable
        Returns the `LinearMap` of W.
    bias : Tensor, optional
        b, broadcastable to the output.
    weight : Tensor, optional
        As the call gives it, to tell which layer it belongs to.

    Examples
    --------
    >>> x, weight = torch.zeros(2, 3), torch.ones(4, 3)
    >>> Affine("linear", (x,), lambda: Dense(weight, x.shape)).linear().apply(x).shape
    torch.Size([2, 4])
    """

    kind: str
    inputs: tuple[Tensor, ...]
    linear: Callable[[], LinearMap]
    bias: Tensor | None = None
    weight: Tensor | None = None


def _tuple(value: Any, length: int) -> tuple[int, ...]:
    return (value,) * length if isinstance(value, int) else tuple(value) * (length if len(tuple(value)) == 1 else 1)


def _per_channel(values: Tensor | None, dims: int) -> Tensor | None:
    return None if values is None else values.detach().reshape(-1, *[1] * dims)


def _convolution(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Affine:
    n, transposed = CONVOLUTIONS[function]
    names = ["input", "weight", "bias", "stride", "padding"]
    names += ["output_padding", "groups", "dilation"] if transposed else ["dilation", "groups"]
    defaults = {"bias": None, "stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1}
    given = {**defaults, **dict(zip(names, args, strict=False)), **kwargs}
    x, weight = given["input"], given["weight"]
    if x.dim() != n + 2:
        raise UnsupportedModelError(
            f"a {n}-D convolution was given an input of {x.dim()} dimensions; allowed is a batch, of {n + 2}."
        )
    dilation, padding = _tuple(given["dilation"], n), given["padding"]
    pad: list[int] = []
    if padding == "valid":
        padding = 0
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        if any(t % 2 for t in total):  # one more behind than before, which torch.convolution cannot say
            pad = [side for t in reversed(total) for side in (t // 2, t - t // 2)]
            padding = 0
        else:
            padding = tuple(t // 2 for t in total)
    geometry = Geometry(
        _tuple(given["stride"], n), _tuple(padding, n), dilation, transposed, _tuple(given["output_padding"], n),
        given["groups"],
    )  # fmt: skip
    shape = x.shape
    return Affine(
        "convolution",
        (x,),
        lambda: Convolution(weight.detach(), shape, geometry, pad),
        _per_channel(given["bias"], n),
        weight,
    )


def _batch_norm(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Affine:
    names = ["input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"]
    defaults = {"weight": None, "bias": None, "training": False, "eps": 1e-5}
    given = {**defaults, **dict(zip(names, args, strict=False)), **kwargs}
    x = given["input"]
    if given["training"] or given["running_var"] is None:
        raise UnsupportedModelError(
            "batch norm in training mode mixes the samples of a batch, so relevance has no meaning for it; allowed is a"
            " model in evaluation mode: call model.eval()."
        )
    scale = (given["running_var"].detach() + given["eps"]).rsqrt()
    if given["weight"] is not None:
        scale = scale * given["weight"].detach()
    shift = -given["running_mean"].detach() * scale
    if given["bias"] is not None:
        shift = shift + given["bias"].detach()
    dims, shape = x.dim() - 2, x.shape
    weight, bias = _per_channel(scale, dims), _per_channel(shift, dims)
    assert weight is not None
    return Affine("batch_norm", (x,), lambda: Diagonal(weight, shape), bias, given["weight"])


def _average_pool(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Affine:
    x = argument(args, kwargs, 0, "input")
    others, named = args[1:], {k: v for k, v in kwargs.items() if k != "input"}
    one, shape = x.detach().new_ones(()), x.shape

    def pool(a: Tensor) -> Tensor:
        return function(a, *others, **named)

    return Affine("average_pool", (x,), lambda: AveragePool(one, shape, pool))


def _sum(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Affine:
    x, y = argument(args, kwargs, 0, "input"), argument(args, kwargs, 1, "other")
    factor = kwargs.get("alpha", argument(args, kwargs, 2, "alpha", 1))
    signs = [1.0, float(factor)] if function in ADD else [1.0, -float(factor)]
    if function in REVERSED_SUBTRACT:
        signs = [-s for s in signs]
    shape = torch.broadcast_shapes(x.shape, y.shape)
    weight = x.detach().new_tensor(signs).reshape(2, *[1] * len(shape))
    return Affine("sum", (x, y), lambda: Sum(weight, torch.Size((2, *shape))))


def affine_map(
    function: Function, args: tuple[Any, ...], kwargs: dict[str, Any], depends: Callable[[Any], bool]
) -> Affine | None:
    """Read an affine operation's arguments.

    Parameters
    ----------
    function : callable
        As a `TorchFunctionMode` sees it.
    args, kwargs : tuple, dict
        Its arguments.
    depends : callable
        Whether an argument depends on the model's input.

    Returns
    -------
    Affine or None
        None for an operation that is not affine in what depends on the input.

    Raises
    ------
    UnsupportedModelError
        If it is of an affine kind, and used in a way that no rule can treat.

    Examples
    --------
    >>> x, weight = torch.zeros(2, 3), torch.ones(4, 3)
    >>> affine_map(F.linear, (x, weight), {}, lambda tensor: tensor is x).kind
    'linear'
    """
    constant = not any(depends(argument(args, kwargs, i, name)) for i, name in ((1, "weight"), (2, "bias")))
    if function in CONVOLUTIONS and constant:
        return _convolution(function, args, kwargs)
    if function in LINEAR:
        x, weight, bias = (argument(args, kwargs, i, n) for i, n in enumerate(("input", "weight", "bias")))
        if not constant:
            return None
        dense, shape = weight.detach(), x.shape
        return Affine("linear", (x,), lambda: Dense(dense, shape), None if bias is None else bias.detach(), weight)
    if function in MATMUL or function in ADDMM:
        shift = function in ADDMM
        x, weight = argument(args, kwargs, int(shift), "mat1"), argument(args, kwargs, 1 + shift, "mat2")
        plain = not (shift and (kwargs or depends(args[0])))
        if not depends(x) or depends(weight) or weight.dim() != 2 or not plain:
            return None
        rows, shape = weight.detach().T, x.shape
        return Affine("linear", (x,), lambda: Dense(rows, shape), args[0].detach() if shift else None, weight)
    if function in BATCH_NORM and not any(map(depends, tree_leaves((args[1:], kwargs)))):
        return _batch_norm(args, kwargs)
    if function in AVERAGE_POOLS:
        return _average_pool(function, args, kwargs)
    if function in ADDITIVE and all(depends(argument(args, kwargs, i, n)) for i, n in enumerate(("input", "other"))):
        return _sum(function, args, kwargs)
    return None


def shifts_or_scales(
    function: Function, args: tuple[Any, ...], kwargs: dict[str, Any], depends: Callable[[Any], bool]
) -> bool:
    """Return whether an operation adds or multiplies a constant: each output has one input, which keeps all relevance.

    Examples
    --------
    >>> x = torch.zeros(2)
    >>> shifts_or_scales(Tensor.mul, (x, 2), {}, lambda value: value is x)
    True
    """
    first, second = argument(args, kwargs, 0, "input"), argument(args, kwargs, 1, "other")
    if function in ADDITIVE or function in SCALE:
        return not (depends(first) and depends(second))
    return function in DIVIDE and not depends(second) and kwargs.get("rounding_mode") is None


def factor(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any], depends: Callable[[Any], bool]) -> Any:
    """Return what an operation that shifts or scales multiplies its input with.

    Examples
    --------
    >>> x = torch.zeros(2)
    >>> [factor(f, (x, 4), {}, lambda value: value is x) for f in (Tensor.sub, Tensor.__rsub__, Tensor.div)]
    [1.0, -1.0, 0.25]
    """
    first, second = argument(args, kwargs, 0, "input"), argument(args, kwargs, 1, "other")
    if function in ADDITIVE:
        alpha = float(kwargs.get("alpha", argument(args, kwargs, 2, "alpha", 1)))
        sign = 1.0 if function in ADD else -1.0
        if function in REVERSED_SUBTRACT:  # second - alpha * first
            return sign * alpha if depends(first) else 1.0
        return 1.0 if depends(first) else sign * alpha
    if function in DIVIDE:
        return 1 / second
    if second is None:
        return 1.0 if function in POSITIVE else -1.0
    return second if depends(first) else first


def is_max_pool(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether an operation takes maxima, whose relevance goes to the winners.

    Examples
    --------
    >>> x = torch.zeros(1, 1, 2, 2)
    >>> is_max_pool(F.max_pool2d, (x, 2), {}), is_max_pool(torch.max, (x,), {})
    (True, False)
    """
    return function in MAX_POOLS or (function in MAX and isinstance(argument(args, kwargs, 1, "dim"), int))


def name_of(function: Function) -> str:
    """Return what a message calls an operation.

    Examples
    --------
    >>> name_of(F.softmax)
    'softmax'
    """
    for home in (F, torch, Tensor):
        for name in _names(home):
            if getattr(home, name, None) is function:
                return name
    return getattr(function, "__name__", str(function))


@functools.cache
def _names(home: Any) -> Iterable[str]:
    return sorted(name for name in vars(home) if not name.startswith("_"))
