"""Kernels compiled with Numba, and the threads that they share with PyTorch."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import struct
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast, get_type_hints

import llvmlite
import numba
import numpy as np
import torch
from llvmlite import ir
from numba import prange
from numba.core import sigutils, types
from numba.core.caching import FunctionCache, IndexDataCacheFile, NullCache
from numba.core.ccallback import CFunc
from numba.core.errors import NumbaError
from numba.core.registry import cpu_target
from numba.extending import intrinsic
from torch import Tensor
from torch._functorch.utils import unwrap_dead_wrappers

from ..errors import InvalidInput

SMALLEST_SHARE = 1 << 14  # values; less work than this is not worth another thread


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile with Numba for the arguments that come, kept on disk where it can be written."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        compiled = numba.njit(nogil=True, error_model="numpy", **options)(function)
        compiled._cache = _cache(function)
        return cast("Callable[..., Any]", compiled)

    return decorate


class _Cache(FunctionCache):
    """Numba's cache on disk, in files of their own for each state of the sources.

    What a kernel is compiled to depends on all that it calls. Numba looks at the file of the kernel
    alone; here the names of the files also hold a hash of all sources beside it and beside this
    module, of the versions and the processor that matter, and of the numbers that a function
    closes over. Processes that write at once can overwrite each other's files, so everything that
    makes a difference, except the signature, is in a file's name.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        folders = Path(__file__).parent, Path(function.__code__.co_filename).parent
        numbers = [cell.cell_contents for cell in function.__closure__ or ()]
        assert all(isinstance(number, int) for number in numbers), function
        own = hashlib.sha256(f"{numbers} {_hash_of_sources(*folders)}".encode()).hexdigest()[:16]
        self._cache_file = IndexDataCacheFile(
            self._cache_path,
            f"{self._impl.filename_base}-{own}",
            self._impl.locator.get_source_stamp(),
        )

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """None also if another process has overwritten the file with another signature's code."""
        found = super().load_overload(sig, target_context)
        wanted, _ = sigutils.normalize_signature(sig)
        return found if found and found.signature.args == wanted else None


@functools.cache
def _hash_of_sources(*folders: Path) -> str:
    processor = cpu_target.target_context.codegen().magic_tuple()
    found = hashlib.sha256(f"{llvmlite.__version__} {np.__version__} {processor}".encode())
    for path in sorted({path for folder in folders for path in folder.glob("*.py")}):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def _cache(function: Callable[..., Any]) -> Any:
    try:
        return _Cache(function)
    except RuntimeError as error:
        if "no locator" not in str(error):  # Numba found no folder for its cache
            raise
        _warn_no_cache()
        return NullCache()


class _Callback(CFunc):
    """A function that is called by its address."""

    def enable_caching(self) -> None:
        self._cache = _cache(self.__wrapped__)

    def _compile_uncached(self) -> Any:
        _tell()
        return super()._compile_uncached()


@functools.cache
def _tell() -> None:
    logging.getLogger("tsslbp").info("compiling kernels, once; this takes some seconds")


@functools.cache
def _warn_no_cache() -> None:
    warnings.warn(
        "tsslbp: no writable folder for compiled kernels, so each process compiles them again "
        "(some seconds); set NUMBA_CACHE_DIR to a writable folder",
        RuntimeWarning,
        stacklevel=2,
    )


