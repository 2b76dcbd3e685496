# mypy: allow-untyped-defs
"""Sixteen float32 lanes as one Numba value, so that kernels say what the vector unit shall do.

LLVM's loop vectoriser guesses; these few words do not. A vector is one AVX-512 register, two of AVX2 or four
of NEON: LLVM splits it for the machine at hand. `fma` maps to `llvm.fmuladd`, hence the same expression gives
the same bits wherever it is compiled in, which lets a backward pass repeat the decisions of its forward pass.

    x = load(array, 32)                  # array[32:48], float32, C-contiguous
    y = select(x < 1.0, fma(x, x, 2.0), 0.0)
    store(array, 32, y)

Numba's file cache does not notice changes here: after editing, touch `cpu_blending.py`.
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core import cgutils
from numba.extending import models, overload, register_model

LANES = 16

intrinsic: Any = extending.intrinsic  # its own annotation would have callers pass the typing context

Vector = Any  # what annotations call such a value: it exists in compiled code only

_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_BITS = ir.VectorType(ir.IntType(1), LANES)
_INDEX = ir.IntType(32)


class _Lanes(types.Type):
    """Numba type of a vector; two instances, `Floats` and `Mask`."""


Floats = _Lanes("Floats16")
Mask = _Lanes("Mask16")


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: _Lanes) -> None:
        super().__init__(manager, fe_type, _FLOATS if fe_type is Floats else _BITS)


def _is_operand(kind: Any) -> bool:
    return kind is Floats or isinstance(kind, types.Number)


def _floats(context: Any, builder: Any, value: Any, kind: Any) -> Any:
    """`value` as a vector, a number repeated in every lane."""
    if kind is Floats:
        return value
    scalar = context.cast(builder, value, kind, types.float32)
    single = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), scalar, _INDEX(0))
    return builder.shuffle_vector(single, single, ir.Constant(ir.VectorType(_INDEX, LANES), [0] * LANES))


def _vectors(context: Any, builder: Any, signature: Any, args: Any) -> list:
    return [_floats(context, builder, *pair) for pair in zip(args, signature.args, strict=True)]


def _define(operation: Callable, result: Any, emit: Callable) -> None:
    """Teach Numba `operation(a, b)` where one operand is a vector, the other a vector or a number."""

    @intrinsic
    def call(typingctx, a, b):
        def codegen(context, builder, signature, args):
            return emit(builder, *_vectors(context, builder, signature, args))

        return result(a, b), codegen

    @overload(operation, inline="always")
    def implement(a, b):
        if Floats in (a, b) and _is_operand(a) and _is_operand(b):
            return lambda a, b: call(a, b)
        return None


_define(operator.add, Floats, lambda builder, x, y: builder.fadd(x, y))
_define(operator.sub, Floats, lambda builder, x, y: builder.fsub(x, y))
_define(operator.mul, Floats, lambda builder, x, y: builder.fmul(x, y))
_define(operator.truediv, Floats, lambda builder, x, y: builder.fdiv(x, y))
_define(operator.lt, Mask, lambda builder, x, y: builder.fcmp_ordered("<", x, y))
_define(operator.le, Mask, lambda builder, x, y: builder.fcmp_ordered("<=", x, y))
_define(operator.gt, Mask, lambda builder, x, y: builder.fcmp_ordered(">", x, y))
_define(operator.ge, Mask, lambda builder, x, y: builder.fcmp_ordered(">=", x, y))


@intrinsic
def _both(typingctx, a, b):
    return Mask(a, b), lambda context, builder, signature, args: builder.and_(*args)


@overload(operator.and_, inline="always")
def _and(a, b):
    return (lambda a, b: _both(a, b)) if a is Mask and b is Mask else None


@intrinsic
def load(typingctx, array, start):
    """The lanes array[start : start + 16]; unchecked."""

    def codegen(context, builder, signature, args):
        return builder.load(_address(context, builder, signature, args), align=4)

    return Floats(array, types.intp), codegen


@intrinsic
def store(typingctx, array, start, value):
    """Write the lanes to array[start : start + 16]; unchecked."""

    def codegen(context, builder, signature, args):
        vector = _floats(context, builder, args[2], signature.args[2])
        builder.store(vector, _address(context, builder, signature, args), align=4)

    return types.void(array, types.intp, value), codegen


def _address(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    kind = signature.args[0]
    if kind.dtype != types.float32 or kind.ndim != 1 or kind.layout != "C":
        raise TypeError(f"a vector lives in a C-contiguous float32 array [n], not in {kind}")
    data = context.make_array(kind)(context, builder, args[0]).data
    return builder.bitcast(builder.gep(data, [args[1]]), _FLOATS.as_pointer())


def _call_llvm(builder: Any, name: str, vectors: list, flags: tuple[str, ...] = ()) -> Any:
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * len(vectors))
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32")
    return builder.call(function, vectors, fastmath=flags)


@intrinsic
def fma(typingctx, a, b, c):
    """a * b + c, rounded once where the machine can."""

    def codegen(context, builder, signature, args):
        return _call_llvm(builder, "fmuladd", _vectors(context, builder, signature, args))

    return Floats(a, b, c), codegen


@intrinsic
def minimum(typingctx, a, b):
    """The smaller of a and b, neither of them NaN."""

    def codegen(context, builder, signature, args):
        return _call_llvm(builder, "minnum", _vectors(context, builder, signature, args), ("nnan", "nsz"))

    return Floats(a, b), codegen


@intrinsic
def maximum(typingctx, a, b):
    """The larger of a and b, neither of them NaN."""

    def codegen(context, builder, signature, args):
        return _call_llvm(builder, "maxnum", _vectors(context, builder, signature, args), ("nnan", "nsz"))

    return Floats(a, b), codegen


@intrinsic
def select(typingctx, mask, a, b):
    """a where the mask is set, else b."""

    def codegen(context, builder, signature, args):
        x, y = (_floats(context, builder, args[i], signature.args[i]) for i in (1, 2))
        return builder.select(args[0], x, y)

    return Floats(mask, a, b), codegen


@intrinsic
def negative(typingctx, a):
    """-|a|."""

    def codegen(context, builder, signature, args):
        integers = ir.VectorType(ir.IntType(32), LANES)
        signs = ir.Constant(integers, [1 << 31] * LANES)
        return builder.bitcast(builder.or_(builder.bitcast(args[0], integers), signs), _FLOATS)

    return Floats(a), codegen


@intrinsic
def lane_bits(typingctx, mask):
    """The mask as an integer, lane i = bit i."""

    def codegen(context, builder, signature, args):
        return builder.zext(builder.bitcast(args[0], ir.IntType(LANES)), ir.IntType(64))

    return types.int64(mask), codegen


@intrinsic
def lowest_bit(typingctx, bits):
    """Position of the lowest set bit of a nonzero int64."""

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), codegen


@intrinsic
def lane_sums(typingctx, vectors):
    """Lane i = sum over the lanes of vectors[i], for a tuple of up to 16 vectors; the remaining lanes are 0."""

    def codegen(context, builder, signature, args):
        rows: list[Any] = [builder.extract_value(args[0], i) for i in range(len(signature.args[0]))]
        rows += [None] * (LANES - len(rows))
        lanes = LANES
        while lanes > 1:
            rows = [_fold(builder, a, b, lanes) for a, b in zip(rows[::2], rows[1::2], strict=True)]
            lanes //= 2
        return rows[0]

    return Floats(vectors), codegen


def _fold(builder: Any, a: Any, b: Any, lanes: int) -> Any:
    """Partial sums of a's sources, then of b's, `lanes // 2` per source, where a and b have `lanes` per source."""
    if a is None:
        return None
    b = ir.Constant(_FLOATS, [0.0] * LANES) if b is None else b
    low = [start + lane for start in range(0, 2 * LANES, lanes) for lane in range(lanes // 2)]
    picks = [ir.Constant(ir.VectorType(_INDEX, LANES), [lane + shift for lane in low]) for shift in (0, lanes // 2)]
    return builder.fadd(*(builder.shuffle_vector(a, b, pick) for pick in picks))
