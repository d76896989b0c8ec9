"""Tests of every function that writes a file: on a full disk, after a kill, and with leftovers.

`COMMANDS` says which functions a command writes by. A function of the package that writes, but is
in none of them, fails the first test and must be added to one.
"""

import ast
import errno
import importlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.cli.conftest import arrays

import tsslbp
from tsslbp import analysis, cli, figures, storage
from tsslbp.cli import drawing, exchange, microscope, printing
from tsslbp.data import frame_cache
from tsslbp.data.events.recording import Events, EventSet
from tsslbp.errors import Error
from tsslbp.experiment import Binning
from tsslbp.kernels import compiled
from tsslbp.report import blocks
from tsslbp.report.sections import TITLE
from tsslbp.run import Run
from tsslbp.run import run as run_module
from tsslbp.studies import jobs
from tsslbp.training import trackers

PACKAGE = Path(tsslbp.__file__).parent
output = importlib.import_module("tsslbp.report.output")  # which the package does not export
WRITING = {"write_file", "replace_file", "append_lines"}
CODE = """
from torch import nn
from tsslbp.layers import LIF, Linear

def make(input_shape, classes, settings):
    first = LIF(time_steps=settings.time_steps)
    return nn.Sequential(nn.Flatten(1), Linear(64, 3), first, Linear(3, classes), LIF())
"""
RECIPE = """
data = "{}/mine.npz"
network = "3"
time_steps = 2
validation_images = 12
epochs = 1
batch_size = 64
"""
SPACE = """
trials = 1

[parameters]
learning_rate = [0.001, 0.01]
"""


@dataclass(frozen=True)
class Command:
    """A call, the functions that write in it, and the calls before it, which are not disturbed.

    Of a command that starts others, only its own writes count.
    """

    call: Callable[[], int]
    writers: set[str]
    before: tuple[Callable[[], int], ...] = ()


def calls(*arguments: str) -> Callable[[], int]:
    return lambda: cli.main(arguments)


def function(call: Callable[[], object]) -> Callable[[], int]:
    """Return a function as a command, which prints in one line why it fails."""

    def as_command() -> int:
        try:
            call()
        except Error as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        return 0

    return as_command


def page(own: Path) -> blocks.Page:
    """Return a page with a drawn figure, one of a run's own in the file `own`, and a table."""
    shown = blocks.Figure("drawn", "a", "b", svg="<svg/>", drawing=figures.style.new_figure(1))
    held = blocks.Figure("own", "a", "b", image=b"<svg/>", file=own)
    section = blocks.Section("a", "A", [shown, held, blocks.Table("b", ("c",), (("d",),))])
    return blocks.Page(f"{TITLE}a", "b", [], [], "c", [section])


def own_figures() -> None:
    for name in ("own.svg", "own.pdf"):
        (Path("run") / name).write_bytes(b"<svg/>")


def animation() -> None:
    moving = figures.sample.animation(np.ones((2, 2, 3, 3)), "a")
    figures.svg.save_gif(moving, Path("a.gif"))


def recordings(item: int) -> Iterator[tuple[int, Events]]:
    x, t = np.arange(3, dtype=np.int16), np.arange(3)
    yield item % 2, Events(x, x, t, (t % 2).astype(np.uint8))


def frames() -> None:
    source = EventSet("toy", 4, 4, 2, range(2), range(2, 4), recordings, "first")
    frame_cache.load(source, 2, Binning())


def two_epochs() -> None:
    run = Run.open(Path("run"))
    run.append_epoch({"epoch": 2})


def mlflow() -> None:
    info = SimpleNamespace(info=SimpleNamespace(run_id="0123456789"))
    client = SimpleNamespace(
        get_experiment_by_name=lambda _: SimpleNamespace(experiment_id="0"),
        create_run=lambda *_, **__: info,
        log_param=lambda *_: None,
        update_run=lambda *_, **__: None,
    )
    trackers._mlflow_run(client, Run.open(Path("run")))


def figures_of(name: str) -> str:
    return f"figures/svg.py:{name}"


