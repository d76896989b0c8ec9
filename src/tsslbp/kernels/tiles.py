"""Vectors as Numba values: a formula written for one neuron works on many neurons at once.

A *tile* is four vectors of 64 bytes, enough for the operations of one to hide the latency of
another's: four consecutive vectors, or those of a window of 2 x 2 pixels, channels last. A *row* is
one such vector. Both support ``+ - * / < <= >`` with each other and with numbers, and the functions
below; a comparison gives a mask, and masks support ``& |``. State that is kept in tiles stays in
registers.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

from .simd import Code, lanes, splat

VECTORS = 4  # in a tile


class Vector(types.Type):
    """`size` values of a floating-point type: a row or a tile."""

    def __init__(self, dtype: types.Float, size: int) -> None:
        self.dtype, self.size = dtype, size
        super().__init__(f"Vector({dtype}, {size})")


class Mask(types.Type):
    """A truth value for each value of a vector."""

    def __init__(self, vector: Vector) -> None:
        self.vector = vector
        super().__init__(f"Mask({vector})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        element = manager.lookup(kind.dtype).get_value_type()
        super().__init__(manager, kind, ir.VectorType(element, kind.size))


@register_model(Mask)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Mask) -> None:
        super().__init__(manager, kind, ir.VectorType(ir.IntType(1), kind.vector.size))


# Operators


def _vector_of(a: types.Type, b: types.Type) -> Any:
    """Return the vector operand, if the other one has the same type or is a number."""
    for one, other in ((a, b), (b, a)):
        if isinstance(one, Vector) and (other == one or isinstance(other, types.Number)):
            return one
    return None


def _as_vector(
    context: Any, builder: Any, value: ir.Value, kind: types.Type, vector: Vector
) -> Any:
    if kind == vector:
        return value
    return splat(builder, context.cast(builder, value, kind, vector.dtype), vector.size)


def _order(positions: list[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(positions)), positions)


def _define(
    function: Any, result: Callable[[Vector], types.Type], emit: Callable[..., Any]
) -> None:
    @type_callable(function)
    def _(_context: Any) -> Any:
        def typer(a: types.Type, b: types.Type) -> types.Type | None:
            vector = _vector_of(a, b)
            return None if vector is None else result(vector)

        return typer

    def generate(context, builder, signature, arguments):
        vector = _vector_of(*signature.args)
        operands = zip(arguments, signature.args, strict=True)
        return emit(builder, *(_as_vector(context, builder, *each, vector) for each in operands))

    for kinds in ((Vector, Vector), (Vector, types.Number), (types.Number, Vector)):
        lower_builtin(function, *kinds)(generate)


_define(operator.add, lambda vector: vector, ir.IRBuilder.fadd)
_define(operator.sub, lambda vector: vector, ir.IRBuilder.fsub)
_define(operator.mul, lambda vector: vector, ir.IRBuilder.fmul)
_define(operator.truediv, lambda vector: vector, ir.IRBuilder.fdiv)
_define(operator.le, Mask, lambda builder, a, b: builder.fcmp_ordered("<=", a, b))
_define(operator.lt, Mask, lambda builder, a, b: builder.fcmp_ordered("<", a, b))
_define(operator.gt, Mask, lambda builder, a, b: builder.fcmp_ordered(">", a, b))


def _define_on_masks(function: Any, emit: Callable[..., Any]) -> None:
    @type_callable(function)
    def _(_context: Any) -> Any:
        return lambda a, b: a if isinstance(a, Mask) and a == b else None

    lower_builtin(function, Mask, Mask)(
        lambda context, builder, signature, arguments: emit(builder, *arguments)
    )


_define_on_masks(operator.and_, ir.IRBuilder.and_)
_define_on_masks(operator.or_, ir.IRBuilder.or_)


@intrinsic
def where(_: Any, mask, a, b):
    """Return values of `a` where the mask is set, and of `b` elsewhere; vectors or numbers."""

    def generate(context, builder, signature, arguments):
        values = zip(arguments[1:], signature.args[1:], strict=True)
        a, b = (_as_vector(context, builder, *each, mask.vector) for each in values)
        return builder.select(arguments[0], a, b)

    return mask.vector(mask, a, b), generate


@intrinsic
def count(_: Any, mask):
    """Return how many values a mask selects."""

    def generate(context, builder, signature, arguments):
        bits = builder.bitcast(arguments[0], ir.IntType(mask.vector.size))
        number = builder.ctpop(bits)
        return number if mask.vector.size == 64 else builder.zext(number, ir.IntType(64))

    return types.intp(mask), generate


# Rows, tiles and memory; arrays are flat, positions count values


@intrinsic
def zero_tile(_: Any, array):
    """Return a tile of zeros of the array's dtype."""
    tile = _tile(array.dtype)
    return tile(array), _zeros(tile)


@intrinsic
def zero_row(_: Any, array):
    """Return a row of zeros of the array's dtype."""
    row = _row(array.dtype)
    return row(array), _zeros(row)


def _zeros(vector: Vector) -> Callable[..., ir.Constant]:
    def generate(context, builder, signature, arguments):
        return ir.Constant(context.get_value_type(vector), [0.0] * vector.size)

    return generate


