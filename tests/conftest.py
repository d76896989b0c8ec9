"""Fixtures that the tests share."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import os
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from tsslbp import cli, storage
from tsslbp.data import catalogue
from tsslbp.data.catalogue import Entry
from tsslbp.data.files import VARIABLE
from tsslbp.data.images import idx
from tsslbp.figures import svg
from tsslbp.kernels import compiled
from tsslbp.studies import jobs

Arrays = dict[str, np.ndarray]
SHARED = Path(__file__).resolve().parents[2] / "shared"

# Tests run in parallel, with one thread each; tests about threads set the number themselves.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# Without a GPU, Triton interprets the kernels; it reads this setting when it is first imported.
if importlib.util.find_spec("triton") is not None and not torch.cuda.is_available():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        import triton.language  # noqa: F401


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "changes of each kind of file that test_mutations.py tries"
    parser.addoption("--mutations", type=int, default=300, metavar="N", help=text)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let every worker begin with its share of the slow tests.

    Workers get equal parts of the list, and a worker that is done takes tests from the end of
    another's part. So no worker is left alone with a slow test at the end.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    slow = [item for item in items if item.get_closest_marker("slow")]
    fast = [item for item in items if not item.get_closest_marker("slow")]
    items[:] = [
        item
        for worker in range(workers)
        for some in (slow, fast)
        for item in some[worker * len(some) // workers : (worker + 1) * len(some) // workers]
    ]


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """Make the system refuse to write a file beyond `size` bytes, as a full disk would."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(autouse=True, scope="session")
def _kernels_compile_silently() -> None:
    """Log the message about compilation now; otherwise chance decides which test logs it."""
    compiled._tell()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace PNG rendering, slower than the trainings themselves, by a stub; see tests/figures."""

    def save(figure: object, path: Path, dpi: int) -> None:
        storage.write_file(path, b"\x89PNG")

    monkeypatch.setattr(svg, "save_png", save)


@pytest.fixture
def without_pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return environment variables for subprocesses whose trainings then draw no pictures."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['matplotlib'] = None\n")
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Fill uninitialised tensors with NaN, so that a value that is never written is noticed."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder of data sets that `tsslbp.data.load` uses, with ``mnist/`` and others."""
    folder = Path(os.environ.get(VARIABLE) or SHARED / "data")
    if not folder.is_dir():
        pytest.skip(f"no data sets: {folder} is no folder (set {VARIABLE})")
    return folder


class Here:
    """A job that runs in this process, in less time than it takes to start another one."""

    def __init__(self, job: jobs.Job) -> None:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with pytest.MonkeyPatch.context() as patch, job.log.open("a") as log:
            patch.setattr(sys, "argv", ["tsslbp", *job.arguments])
            with redirect_stdout(log), redirect_stderr(log):
                self.status = cli.main(job.arguments)

    def poll(self) -> int:
        return self.status

    def terminate(self) -> None:
        pass

    kill = terminate


@pytest.fixture
def jobs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the jobs of this machine in this process, one after the other."""
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(jobs.Local, "start", lambda local, job: Here(job))


def pack_idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes(), mtime=0)


@dataclass
class Tiny:
    """A data set of 7 training and 3 test images of 5 x 4 pixels, as arrays and as files."""

    arrays: Arrays
    files: dict[str, bytes]

    def entry(self, url: str = "http://127.0.0.1/") -> Entry:
        sums = {name: hashlib.md5(content).hexdigest() for name, content in self.files.items()}
        known = catalogue.find("mnist")
        return replace(known, name="tiny", folders=("tiny",), url=url, md5=sums)

    def write(self, folder: Path, **changed: bytes) -> Path:
        (folder / "tiny").mkdir(parents=True)
        for name, content in (self.files | changed).items():
            (folder / "tiny" / name).write_bytes(content)
        return folder


@pytest.fixture
def make_tiny() -> Callable[..., Tiny]:
    """Return a function that builds the tiny data set, with the arrays in `changed` replaced."""

    def make(changed: Arrays | None = None) -> Tiny:
        rng = np.random.default_rng(0)
        arrays = {
            idx.TRAIN_IMAGES: rng.integers(0, 256, (7, 5, 4), dtype=np.uint8),
            idx.TRAIN_LABELS: rng.integers(0, 10, 7, dtype=np.uint8),
            idx.TEST_IMAGES: rng.integers(0, 256, (3, 5, 4), dtype=np.uint8),
            idx.TEST_LABELS: rng.integers(0, 10, 3, dtype=np.uint8),
        } | (changed or {})
        return Tiny(arrays, {name: pack_idx(array) for name, array in arrays.items()})

    return make


@pytest.fixture
def tiny(make_tiny: Callable[..., Tiny]) -> Tiny:
    return make_tiny()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a temporary folder in place of the user's cache; no data folder or proxy is used."""
    folder = tmp_path / "cache"
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(folder / name))
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return folder / "tsslbp"


@dataclass
class Server:
    """The files that a local web server serves, and the paths that were requested from it."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    promised: dict[str, int] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.removeprefix("/")
            state.requests.append(name)
            if name not in state.files:
                self.send_error(404)
                return
            content = state.files[name]
            self.send_response(200)
            self.send_header("Content-Length", str(state.promised.get(name, len(content))))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        state = Server(f"http://127.0.0.1:{web.server_port}/")
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        web.shutdown()
        thread.join()
