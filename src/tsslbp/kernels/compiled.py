"""Kernels compiled with Numba, and the threads that they share with PyTorch."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import logging
import os
import pickle
import struct
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any, cast, get_type_hints

import llvmlite
import numba
import numpy as np
import torch
from llvmlite import binding as llvm
from llvmlite import ir
from numba.core import sigutils, types
from numba.core.caching import CompileResultCacheImpl, FunctionCache, NullCache
from numba.core.ccallback import CFunc
from numba.core.errors import NumbaError
from numba.core.registry import cpu_target
from numba.core.serialize import dumps
from numba.extending import intrinsic
from numba.misc.appdirs import AppDirs
from torch import Tensor
from torch._functorch.utils import unwrap_dead_wrappers

from ..errors import InvalidInput, RunError
from ..reading import find
from ..storage import digest, write_file

SMALLEST_SHARE = 1 << 14  # values per thread; less work is not worth another thread
STATES_KEPT = 3  # states of the sources whose compiled kernels are kept on disk, per machine

# Numba's options for a function that only kernels call, and Python does not
PART = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
INLINED = {**PART, "forceinline": True}

_SUFFIX = ".kernel"
_DIGEST = len(digest(b""))


def part(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function that only kernels call, and that is cached only inside of them.

    For a small function, what Numba adds for calls from Python and for the cache would take as long
    to compile as the function.
    """
    decorate = numba.njit(**PART, **options)
    return cast("Callable[[Callable[..., Any]], Callable[..., Any]]", decorate)


class _Places(CompileResultCacheImpl):
    """Return Numba's cache folder; with an unknown home it would create a folder named ``~``."""

    def __init__(self, function: Callable[..., Any]) -> None:
        if not os.path.isabs(AppDirs("numba", False).user_cache_dir):
            known = CompileResultCacheImpl._locator_classes
            self._locator_classes = [one for one in known if "UserWide" not in one.__name__]
        super().__init__(function)


class _Cache(FunctionCache):
    """Numba's cache on disk, in our own files (`_Files`).

    The result of compilation depends on all that a kernel calls, on versions, and on the processor.
    Numba checks only the file of the kernel; here the names of the files depend on all of these.
    """

    _impl_class = _Places

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        folders = Path(__file__).parent, Path(function.__code__.co_filename).parent
        numbers = [cell.cell_contents for cell in function.__closure__ or ()]
        assert all(isinstance(number, int) for number in numbers), function
        name = "_".join([self._impl.filename_base, *map(str, numbers)])
        self._cache_file = _Files(Path(self._cache_path), name, _machine(), _state(*folders))

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except (OSError, RunError):  # such as a full disk
            _warn_no_cache()


class _Files:
    """The compiled codes of one function, in one file per signature.

    A digest precedes the contents: a damaged file is treated as missing and is made again. The name
    is NAME-SIGNATURE-MACHINE-STATE.kernel. Of the files that a machine made for earlier states of
    the sources, only the last few states are kept.

    Args:
        folder: folder of the files.
        name: name of the function.
        machine: hash of what depends on the machine.
        state: hash of everything else that determines the compiled code.
    """

    def __init__(self, folder: Path, name: str, machine: str, state: str) -> None:
        self.folder, self.name, self.machine, self.state = folder, name, machine, state

    def path(self, key: Any) -> Path:
        what = f"{self.name}-{_hash(repr(key))}-{self.machine}-{self.state}"
        return self.folder / f"{what}{_SUFFIX}"

    def load(self, key: Any) -> Any:
        try:
            content = self.path(key).read_bytes()
        except OSError:
            return None
        found, data = content[:_DIGEST], content[_DIGEST:]
        if found != digest(data).encode():
            return None
        stored, compiled = pickle.loads(data)
        return compiled if stored == key else None

    def save(self, key: Any, compiled: Any) -> None:
        data = dumps((key, compiled))
        write_file(self.path(key), digest(data), data)
        _remove_earlier(self.folder, self.machine, self.state)


@functools.cache
def _remove_earlier(folder: Path, machine: str, state: str) -> None:
    """Remove the files of a machine's earlier states except the last ones, and those of Numba."""
    ages: dict[str, float] = {}
    paths = [
        (path, path.name.rpartition("-")[2]) for path in find(folder, f"*-{machine}-*{_SUFFIX}")
    ]
    with contextlib.suppress(OSError):  # another process does the same
        for path, one in paths:
            ages[one] = max(ages.get(one, 0.0), path.stat().st_mtime)
        ages.pop(f"{state}{_SUFFIX}", None)
        left_out = sorted(ages, key=lambda one: ages[one])[: -(STATES_KEPT - 1)]
        gone = [path for path, one in paths if one in left_out]
        for path in (*gone, *find(folder, "*.nb[ic]")):
            path.unlink(missing_ok=True)