RUN = "run/run.py:Run."
JSON, SAVED = "run/json_files.py:write_json", "experiment/recipe.py:save"
PAGE = "report/output.py:write"
RECORDS = ("append_epoch", "truncate_epochs", "save_steps", "save_checkpoint")
TRAINING = {SAVED, JSON, *(f"{RUN}{name}" for name in RECORDS)}
A_RUN = calls("train", "mine.toml", "--out", "run", "--resume")
COMPARE = "compare", "mine.toml", "--rules", "TSSLBP", "--seeds", "1"
SWEEP = "sweep", "mine.toml", "--space", "space.toml", "--out", "s"
COMMANDS = {
    "train": Command(
        calls("train", "own.toml", "--trust-code", "--out", "run", "--resume"),
        TRAINING | {"experiment/recipe.py:_put", figures_of("save_png")},
    ),
    "resume": Command(
        calls("resume", "run", "--epochs", "2"), TRAINING | {figures_of("save_png")}, (A_RUN,)
    ),
    "records of an epoch that was broken off": Command(
        function(lambda: Run.open(Path("run")).truncate_epochs(1)),
        {f"{RUN}truncate_epochs"},
        (A_RUN, function(two_epochs)),
    ),
    "trials": Command(calls("trials", "mine.toml", "--seeds", "1", "--out", "t"), {SAVED}),
    "compare": Command(
        calls(*COMPARE, "--learning-rates", "0.001", "--out", "c"),
        {SAVED, JSON, PAGE},
    ),
    "sweep in a database": Command(calls(*SWEEP), {SAVED, JSON}),
    "sweep in a journal": Command(
        calls(*SWEEP, "--storage", "study.log"),
        {SAVED, JSON, "studies/optuna_study.py:_Journal.append_logs"},
    ),
    "report": Command(
        calls("report", "run", "-o", "a.html", "--format", "pdf", "--csv"),
        {PAGE, "report/output.py:_write_figure", "report/output.py:_write_tables"}
        | {figures_of("save")},
        (A_RUN, function(own_figures)),
    ),
    "convert": Command(
        calls("convert", "mine.toml", "--time-steps", "1", "--out", "run", "--resume"), TRAINING
    ),
    "draw": Command(
        calls("draw", "run", "--format", "png"),
        {figures_of("save_svg"), figures_of("save")},
        (A_RUN,),
    ),
    "data show": Command(function(animation), {figures_of("save_gif")}),
    "microscope": Command(
        calls("microscope", "mine.toml", "--rules", "TSSLBP", "--out", "m.svg"),
        {"cli/microscope.py:microscope", figures_of("save_svg")},
    ),
    "export to NIR": Command(
        calls("export", "run", "--to", "nir", "-o", "net.nir"),
        {"cli/exchange.py:export"},
        (A_RUN,),
    ),
    "export to ONNX": Command(
        calls("export", "run", "--to", "onnx", "-o", "net.onnx"),
        {"cli/exchange.py:export"},
        (A_RUN,),
    ),
    "cache of frames": Command(function(frames), {"data/frame_cache.py:load"}),
    "cache of kernels": Command(
        function(lambda: compiled._Files(Path(), "f", "here", "now").save("key", "code")),
        {"kernels/compiled.py:_Files.save"},
    ),
    "Weights & Biases": Command(
        function(lambda: trackers._wandb_id(Path("wandb-id"))),
        {"training/trackers.py:_wandb_id"},
    ),
    "MLflow": Command(function(mlflow), {"training/trackers.py:_mlflow_run"}, (A_RUN,)),
}