def _row(dtype: types.Float) -> Vector:
    return Vector(dtype, lanes(dtype.bitwidth // 8))


def _tile(dtype: types.Float) -> Vector:
    return Vector(dtype, VECTORS * lanes(dtype.bitwidth // 8))


@intrinsic
def first_of_rows(_: Any, array, a, b, c, d):
    """Return a mask of the first a, b, c and d values of a tile's rows; limits are clipped."""
    signature = Mask(_tile(array.dtype))(array, *[types.intp] * VECTORS)

    def generate(context, builder, signature, arguments):
        code = Code(context, builder, signature, arguments, array.dtype)
        return _joined(builder, [code.below(limit) for limit in arguments[1:]])

    return signature, generate


def _joined(builder: Any, parts: list[Any]) -> Any:
    """Join several vectors of equal size, in pairs."""
    while len(parts) > 1:
        order = _order(list(range(2 * parts[0].type.count)))
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [builder.shuffle_vector(*pair, order) for pair in pairs]
    return parts[0]


def _parts(builder: Any, vector: Any) -> list[Any]:
    """Return the rows of a tile."""
    size = vector.type.count // VECTORS
    return [
        builder.shuffle_vector(vector, vector, _order(list(range(start, start + size))))
        for start in range(0, vector.type.count, size)
    ]


@intrinsic
def load_tile(_: Any, array, at, down, across, mask):
    """Load rows at `at`, ``at + across``, ``at + down``, ``at + down + across``; 0 if masked."""
    tile, integer = _tile(array.dtype), types.intp

    def generate(context, builder, signature, arguments):
        code = Code(context, builder, signature, arguments, array.dtype)
        positions = _positions(builder, *arguments[1:4])
        pointers = [code.pointer(0, position) for position in positions]
        masks, zero = _parts(builder, arguments[4]), code.constant(0)
        code.fetch_ahead(pointers, tile.size, writes=False)
        pairs = list(zip(pointers, masks, strict=True))
        return code.either(
            _is_full(builder, arguments[4]),
            lambda: _joined(builder, [code.load(pointer, zero) for pointer in pointers]),
            lambda: _joined(
                builder, [code.load(pointer, zero, inside) for pointer, inside in pairs]
            ),
        )

    return tile(array, integer, integer, integer, mask), generate


@intrinsic
def store_tile(_: Any, tile, array, at, down, across, mask):
    """Store a tile, as the reverse of `load_tile`."""
    integer = types.intp

    def generate(context, builder, signature, arguments):
        code = Code(context, builder, signature, arguments, array.dtype)
        positions = _positions(builder, *arguments[2:5])
        pointers = [code.pointer(1, position) for position in positions]
        rows, masks = _parts(builder, arguments[0]), _parts(builder, arguments[5])
        code.fetch_ahead(pointers, tile.size, writes=True)
        with builder.if_else(_is_full(builder, arguments[5])) as (whole, part):
            with whole:
                for row, pointer in zip(rows, pointers, strict=True):
                    code.store(row, pointer, code.constant(0))
            with part:
                for row, pointer, inside in zip(rows, pointers, masks, strict=True):
                    code.store(row, pointer, code.constant(0), inside)
        return context.get_dummy_value()

    return types.void(tile, array, integer, integer, integer, mask), generate


def _is_full(builder: Any, mask: Any) -> Any:
    """Whether a mask selects all: plain loads and stores are faster on some processors."""
    bits = builder.bitcast(mask, ir.IntType(mask.type.count))
    return builder.icmp_unsigned("==", bits, ir.Constant(bits.type, -1))


def _positions(builder: Any, at: Any, down: Any, across: Any) -> list[Any]:
    below = builder.add(at, down)
    return [at, builder.add(at, across), below, builder.add(below, across)]


@intrinsic
def load_row(_: Any, array, at, size):
    """Load the first `size` values of a row, followed by zeros."""

    def generate(context, builder, signature, arguments):
        code = Code(context, builder, signature, arguments, array.dtype)
        return code.load(code.pointer(0, arguments[1]), code.constant(0), code.below(arguments[2]))

    return _row(array.dtype)(array, types.intp, types.intp), generate


@intrinsic
def store_row(_: Any, row, array, at, size):
    """Store the first `size` values of a row."""

    def generate(context, builder, signature, arguments):
        code = Code(context, builder, signature, arguments, array.dtype)
        target = code.pointer(1, arguments[2])
        code.store(arguments[0], target, code.constant(0), code.below(arguments[3]))
        return context.get_dummy_value()

    return types.void(row, array, types.intp, types.intp), generate


@intrinsic
def keep(_: Any, tile, array, number):
    """Store a whole tile as number `number` of an array of tiles."""

    def generate(context, builder, signature, arguments):
        code = Code(context, builder, signature, arguments, array.dtype)
        start = code.times(arguments[2], tile.size)
        for i, row in enumerate(_parts(builder, arguments[0])):
            code.store(row, code.pointer(1, start), code.constant(i * code.lanes))
        return context.get_dummy_value()

    return types.void(tile, array, types.intp), generate


@intrinsic
def kept(_: Any, array, number):
    """Return tile number `number` of an array of tiles."""
    tile = _tile(array.dtype)

    def generate(context, builder, signature, arguments):
        code = Code(context, builder, signature, arguments, array.dtype)
        base = code.pointer(0, code.times(arguments[1], tile.size))
        offsets = (code.constant(i * code.lanes) for i in range(VECTORS))
        return _joined(builder, [code.load(base, offset) for offset in offsets])

    return tile(array, types.intp), generate


@intrinsic
def sum_of_rows(_: Any, tile):
    """Return the sum of a tile's rows, a row."""

    def generate(context, builder, signature, arguments):
        return functools.reduce(builder.fadd, _parts(builder, arguments[0]))

    return _row(tile.dtype)(tile), generate


@intrinsic
def repeat(_: Any, row):
    """Return a tile of four equal rows."""

    def generate(context, builder, signature, arguments):
        return _joined(builder, [arguments[0]] * VECTORS)

    return _tile(row.dtype)(row), generate
