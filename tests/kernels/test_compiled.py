"""Tests of compiled kernels: their arguments, workers, errors and cache."""

import ast
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np
import pytest
import torch
from numba.core import caching, types
from numba.core.caching import NullCache
from numba.core.registry import cpu_target

import tsslbp
from tsslbp.errors import InvalidInput, RunError
from tsslbp.kernels import compiled, simd
from tsslbp.kernels.compiled import DONE, Function, ParallelKernel, compile_callback
from tsslbp.neuron import cpu
from tsslbp.neuron.cpu_rules import STEPS, THROUGH_SPIKE
from tsslbp.storage import digest


class Numbers(NamedTuple):
    factor: float
    offset: int
    negate: bool


@ParallelKernel
def _affine(arguments, worker, workers):
    x, out, scale, skip, k = arguments[0]
    first, last = worker * x.size // workers, (worker + 1) * x.size // workers
    for i in range(first + skip, last):
        value = x[i] * scale * k.factor + k.offset
        out[i] = -value if k.negate else value
    return DONE


@ParallelKernel
def _fails(arguments, worker, workers):
    if worker == workers - 1:
        raise MemoryError
    return DONE


@ParallelKernel
def _takes_memory(arguments, worker, workers):
    x, size = arguments[0]
    x[worker] = simd.scratch(size, x.dtype).size
    return DONE


@numba.njit
def _address(array):
    return simd.scratch(100, array.dtype).ctypes.data


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
@pytest.mark.parametrize("workers", [1, 2])
def test_arguments_of_every_kind(dtype: torch.dtype, workers: int) -> None:
    x, out = torch.arange(10, dtype=dtype), torch.zeros(10, dtype=dtype)
    for k, expected in ((Numbers(2.0, 3, False), 6 * x + 3), (Numbers(1.0, 0, True), -3 * x)):
        _affine(x, out, 3.0, 0, k, workers=workers)
        assert torch.equal(out, expected)
    assert len(_affine.compiled) <= 3  # one for each dtype


def test_whole_numbers_serve_as_floats() -> None:
    x, out = torch.ones(4), torch.zeros(4)
    _affine(x, out, 1.0, 0, Numbers(5, 1, False), workers=1)  # an int where a float is expected
    assert out.tolist() == [6.0] * 4


@pytest.mark.parametrize(
    "broken", [torch.ones(4, 4).t(), torch._neg_view(torch.ones(4)), torch._efficientzerotensor(4)]
)
def test_tensors_that_a_pointer_does_not_describe(broken: torch.Tensor) -> None:
    with pytest.raises(InvalidInput, match="with ordinary memory"):
        _affine(broken, torch.zeros(4), 1.0, 0, Numbers(1.0, 0, False), workers=1)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_inside_is_not_lost(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: printed.append(error.exc_type))
    with pytest.raises(MemoryError, match="_fails"):
        _fails(torch.zeros(1), workers=workers)
    assert printed == [MemoryError]


@pytest.mark.parametrize("workers", [1, 2])
def test_too_little_memory_is_an_error(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda error: None)
    x = torch.zeros(workers)
    _takes_memory(x, 1000, workers=workers)
    assert x.tolist() == [1000.0] * workers
    with pytest.raises(MemoryError, match="_takes_memory"):
        _takes_memory(x, 1 << 59, workers=workers)


def test_compiling_is_told_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "_cache", lambda _: NullCache())
    compiled._tell.cache_clear()
    caplog.set_level("INFO", "tsslbp")
    again = ParallelKernel(_affine.__wrapped__)
    for dtype in (torch.float32, torch.float64):
        x = torch.zeros(1, dtype=dtype)
        again(x, x, 1.0, 0, Numbers(1.0, 0, False), workers=1)
    assert caplog.messages == ["compiling kernels (only once); this takes some seconds"]


def test_scratch_memory_begins_where_a_vector_may() -> None:
    for dtype in (np.float32, np.float64):
        assert {_address(np.zeros(1, dtype)) % simd.VECTOR_BYTES for _ in range(20)} == {0}