def _machine() -> str:
    return _hash(repr(cpu_target.target_context.codegen().magic_tuple()))


@functools.cache
def _state(*folders: Path) -> str:
    """Return a hash of the code of all modules in some folders, and of versions.

    It uses the code as Python has loaded it, possibly from an earlier compilation, and not the
    source text: Numba compiles the loaded code, and only that may be stored under this name.
    """
    paths = sorted({path for folder in folders for path in find(folder, "*.py")})
    codes = [SourceFileLoader(path.stem, str(path)).get_code(path.stem) for path in paths]
    versions = numba.__version__, llvmlite.__version__, np.__version__, sys.version
    return _hash(repr((versions, [_facts(code) for code in codes])))


def _facts(constant: Any) -> Any:
    """Return a code or constant in a form whose `repr` is the same in every process."""
    if isinstance(constant, CodeType):
        constants = [_facts(one) for one in constant.co_consts]
        names = constant.co_name, constant.co_names, constant.co_varnames, constant.co_freevars
        return constant.co_code, names, constant.co_flags, constant.co_argcount, constants
    if isinstance(constant, tuple):
        return [_facts(one) for one in constant]
    return sorted(map(repr, constant)) if isinstance(constant, frozenset) else repr(constant)


def _hash(text: str) -> str:
    return digest(text.encode())[:16]


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


def compile_callback(
    function: Callable[..., Any], signature: Any, *, keep: bool = True
) -> _Callback:
    """Compile a function that is called by its address, or take it from the cache."""
    options = {"nopython": True, "error_model": "numpy"}
    compiled = _Callback(function, sigutils.normalize_signature(signature), {}, options)
    if keep:
        compiled.enable_caching()
    with _garbage_kept():
        compiled.compile()
    return compiled


