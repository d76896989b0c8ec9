"""Vector operations that Numba cannot express, as LLVM instructions, and aligned memory.

A vector has `lanes` values, 64 bytes. LLVM splits it on processors with shorter vectors. Arrays are
flat, and positions in them count values. A sum may be contracted into fused multiply-adds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np import arrayobj

VECTOR_BYTES = 64
MOST_VECTORS = 4  # in a row
UNROLL = 2  # chains of additions per tap, which hide the latency of an addition

_I32, _I64 = ir.IntType(32), ir.IntType(64)


def lanes(itemsize: int) -> int:
    """Return the number of values of `itemsize` bytes in a vector."""
    return VECTOR_BYTES // itemsize


@intrinsic
def scratch(_: Any, size, dtype):
    """Return an uninitialised array, aligned to a vector.

    A vector across two cache lines takes twice the time, and `numpy.empty` does not align. It
    also takes longer to compile.
    """
    array = types.Array(dtype.dtype, 1, "C")

    def generate(context, builder, signature, arguments):
        itemsize = ir.Constant(_I64, context.get_abi_sizeof(context.get_data_type(array.dtype)))
        memory = context.nrt.meminfo_alloc_aligned(
            builder, builder.mul(arguments[0], itemsize), VECTOR_BYTES
        )
        result = context.make_array(array)(context, builder)
        arrayobj.populate_array(
            result,
            data=builder.bitcast(context.nrt.meminfo_data(builder, memory), result.data.type),
            shape=[arguments[0]],
            strides=[itemsize],
            itemsize=itemsize,
            meminfo=memory,
        )
        return result._getvalue()

    return array(types.intp, dtype), generate


@intrinsic(prefer_literal=True)
def gather(_: Any, taps, vectors, matrix, base, rows, values, first, last, out, to, count):
    """Write ``sum(values[i] * row(rows[i] - k) for i in range(first, last))`` to output k.

    ``row(r)`` is ``matrix[base + r * width : base + (r + 1) * width]``, where `width` is `vectors`
    times `lanes`. Output k of `taps` is ``out[to + k * width :]``, of which `count` values are
    written. If `count` is 0, the whole sum is added to the values there. `taps` and `vectors` are
    constants.
    """
    i = types.intp
    signature = types.void(taps, vectors, matrix, i, rows, values, i, i, out, i, i)

    def generate(context, builder, signature, arguments):
        code = Code(context, builder, signature, arguments, matrix.dtype)
        source, begin, end = code.pointer(2, arguments[3]), arguments[6], arguments[7]
        width = vectors.literal_value * code.lanes
        parts = [(k, v) for k in range(taps.literal_value) for v in range(vectors.literal_value)]
        unroll = 1 if len(parts) > UNROLL * MOST_VECTORS else UNROLL
        chains = [[code.variable() for _ in parts] for _ in range(unroll)]

        def add(position: ir.Value, sums: list[ir.Value]) -> None:
            value, start = code.event(4, 5, position, width)
            for (k, v), total in zip(parts, sums, strict=True):
                row = code.load(source, code.plus(start, v * code.lanes - k * width))
                builder.store(code.multiply_add(row, value, builder.load(total)), total)

        left = builder.and_(builder.sub(end, begin), code.constant(unroll - 1))
        middle = builder.sub(end, left)
        with code.loop(begin, middle, unroll) as position:
            for index, sums in enumerate(chains):
                add(code.plus(position, index), sums)
        if unroll > 1:
            with code.loop(middle, end) as position:
                add(position, chains[0])
        totals = [
            functools.reduce(builder.fadd, map(builder.load, one))
            for one in zip(*chains, strict=True)
        ]
        slots = [(code.constant(k * width + v * code.lanes), v) for k, v in parts]
        target, count = code.pointer(8, arguments[9]), arguments[10]
        with builder.if_else(builder.icmp_signed("==", count, code.constant(0))) as (more, new):
            with more:
                for total, (slot, _) in zip(totals, slots, strict=True):
                    code.store(builder.fadd(total, code.load(target, slot)), target, slot)
            with new:
                full = builder.icmp_signed(">=", count, code.constant(width))
                with builder.if_else(full) as (whole, some):
                    with whole:
                        for total, (slot, _) in zip(totals, slots, strict=True):
                            code.store(total, target, slot)
                    with some:
                        for total, (slot, v) in zip(totals, slots, strict=True):
                            inside = code.below(code.plus(count, -v * code.lanes))
                            code.store(total, target, slot, inside)
        return context.get_dummy_value()

    return signature, generate


@intrinsic(prefer_literal=True)
def spread(_: Any, taps, pixels, matrix, base, pitch, source, at, count, out, to):
    """Add ``sum(source[at + i * count + j] * row(j, k) for j < count)`` to pixel i + k.

    This is done for all i below `pixels` and k below `taps`, two constants. ``row(j, k)`` is the
    vector ``matrix[base + j * pitch + k * lanes :]``, pixel q the vector ``out[to + q * lanes :]``.
    """
    integer = types.intp
    signature = types.void(
        taps, pixels, matrix, integer, integer, source, integer, integer, out, integer
    )

    def generate(context, builder, signature, arguments):
        code = Code(context, builder, signature, arguments, matrix.dtype)
        rows, target = code.pointer(2, arguments[3]), code.pointer(8, arguments[9])
        reach = range(taps.literal_value + pixels.literal_value - 1)
        slots = [code.constant(index * code.lanes) for index in reach]
        sums = [code.variable() for _ in reach]
        for total, slot in zip(sums, slots, strict=True):
            builder.store(code.load(target, slot), total)
        with code.loop(code.constant(0), arguments[7]) as j:
            first = builder.mul(j, arguments[4])
            row = [
                code.load(rows, code.plus(first, k * code.lanes)) for k in range(taps.literal_value)
            ]
            position = builder.add(arguments[6], j)
            for i in range(pixels.literal_value):
                value = code.splat(builder.load(code.pointer(5, position)), code.reals)
                position = builder.add(position, arguments[7])
                for k, weights in enumerate(row):
                    total = code.multiply_add(weights, value, builder.load(sums[i + k]))
                    builder.store(total, sums[i + k])
        for total, slot in zip(sums, slots, strict=True):
            code.store(builder.load(total), target, slot)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def compress(_: Any, x, at, count, row, rows, values, to):
    """Append the nonzero values of ``x[at : at + count]`` to the events; return the new end.

    `count` is at most `lanes`. The event of ``x[at + i]`` gets the row ``row + i``. `rows` and
    `values` must have room for `lanes` more entries than there are events.
    """
    integer = types.intp
    signature = integer(x, integer, integer, integer, rows, values, integer)

    def generate(context, builder, signature, arguments):
        code = Code(context, builder, signature, arguments, x.dtype)
        loaded = code.load_first(0, arguments[1], arguments[2])
        events = builder.fcmp_unordered("!=", loaded, code.zeros)
        first = code.splat(builder.trunc(arguments[3], _I32), code.integers)
        numbers = builder.add(code.lane_numbers, first)
        end = arguments[6]
        code.store(code.compressed(loaded, events), code.pointer(5, end), code.constant(0))
        target = builder.bitcast(code.pointer(4, end), code.integers.as_pointer())
        builder.store(code.compressed(numbers, events), target, align=4)
        bits = builder.bitcast(events, ir.IntType(code.lanes))
        return builder.add(end, builder.zext(builder.ctpop(bits), _I64))

    return signature, generate


@intrinsic
def move(_: Any, source, at, count, target, to, room):
    """Copy at most `lanes` values, ``source[at : at + count]`` to ``target[to:]``.

    If a whole vector fits, ``room >= lanes``, zeros fill the rest of it. Otherwise nothing follows.
    """
    integer = types.intp
    signature = types.void(source, integer, integer, target, integer, integer)

    def generate(context, builder, signature, arguments):
        code = Code(context, builder, signature, arguments, source.dtype)
        moved, zero = code.load_first(0, arguments[1], arguments[2]), code.constant(0)
        pointer = code.pointer(3, arguments[4])
        fits = builder.icmp_signed(">=", arguments[5], code.constant(code.lanes))
        with builder.if_else(fits) as (whole, part):
            with whole:
                code.store(moved, pointer, zero)
            with part:
                code.store(moved, pointer, zero, code.below(arguments[2]))
        return context.get_dummy_value()

    return signature, generate


def splat(builder: Any, value: ir.Value, size: int) -> ir.Value:
    """Return a vector of `size` equal values."""
    undefined = ir.Constant(ir.VectorType(value.type, size), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_I32, 0))
    zeros = ir.Constant(ir.VectorType(_I32, size), [0] * size)
    return builder.shuffle_vector(first, undefined, zeros)


class Code:
    """Shorthand for the instructions above, on vectors of one dtype."""

    def __init__(self, context, builder, signature, arguments, dtype: types.Float) -> None:
        self.context, self.builder = context, builder
        self.signature, self.arguments = signature, arguments
        self.itemsize = dtype.bitwidth // 8
        self.lanes = lanes(self.itemsize)
        self.reals = ir.VectorType(context.get_data_type(dtype), self.lanes)
        self.integers = ir.VectorType(_I32, self.lanes)
        self.zeros = ir.Constant(self.reals, [0.0] * self.lanes)
        self.lane_numbers = ir.Constant(self.integers, list(range(self.lanes)))

    def pointer(self, argument: int, position: ir.Value) -> ir.Value:
        """Return the address of value number `position` of an array argument."""
        array = self.context.make_array(self.signature.args[argument])
        data = array(self.context, self.builder, self.arguments[argument]).data
        return self.builder.gep(data, [position])

    def constant(self, value: int) -> ir.Constant:
        return ir.Constant(_I64, value)

    def plus(self, position: ir.Value, number: int) -> ir.Value:
        return self.builder.add(position, self.constant(number))

    def times(self, position: ir.Value, number: int) -> ir.Value:
        return self.builder.mul(position, self.constant(number))

    def variable(self) -> ir.Value:
        """Return a vector initialised to zeros; it becomes a register."""
        slot = cgutils.alloca_once(self.builder, self.reals)
        self.builder.store(self.zeros, slot)
        return slot

    def event(
        self, rows: int, values: int, position: ir.Value, width: int
    ) -> tuple[ir.Value, ir.Value]:
        """Return the value of an event in all lanes, and the start of its row."""
        row = self.builder.load(self.pointer(rows, position))
        value = self.builder.load(self.pointer(values, position))
        return self.splat(value, self.reals), self.times(self.builder.sext(row, _I64), width)

    def splat(self, value: ir.Value, vector: ir.VectorType) -> ir.Value:
        return splat(self.builder, value, vector.count)

    def multiply_add(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        product = self.builder.fmul(a, b, flags=("contract",))
        return self.builder.fadd(product, c, flags=("contract",))

    def below(self, count: ir.Value) -> ir.Value:
        """Return a mask of the first `count` lanes."""
        limit = self.splat(self.builder.trunc(count, _I32), self.integers)
        return self.builder.icmp_signed("<", self.lane_numbers, limit)

    def load(self, base: ir.Value, position: ir.Value, mask: ir.Value | None = None) -> ir.Value:
        source = self._vector_at(base, position)
        if mask is None:
            return self.builder.load(source, align=self.itemsize)
        arguments = [source, ir.Constant(_I32, self.itemsize), mask, self.zeros]
        return self._call("llvm.masked.load", self.reals, arguments, ".p0")

    def load_first(self, argument: int, at: ir.Value, count: ir.Value) -> ir.Value:
        """Load the first `count` values from `at` on, followed by zeros.

        No mask is used if the array is long enough, because masks are slow on some processors.
        """
        array = self.context.make_array(self.signature.args[argument])
        size = array(self.context, self.builder, self.arguments[argument]).nitems
        pointer, zero, inside = self.pointer(argument, at), self.constant(0), self.below(count)
        goes_on = self.builder.icmp_signed("<=", self.plus(at, self.lanes), size)
        return self.either(
            goes_on,
            lambda: self.builder.select(inside, self.load(pointer, zero), self.zeros),
            lambda: self.load(pointer, zero, inside),
        )

    def either(
        self, condition: ir.Value, one: Callable[[], ir.Value], other: Callable[[], ir.Value]
    ) -> ir.Value:
        """Return the value of `one` if the condition holds, else `other`; compute only that."""
        with self.builder.if_else(condition) as branches:
            ends = []
            for branch, emit in zip(branches, (one, other), strict=True):
                with branch:
                    ends.append((emit(), self.builder.block))
        value = self.builder.phi(ends[0][0].type)
        for end in ends:
            value.add_incoming(*end)
        return value

    def store(
        self, value: ir.Value, base: ir.Value, position: ir.Value, mask: ir.Value | None = None
    ) -> None:
        target = self._vector_at(base, position)
        if mask is None:
            self.builder.store(value, target, align=self.itemsize)
        else:
            arguments = [value, target, ir.Constant(_I32, self.itemsize), mask]
            self._call("llvm.masked.store", ir.VoidType(), arguments, ".p0")

    def fetch_ahead(self, pointers: list[ir.Value], distance: int, writes: bool) -> None:
        """Prefetch values that are `distance` further on into the cache."""
        ahead = self.constant(distance)
        kind = ir.FunctionType(ir.VoidType(), [pointers[0].type, _I32, _I32, _I32])
        module = self.builder.module
        function = cgutils.get_or_insert_function(module, kind, "llvm.prefetch.p0")
        hints = [ir.Constant(_I32, int(writes)), ir.Constant(_I32, 3), ir.Constant(_I32, 1)]
        for pointer in pointers:
            self.builder.call(function, [self.builder.gep(pointer, [ahead]), *hints])

    def compressed(self, vector: ir.Value, mask: ir.Value) -> ir.Value:
        """Return the lanes under `mask`, moved to the front."""
        arguments = [vector, mask, ir.Constant(vector.type, ir.Undefined)]
        return self._call("llvm.experimental.vector.compress", vector.type, arguments)

    @contextmanager
    def loop(self, first: ir.Value, last: ir.Value, step: int = 1) -> Iterator[ir.Value]:
        by = self.constant(step)
        with cgutils.for_range_slice(self.builder, first, last, by, _I64) as (position, _):
            yield position

    def _vector_at(self, base: ir.Value, position: ir.Value) -> ir.Value:
        return self.builder.bitcast(self.builder.gep(base, [position]), self.reals.as_pointer())

    def _call(
        self, name: str, result: ir.Type, arguments: list[ir.Value], suffix: str = ""
    ) -> ir.Value:
        kind = "i32" if arguments[0].type == self.integers else f"f{8 * self.itemsize}"
        signature = ir.FunctionType(result, [argument.type for argument in arguments])
        function = cgutils.get_or_insert_function(
            self.builder.module, signature, f"{name}.v{self.lanes}{kind}{suffix}"
        )
        return self.builder.call(function, arguments)