@functools.cache
def _openmp() -> bool:
    """Whether Numba can use OpenMP, whose threads share the cores well with PyTorch's own."""
    try:
        from numba.np.ufunc import omppool  # noqa: F401
    except ImportError:
        warnings.warn(
            "tsslbp: no OpenMP library found (libgomp.so.1 on Linux), so the compiled kernels run "
            "on one thread",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    if numba.config.THREADING_LAYER == "default":
        numba.config.THREADING_LAYER = "omp"
    # Starting Numba's threads changes OpenMP's number of threads, and so PyTorch's, on which the
    # bits of its sums depend.
    threads = torch.get_num_threads()
    numba.set_num_threads(numba.get_num_threads())  # starts them
    torch.set_num_threads(threads)
    return True


def workers_for(values: int) -> int:
    """Threads for a kernel over so many values: PyTorch's number, fewer for little work."""
    most = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)
    wanted = min(most, 1 + values // SMALLEST_SHARE)
    return wanted if wanted > 1 and _openmp() else 1


class ParallelKernel:
    """A kernel that does one worker's share of some work; calling it does all shares.

    It is a decorator of ``kernel(arguments, worker, workers)``, where ``arguments[0]`` is the tuple
    of what it is called with: contiguous tensors (one-dimensional arrays in the kernel), whole
    numbers, floats, and named tuples of such numbers. Its results are what it writes to tensors; it
    returns `DONE`, which an error inside keeps it from. Each is compiled once by itself; one
    loop over workers serves them all, which Numba's own parallel loops do not: they compile their
    body three times over.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        functools.update_wrapper(self, function)
        self.compiled: dict[tuple[Any, ...], tuple[Any, struct.Struct]] = {}

    def __call__(self, *arguments: Any, workers: int) -> None:
        kinds = tuple(
            argument.dtype if isinstance(argument, Tensor) else type(argument)
            for argument in arguments
        )
        compiled = self.compiled.get(kinds)
        if compiled is None:
            compiled = self.compiled[kinds] = self._compile(arguments)
        function, layout = compiled
        values: list[Any] = []
        for argument in arguments:
            if isinstance(argument, Tensor):
                size, itemsize, address = argument.numel(), argument.itemsize, argument.data_ptr()
                if not argument.is_contiguous() or argument.is_neg() or (size and not address):
                    raise InvalidInput(
                        "the CPU's kernels need tensors whose values lie in memory as they are, "
                        f"got a {type(argument).__name__} without; impl='reference' takes it"
                    )
                values += (0, 0, size, itemsize, address, size, itemsize)
            elif isinstance(argument, tuple):
                values += argument
            else:
                values.append(argument)
        packed = ctypes.create_string_buffer(layout.pack(*values))
        if workers == 1:
            done = _call(function.address, ctypes.addressof(packed), 0, 1)
        else:
            _openmp()
            before = numba.get_num_threads()
            numba.set_num_threads(workers)
            try:
                done = _call_all(function.address, ctypes.addressof(packed), workers)
            finally:
                numba.set_num_threads(before)
        if done != workers:  # Numba has printed the error, which no one could catch
            raise MemoryError(f"a kernel ran out of memory in {self.__name__}")  # type: ignore[attr-defined]

    def _compile(self, arguments: tuple[Any, ...]) -> tuple[Any, struct.Struct]:
        kinds, layout = [], ""
        for argument in arguments:
            if isinstance(argument, Tensor):
                dtype = numba.from_dtype(np.dtype(str(argument.dtype).removeprefix("torch.")))
                kinds.append(types.Array(dtype, 1, "C"))
                layout += ARRAY_LAYOUT
            elif isinstance(argument, tuple):
                fields = [NUMBERS[of] for of in get_type_hints(type(argument)).values()]
                kinds.append(types.NamedTuple([kind for kind, _ in fields], type(argument)))
                layout += "".join(code for _, code in fields)
            else:
                kind, code = NUMBERS[type(argument)]
                kinds.append(kind)
                layout += code
        signature = types.intp(types.CPointer(types.Tuple(kinds)), types.intp, types.intp)
        options = {"nopython": True, "error_model": "numpy"}
        function = _Callback(
            self.__wrapped__,  # type: ignore[attr-defined]
            sigutils.normalize_signature(signature),
            locals={},
            options=options,
        )
        foreign = [type(one).__name__ for one in arguments if hasattr(one, "is_foreign")]
        if not foreign:  # the cache knows the package's sources alone
            function.enable_caching()
        try:
            function.compile()
        except NumbaError as error:
            if not foreign:
                raise
            raise InvalidInput(
                f"Numba cannot compile the step of {foreign[0]}: {_reason(error)}"
            ) from error
        return function, struct.Struct(layout)


DONE = 1  # what a kernel returns; the C function of one that failed returns 0
ARRAY_LAYOUT = "qqqqqqq"  # Numba's: owner, parent, values, bytes of one, address, length, stride
NUMBERS = {int: (types.intp, "q"), bool: (types.intp, "q"), float: (types.float64, "d")}


@intrinsic
def _call_address(_: Any, function, arguments, worker, workers):
    """Call a compiled kernel by its address."""

    def generate(context, builder, signature, values):
        number = ir.IntType(64)
        kind = ir.FunctionType(number, [number] * 3)
        return builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])

    return types.intp(*[types.intp] * 4), generate


def _reason(error: NumbaError) -> str:
    """The one line of Numba's many that names the mistake."""
    *_, innermost = str(error).split("(step: nopython frontend)\n")
    return innermost.strip().partition("\n")[0]


@kernel()
def _call(function, arguments, worker, workers):
    return _call_address(function, arguments, worker, workers)


@kernel(parallel=True)
def _call_all(function, arguments, workers):
    done = 0
    for worker in prange(workers):
        done += _call_address(function, arguments, np.intp(worker), workers)
    return done


def new_images(like: Tensor, shape: Sequence[int]) -> Tensor:
    """Memory for images ``[..., C, H, W]`` with the channels last, as no view of another tensor.

    PyTorch would not let a user change a view that a `Function` returns.
    """
    *order, channels, height, width = range(len(shape))
    order += [height, width, channels]
    return torch.empty_permuted(shape, order, dtype=like.dtype, device=like.device)


class Function(torch.autograd.Function):
    """An autograd function whose `apply` takes all arguments by position, at less cost a call.

    PyTorch matches them with the signature every time, which takes longer than a small kernel. It
    needs that for `torch.func` alone.
    """

    @classmethod
    def apply(cls, *arguments: Any) -> Any:
        if torch._C._are_functorch_transforms_active():
            return super().apply(*arguments)
        arguments = unwrap_dead_wrappers(arguments)  # tensors that left a transform
        return super(torch.autograd.Function, cls).apply(*arguments)  # type: ignore[misc]