@contextlib.contextmanager
def _garbage_kept() -> Iterator[None]:
    """Do not collect garbage meanwhile: going through PyTorch's objects delays the compiler."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@functools.cache
def _tell() -> None:
    logging.getLogger("tsslbp").info("compiling kernels (only once); this takes some seconds")


@functools.cache
def _warn_no_cache() -> None:
    warnings.warn(
        "tsslbp: there is no writable folder for compiled kernels, so each process compiles them "
        "again (some seconds); set NUMBA_CACHE_DIR to a writable folder",
        RuntimeWarning,
        stacklevel=2,
    )


@functools.cache
def _openmp() -> Callable[[int, Any, int, int], None] | None:
    """Return the function of PyTorch's OpenMP library that runs a function on all its threads.

    A library of our own, such as Numba's, would have threads of its own. They and PyTorch's would
    wait for work on the same cores.
    """
    # As PyTorch's own calls do, find a library that the whole process uses (with LD_PRELOAD), or
    # else that of PyTorch, among all that it is linked to.
    libraries = [
        ctypes.CDLL(name) for name in ([None] if os.name == "posix" else []) + [torch._C.__file__]
    ]
    found = [one for one in libraries if hasattr(one, "GOMP_parallel")]  # GCC's, Intel's and LLVM's
    if not found:
        warnings.warn(
            "tsslbp: PyTorch has no OpenMP library with the function GOMP_parallel, so the "
            "compiled kernels run on one thread",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    for name in ("omp_get_thread_num", "omp_get_num_threads"):
        llvm.add_symbol(name, ctypes.cast(found[0][name], ctypes.c_void_p).value)
    parallel = found[0].GOMP_parallel
    parallel.argtypes = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint
    parallel.restype = None
    return cast("Callable[[int, Any, int, int], None]", parallel)


def workers_for(values: int) -> int:
    """Return the number of threads for a kernel: PyTorch's, or fewer if there is little work."""
    wanted = min(torch.get_num_threads(), 1 + values // SMALLEST_SHARE)
    return wanted if wanted > 1 and _openmp() else 1


class ParallelKernel:
    """A kernel that does one worker's share of some work; calling it does all shares.

    It is a decorator of ``kernel(arguments, worker, workers)``, where ``arguments[0]`` is the tuple
    of the call's arguments: contiguous tensors (one-dimensional arrays in the kernel), whole
    numbers, floats, and named tuples of such numbers. The kernel writes its results to tensors and
    returns `DONE`, unless an error occurs. Each kernel is compiled once, on its own, and one
    function that every thread runs serves all kernels.
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
                        "the CPU kernels need tensors with ordinary memory, got a "
                        f"{type(argument).__name__}; use impl='reference'"
                    )
                values += (0, 0, size, itemsize, address, size, itemsize)
            elif isinstance(argument, tuple):
                values += argument
            else:
                values.append(argument)
        packed = ctypes.create_string_buffer(layout.pack(*values))
        parallel = _openmp() if workers > 1 else None
        if parallel is None:
            call = KERNEL(function.address)
            done = sum(call(packed, worker, workers) for worker in range(workers))
        else:
            data = function.address, ctypes.addressof(packed), workers
            task = (ctypes.c_ssize_t * (3 + workers))(*data)
            parallel(_of_each_thread().address, task, 0, 0)  # 0 threads: as many as PyTorch uses
            done = sum(task[3:])
        if done != workers:  # Numba has printed the error, which cannot be caught
            name = self.__name__  # type: ignore[attr-defined]
            raise MemoryError(f"{name} failed, probably for lack of memory: see the error above")

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
        foreign = [type(one).__name__ for one in arguments if hasattr(one, "is_foreign")]
        ours = self.__wrapped__  # type: ignore[attr-defined]
        try:  # the cache depends only on the package's sources
            function = compile_callback(ours, signature, keep=not foreign)
        except NumbaError as error:
            if not foreign:
                raise
            raise InvalidInput(
                f"Numba cannot compile the step of {foreign[0]}: {_reason(error)}"
            ) from error
        return function, struct.Struct(layout)


DONE = 1  # returned by a kernel; the C function of one that failed returns 0
ARRAY_LAYOUT = "qqqqqqq"  # Numba's: owner, parent, values, bytes per value, address, length, stride
KERNEL = ctypes.CFUNCTYPE(*[ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_ssize_t])
NUMBERS = {int: (types.intp, "q"), bool: (types.intp, "q"), float: (types.float64, "d")}


@intrinsic
def _call(_: Any, function, arguments, worker, workers):
    """Call a compiled kernel by its address."""

    def generate(context, builder, signature, values):
        number = ir.IntType(64)
        kind = ir.FunctionType(number, [number] * 3)
        return builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])

    return types.intp(*[types.intp] * 4), generate


def _reason(error: NumbaError) -> str:
    """Return the one line of Numba's message that names the mistake."""
    *_, innermost = str(error).split("(step: nopython frontend)\n")
    return innermost.strip().partition("\n")[0]


THREAD_NUM = types.ExternalFunction("omp_get_thread_num", types.int32())
NUM_THREADS = types.ExternalFunction("omp_get_num_threads", types.int32())


def _shares(task):  # the kernel's address, its arguments' address, workers, each worker's result
    worker = np.intp(THREAD_NUM())
    while worker < task[2]:  # there may be fewer threads than workers
        task[3 + worker] = _call(task[0], task[1], worker, task[2])
        worker += NUM_THREADS()


@functools.cache
def _of_each_thread() -> _Callback:
    """Compile `_shares`, which OpenMP runs on each thread."""
    return compile_callback(_shares, types.void(types.CPointer(types.intp)))


def new_images(like: Tensor, shape: Sequence[int]) -> Tensor:
    """Allocate images ``[..., C, H, W]`` with channels last that are not a view of a tensor.

    PyTorch would not let a user modify a view that a `Function` returns.
    """
    *order, channels, height, width = range(len(shape))
    order += [height, width, channels]
    return torch.empty_permuted(shape, order, dtype=like.dtype, device=like.device)


class Function(torch.autograd.Function):
    """An autograd function whose `apply` takes all arguments by position, for less overhead.

    PyTorch binds the arguments to the signature at each call, which takes longer than a small
    kernel and is needed only for `torch.func`.
    """

    @classmethod
    def apply(cls, *arguments: Any) -> Any:
        if torch._C._are_functorch_transforms_active():
            return super().apply(*arguments)
        arguments = unwrap_dead_wrappers(arguments)  # tensors that left a transform
        return super(torch.autograd.Function, cls).apply(*arguments)  # type: ignore[misc]