@dataclass
class Disk:
    """A stand-in for the disk: from the `at`-th on, writes are torn by a kill or lack of space."""

    at: int = 0  # 0: no write is torn
    kill: bool = False
    is_calm: bool = False  # while true, no write is torn or recorded
    sites: list[str] = field(default_factory=list)
    whole: dict[Path, bytes] = field(default_factory=dict)  # what has been written completely

    def put(self, temporary: Path) -> None:
        content = temporary.read_bytes()
        name = temporary.name[1:].removesuffix(storage._TEMPORARY_SUFFIX).rpartition(".")[0]
        if self._is_torn():
            temporary.write_bytes(content[: len(content) // 2])
            if self.kill:  # which leaves temporary files
                left = temporary.with_name(f".{name}.1-dead{storage._TEMPORARY_SUFFIX}")
                shutil.copy(temporary, left)
            self._fail()
        self.whole[temporary.with_name(name).resolve()] = content

    def append(self, file: FileIO, lines: bytes) -> None:
        if self._is_torn():
            file.write(lines[: len(lines) // 2])
            self._fail()
        file.write(lines)
        path = Path(os.fsdecode(file.name)).resolve()
        self.whole[path] = path.read_bytes()

    def _is_torn(self) -> bool:
        if self.is_calm:
            return False
        self.sites.append(site())
        return 0 < self.at <= len(self.sites)

    def _fail(self) -> None:
        if self.kill:
            raise Killed
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Killed(BaseException):
    pass


def site() -> str:
    """Return the function of the package that is writing now."""
    frame: Any = sys._getframe()
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE) and path.name != "storage.py":
            name = frame.f_code.co_qualname.partition(".<locals>")[0]
            return f"{path.relative_to(PACKAGE).as_posix()}:{name}"
        frame = frame.f_back
    raise AssertionError


def functions_that(is_meant: Callable[[ast.Call], bool]) -> set[str]:
    """Return the functions and methods of the package that contain such a call."""
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        for inside, call in _calls(ast.parse(path.read_text(encoding="utf-8")), ()):
            if path.name != "storage.py" and is_meant(call):
                found.add(f"{path.relative_to(PACKAGE).as_posix()}:{'.'.join(inside)}")
    return found


def _calls(node: ast.AST, inside: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], ast.Call]]:
    if isinstance(node, ast.Call):
        yield inside, node
    is_named = isinstance(node, ast.ClassDef) or (
        isinstance(node, ast.FunctionDef) and not (inside and inside[-1][:1].islower())
    )
    inner = (*inside, node.name) if is_named else inside
    for child in ast.iter_child_nodes(node):
        yield from _calls(child, inner)


def test_every_function_that_writes_is_in_a_command() -> None:
    def is_meant(call: ast.Call) -> bool:
        return isinstance(call.func, ast.Name) and call.func.id in WRITING

    assert functions_that(is_meant) == set().union(*(one.writers for one in COMMANDS.values()))


OTHERWISE = {
    "studies/jobs.py:_log": "what a command that was started prints, line by line",
    "data/frame_cache.py:_write": "the file that replace_file puts in its place",
    "figures/svg.py:svg_text": "in memory",
    "figures/svg.py:save_png": "in memory",
    "figures/svg.py:save": "in memory",
    "run/run.py:Run.save_steps": "in memory",
}
METHODS = {"write_text", "write_bytes", "savez", "savefig", "print_svg", "copyfileobj", "copy2"}
METHODS |= {"copyfile", "copytree", "rename", "urlretrieve", "extractall", "symlink_to"}


def test_nothing_is_written_in_another_way() -> None:
    """Only the listed functions, which are harmless, write in ways that a kill could tear."""

    def is_meant(call: ast.Call) -> bool:
        function = call.func
        name = getattr(function, "attr", getattr(function, "id", ""))
        texts = [one.value for one in call.args if isinstance(one, ast.Constant)]
        texts += [one.value.value for one in call.keywords if isinstance(one.value, ast.Constant)]
        modes = [text for text in texts if isinstance(text, str) and len(text) <= 3]
        opens = name in ("open", "fdopen", "NamedTemporaryFile")
        return name in METHODS or (opens and any(set(mode) & set("wax+") for mode in modes))

    assert functions_that(is_meant) == set(OTHERWISE)


def snapshot(folder: Path) -> dict[Path, bytes]:
    """Return the files and their contents, except locks, logs, databases and leftovers of kills."""
    return {
        path.resolve(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
        and path.suffix not in (".lock", storage._TEMPORARY_SUFFIX, ".db")
        and path.name not in (".lock", "log.txt")
    }


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that makes a folder in which the calls before a command have been made."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            folder = made[name] = tmp_path_factory.mktemp(name)
            recipe = RECIPE.format(folder)
            (folder / "mine.toml").write_text(recipe)
            (folder / "own.toml").write_text(recipe.replace('"3"', '"net.py:make"'))
            (folder / "net.py").write_text(CODE)
            (folder / "space.toml").write_text(SPACE)
            np.savez(folder / "mine.npz", **arrays())
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                for call in COMMANDS[name].before:
                    assert call() == 0
        return made[name]

    return get


@pytest.fixture(autouse=True)
def no_pixels() -> None:
    """Override the shared fixture: pictures are empty here, and written as usual."""


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Make pictures empty, and run commands that are started in this process, undisturbed."""

    def empty(*_: object) -> Any:
        return figures.style.new_figure(1)

    def start(_: jobs.Local, job: jobs.Job) -> Any:
        disk = getattr(storage._put_on_disk, "__self__", Disk())
        disk.is_calm = True
        try:
            status = cli.main(job.arguments)
        finally:
            disk.is_calm = False
        return SimpleNamespace(poll=lambda: status, terminate=lambda: None, kill=lambda: None)

    monkeypatch.setattr(compiled._Cache, "save_overload", lambda *_: None)  # its writes would vary
    monkeypatch.setattr(run_module, "describe_environment", dict)
    monkeypatch.setattr(jobs.Local, "start", start)
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(figures.run, "run_picture", empty)
    monkeypatch.setattr(drawing, "figures_of_run", lambda *_: {"training": empty()})
    monkeypatch.setattr(drawing, "figures_of_network", lambda *_: {})
    monkeypatch.setattr(microscope, "_figure", empty)
    monkeypatch.setattr(analysis.microscope, "examine", lambda *_, **__: [])
    monkeypatch.setattr(printing, "print_microscope", lambda *_: None)
    monkeypatch.setattr(output, "compose", lambda *_: page(Path("run/own.svg")))
    facts = [SimpleNamespace(key="input", value="images")]
    model = SimpleNamespace(SerializeToString=lambda: b"onnx", metadata_props=facts)
    monkeypatch.setattr(exchange.exports, "to_onnx", lambda *_, **__: model)
    monkeypatch.setenv("TSSLBP_CACHE", "cache")


@contextmanager
def disturbed(disk: Disk) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "_put_on_disk", disk.put)
        patch.setattr(storage, "_append", disk.append)
        yield


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_every_write_may_fail(
    name: str,
    prepared: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whichever write fails, by a full disk or a kill, old data survive and a new call succeeds."""
    command, source = COMMANDS[name], prepared(name)

    def fresh(at: int) -> Path:
        work = tmp_path / str(at) / "work"
        shutil.copytree(source, work)
        monkeypatch.chdir(work)
        return work

    work, calm = fresh(0), Disk()
    with disturbed(calm):
        assert command.call() == 0
    assert set(calm.sites) == command.writers
    expected = {path.relative_to(work.resolve()) for path in snapshot(work)}
    for at in range(1, len(calm.sites) + 1):
        work = fresh(at)
        for kill in (False, True):
            before, disk = snapshot(work), Disk(at, kill)
            with disturbed(disk):
                end = ended(command, capsys)
            assert (end is None) == (kill and len(disk.sites) == at), (at, end)
            known = before | disk.whole
            for path, content in snapshot(work).items():
                whole = known.get(path, b"")  # a file that other programs open is empty at first
                is_torn = kill and path.suffix in (".jsonl", ".log")
                assert content.startswith(whole) if is_torn else content == whole, path
            if not kill:
                assert not list(work.rglob(f"*{storage._TEMPORARY_SUFFIX}"))
        assert command.call() == 0
        assert {path.relative_to(work.resolve()) for path in snapshot(work)} == expected
        for run in sorted(work.rglob("config.toml")):
            assert Run.open(run.parent).epochs()


def ended(command: Command, capsys: pytest.CaptureFixture[str]) -> int | None:
    """Return the exit status of a disturbed command, or None if it was killed."""
    capsys.readouterr()
    try:
        code = command.call()
    except Killed:
        return None
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert code == 0 or (error.startswith("error: ") and "disk is full" in error), error
    return code