def test_a_tensor_that_left_a_transform() -> None:
    class Double(Function):
        @staticmethod
        def forward(x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @staticmethod
        def setup_context(ctx, inputs, output) -> None:
            pass

    escaped = []
    torch.func.grad(lambda x: (escaped.append(x), x.sum())[1])(torch.ones(3))
    assert Double.apply(escaped[0]).tolist() == [2.0] * 3


THREADS = """
import os, torch, tsslbp
torch.set_num_threads(3)
x = torch.rand(5, 200_000).relu()
before = set(os.listdir("/proc/self/task"))
tsslbp.spikes(x, impl="cpu")
print(torch.get_num_threads(), len(set(os.listdir("/proc/self/task")) - before))
"""


@pytest.mark.slow
def test_pytorchs_number_of_threads_stays() -> None:
    """PyTorch's number of threads, on which its sums depend, stays, and the kernels start none."""
    command = [sys.executable, "-c", THREADS]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["3", "0"]


def test_functions_of_one_name_have_files_of_their_own() -> None:
    """Functions of one name that close over different values do not share a cache file.

    Otherwise, of two processes that compile at once, one could load the code of the other.
    """

    def adding(number: int):
        return compile_callback(lambda x: x + number, WHOLE)

    files = {adding(number)._cache._cache_file.path("signature") for number in (1, 2, 2)}
    assert len(files) == 2


CACHED = """
import torch, tsslbp
from tsslbp.neuron import cpu
x = torch.full((1, 1), 4.0, requires_grad=True)
tsslbp.spikes(x, rule=tsslbp.TSSLBP(warm_up="never"), impl="cpu").backward(torch.ones(1, 1))
((backward, _),) = cpu._backward_kernel.compiled.values()
print(x.grad.item(), backward.cache_hits)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)  # five processes, of which three compile
def test_a_changed_source_compiles_anew_and_an_unchanged_one_does_not(tmp_path: Path) -> None:
    """A change in a file whose functions the kernel calls makes it compile anew.

    The code compiled for the former source stays in the cache.
    """
    package = tmp_path / "site" / "tsslbp"
    shutil.copytree(
        Path(tsslbp.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    environment = os.environ | {
        "PYTHONPATH": str(package.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
    }

    def run() -> tuple[float, int]:
        result = subprocess.run(
            [sys.executable, "-c", CACHED],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        gradient, hits = result.stdout.split()
        return float(gradient), int(hits)

    assert (run(), run()) == ((0.25, 0), (0.25, 1))
    for name, old, new in (
        ("neuron/cpu_rules.py", "_clamp(1 / change,", "_clamp(2 / change,"),
        (
            "kernels/tiles.py",
            "operator.truediv, lambda vector: vector, ir.IRBuilder.fdiv",
            "operator.truediv, lambda vector: vector, ir.IRBuilder.fmul",
        ),
    ):
        source = package / name
        before = source.read_text()
        assert before.count(old) == 1
        source.write_text(before.replace(old, new))
        assert run() == ({"neuron/cpu_rules.py": 0.5, "kernels/tiles.py": 4.0}[name], 0)
        source.write_text(before)
    assert run() == (0.25, 1)  # what was compiled for the first sources is still there


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    compiled._remove_earlier.cache_clear()
    return tmp_path


WHOLE = types.intp(types.intp)
REAL = types.float64(types.float64)


def double(x):
    return 2 * x


def test_code_of_another_signature_is_not_taken(cache: Path) -> None:
    """A file that contains the code of another signature is not loaded, whatever its name."""
    for signature in (WHOLE, REAL):
        compile_callback(double, signature)
    files = sorted(cache.rglob("*.kernel"))
    assert len(files) == 2
    files[0].write_bytes(files[1].read_bytes())
    whole, real = (compile_callback(double, signature) for signature in (WHOLE, REAL))
    assert (whole.ctypes(2), real.ctypes(2.5)) == (4, 5.0)
    assert whole.cache_hits + real.cache_hits == 1


def test_damaged_code_is_noticed_and_made_again(cache: Path) -> None:
    """Damage anywhere in a cache file is detected, and the code is silently compiled again."""
    first = compile_callback(double, WHOLE)
    assert first.ctypes(2) == 4
    (path,) = cache.rglob("*.kernel")
    content, files = path.read_bytes(), first._cache._cache_file
    ((signature, *_), _) = pickle.loads(content[len(digest(b"")) :])
    key = first._cache._index_key(signature, cpu_target.target_context.codegen())
    assert files.path(key) == path and files.load(key) is not None
    positions = np.random.default_rng(0).integers(0, len(content), 300)
    for position in (0, 31, 32, len(content) - 1, *positions.tolist()):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        assert files.load(key) is None
    for damaged in (b"", content[:20], content[:-1], content + b"0", os.urandom(999)):
        path.write_bytes(damaged)
        assert files.load(key) is None
    again = compile_callback(double, WHOLE)
    assert again.ctypes(2) == 4 and not again.cache_hits
    assert files.load(key) is not None
    path.unlink()
    assert files.load(key) is None


def test_a_cache_that_cannot_be_written_does_not_matter(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RunError("cannot write it: the disk is full")

    monkeypatch.setattr(compiled, "write_file", full)
    compiled._warn_no_cache.cache_clear()
    with pytest.warns(RuntimeWarning, match="each process compiles them again"):
        assert compile_callback(double, WHOLE).ctypes(2) == 4


def test_without_a_home_the_current_folder_gets_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without ``HOME`` or a user entry, as in many containers, the current folder stays empty."""
    for name in ("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    monkeypatch.setattr(caching.InTreeCacheLocator, "from_function", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    compiled._warn_no_cache.cache_clear()
    with pytest.warns(RuntimeWarning, match="each process compiles them again"):
        assert compile_callback(double, WHOLE).ctypes(2) == 4
    assert not list(tmp_path.iterdir())


def test_files_of_earlier_states_are_removed_but_for_the_last(cache: Path) -> None:
    """All but the two latest earlier states of this machine are removed, and no other machine's."""
    (cache / "of-numba.py311.nbi").touch()
    (cache / "of-numba.py311.1.nbc").touch()
    (cache / "module.pyc").touch()
    for age, state in enumerate(("newest", "older", "oldest", "ancient")):
        for name in ("f", "g"):
            for machine in ("here", "there"):
                path = cache / f"{name}-1.py311-signature-{machine}-{state}.kernel"
                path.touch()
                os.utime(path, (1e9 - age, 1e9 - age))
    compiled._Files(cache, "f-1.py311", "here", "now").save("signature", 1)
    left = {path.name for path in cache.iterdir()}
    here = {name for name in left if "-here-" in name}
    assert {name.rpartition("-")[2] for name in here} == {
        *("now.kernel", "newest.kernel", "older.kernel")
    }
    assert len(here) == 5 and len(left - here) == 9 and "module.pyc" in left


def test_the_key_is_that_of_the_code_that_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key follows the bytecode that Python loads, even if that is older than the source.

    Python loads an old compiled file if the size and time of the source are the same.
    """
    monkeypatch.setattr(sys, "dont_write_bytecode", False)

    def state() -> str:
        compiled._state.cache_clear()
        return compiled._state(tmp_path)

    source = tmp_path / "helper.py"
    source.write_text("def f(x):\n    return x + 1\n")
    times = source.stat()
    before = state()
    assert state() == before
    source.write_text("def f(x):\n    return x + 2\n")
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    stale = state()
    assert stale == before
    shutil.rmtree(tmp_path / "__pycache__")
    fresh = state()
    assert fresh != before
    source.write_text("# no other code\ndef f(x):\n    return x + 2\n")
    assert state() == fresh
    (tmp_path / "more.py").write_text("")
    assert state() != fresh
    compiled._state.cache_clear()


@pytest.mark.parametrize("what", ["constant", "name", "nested", "set", "default"])
def test_whatever_changes_the_code_changes_the_key(what: str) -> None:
    source = "def f(x, y=1):\n    def g():\n        return x in {'a', 'b'}\n    return 1.0 * y\n"
    change = {
        "constant": ("1.0", "-0.0"),
        "name": ("* y", "* z"),
        "nested": ("x in", "x not in"),
        "set": ("'b'", "'c'"),
        "default": ("y=1", "y=2"),
    }[what]
    old, new = (compile(text, "f", "exec") for text in (source, source.replace(*change)))
    assert compiled._facts(old) == compiled._facts(compile(source, "f", "exec"))
    assert compiled._facts(old) != compiled._facts(new)


def test_all_that_a_kernel_is_made_of_lies_in_the_folders_of_its_key() -> None:
    """Compiled functions use nothing from modules of the package that no cache key covers."""
    folders = [Path(module.__file__ or "").parent for module in (compiled, cpu)]
    for folder in folders:
        for path in folder.glob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            foreign = {
                one.asname or one.name
                for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom) and outside(node, folder == folders[0])
                for one in node.names
            }
            for function in compiled_functions(path, tree):
                names = {one.id for one in ast.walk(function) if isinstance(one, ast.Name)}
                assert not names & foreign, f"{path.name}: {function.name}"


def outside(node: ast.ImportFrom, in_kernels: bool) -> bool:
    """Return whether an import is from a module of the package that no key covers."""
    room = (node.module or "").partition(".")[0]
    return node.level == 2 and (in_kernels or room != "kernels")


def compiled_functions(path: Path, tree: ast.Module) -> list[ast.FunctionDef]:
    """Return the functions of a module that Numba compiles, or that make its code."""
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    words = ("part", "ParallelKernel", "overload", "intrinsic")
    found = [
        one
        for one in functions
        if any(word in ast.unparse(mark) for mark in one.decorator_list for word in words)
    ]
    if path.name == "cpu_rules.py":
        steps = [function.__name__ for function in (*STEPS.values(), *THROUGH_SPIKE.values())]
        found += [one for one in functions if one.name in steps]
        assert len(found) > 20
    return found
