"""Tests of the run folder: round trips of every file, kills, full disks, and foreign files."""

from __future__ import annotations

import ast
import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.conftest import disk_of

from tsslbp.errors import InvalidInput, RunError
from tsslbp.experiment import Experiment
from tsslbp.rules import TSSLBP
from tsslbp.run import CHECKPOINTS, Run
from tsslbp.run import run as run_module

EXPERIMENT = Experiment(
    description="a test",
    data="digits",
    network="4C3-P2-10",
    padding=(1,),
    weight_scale={"conv": 5.0, "linear": 1.0},
    rule=TSSLBP.published(timing_max=4.0),
    seed=3,
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "runs" / "first", EXPERIMENT)


def temporary_files(run: Run) -> list[Path]:
    return list(run.folder.rglob("*.tsslbp-tmp"))


def checkpoint_path(run: Run, name: str = "last") -> Path:
    return run.folder / "checkpoints" / f"{name}.safetensors"


# Creating and opening


def test_one_process_at_a_time_holds_a_run(run: Run) -> None:
    lines = [
        "from pathlib import Path",
        "from tsslbp.run import Run",
        f"with Run.open(Path({str(run.folder)!r})).hold(): pass",
    ]
    code = "\n".join(lines)
    command = [sys.executable, "-c", code]
    with run.hold():
        second = subprocess.run(command, capture_output=True, text=True)
    assert f"{run.folder} is in use by another process" in second.stderr
    assert subprocess.run(command).returncode == 0


def test_a_folder_of_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RunError, match=r"other files \(found thesis.tex\)"):
        Run.create(tmp_path, EXPERIMENT)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_opened_run_has_the_experiment_it_was_created_with(run: Run) -> None:
    assert run.experiment == EXPERIMENT
    assert Run.open(run.folder) == run
    assert temporary_files(run) == []


def test_path_of_the_users_data_means_the_same_file_after_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Run.create(Path("here"), Experiment(data="mine.npz", network="10"))
    assert run.experiment.data == str(tmp_path / "mine.npz")
    assert Run.open(Path("here")) == run


def test_a_run_is_never_overwritten(run: Run) -> None:
    with pytest.raises(RunError, match=r"holds a run already \(found config.toml\)"):
        Run.create(run.folder, EXPERIMENT)


@pytest.mark.parametrize("remaining", ["metrics.jsonl", "steps.npz", "checkpoints"])
def test_remains_of_another_run_are_never_mixed_with_a_new_one(run: Run, remaining: str) -> None:
    run.append_epoch({"epoch": 1})
    run.save_steps({"loss": np.zeros(3)})
    run.save_checkpoint("last", {}, {})
    for name in {"config.toml", "metrics.jsonl", "steps.npz"} - {remaining}:
        (run.folder / name).unlink()
    if remaining != "checkpoints":
        checkpoint_path(run).unlink()
    with pytest.raises(RunError, match=f"holds a run already .found {remaining}"):
        Run.create(run.folder, EXPERIMENT)


def test_creation_that_was_killed_can_be_repeated(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "environment.json").write_text('{"tssl')
    with pytest.raises(RunError, match="not a run folder"):
        Run.open(tmp_path)
    assert Run.create(tmp_path, EXPERIMENT).environment["python"]


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write the folder"):
        Run.create(tmp_path / "file" / "run", EXPERIMENT)


def test_open_refuses_what_is_no_run(tmp_path: Path) -> None:
    for folder, why in ((tmp_path, "contains no config.toml"), (tmp_path / "a", "does not exist")):
        with pytest.raises(RunError, match=f"not a run folder: it {why}"):
            Run.open(folder)


def test_open_names_what_is_wrong_with_the_configuration(run: Run) -> None:
    with (run.folder / "config.toml").open("a") as file:
        file.write("\nbatch_sice = 3\n")
    with pytest.raises(RunError, match=r"config\.toml.*batch_sice"):
        Run.open(run.folder)


# Environment


def test_environment_describes_this_machine(run: Run) -> None:
    environment = run.environment
    assert environment["torch"] == torch.__version__
    assert environment["numpy"] == np.__version__
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert environment["cores"] == os.cpu_count()
    assert environment["threads"] == torch.get_num_threads()
    expected = {"tsslbp", "commit", "dirty", "numba", "platform", "cpu", "command"}
    assert expected < environment.keys()


def test_each_resume_is_added_to_the_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run.environment
    for seed in (1, 2):
        monkeypatch.setattr(sys, "argv", ["/somewhere/bin/tsslbp", "train", "my data", str(seed)])
        Run.open(run.folder).record_resume()
    resumed = run.environment["resumed"]
    assert [entry["command"] for entry in resumed] == [
        f"tsslbp train 'my data' {seed}" for seed in (1, 2)
    ]
    assert {key: value for key, value in run.environment.items() if key != "resumed"} == before


@pytest.mark.parametrize("content", [b"", b'{"tsslbp": "0.1', b"[]", b"\xff\xfe"])
def test_damaged_environment(run: Run, content: bytes) -> None:
    (run.folder / "environment.json").write_bytes(content)
    with pytest.raises(RunError, match=r"cannot read .*environment\.json"):
        _ = run.environment


# Metrics


def test_epochs_round_trip_to_the_last_bit(run: Run) -> None:
    assert run.epochs() == []
    records = [
        {"epoch": 1, "loss": 0.1 + 0.2, "firing_rate": [0.1, 1e-300], "validation_accuracy": None},
        {"epoch": 2, "loss": 1 / 3, "firing_rate": [], "note": "naïve\n"},
    ]
    for record in records:
        run.append_epoch(record)
    assert Run.open(run.folder).epochs() == records
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    assert lines[0].startswith('{"epoch":1,"loss":0.30000000000000004,')
    assert len(lines) == 2


def test_metrics_are_strict_json(run: Run) -> None:
    run.append_epoch({"epoch": 1, "loss": float("nan"), "norm": (float("inf"), 2.0)})
    (line,) = (run.folder / "metrics.jsonl").read_text().splitlines()
    assert line == '{"epoch":1,"loss":null,"norm":[null,2.0]}'


@pytest.mark.parametrize("record", [{}, {"epoch": "1"}, {"epoch": True}, {"epoch": 1.0}])
def test_record_without_an_epoch(run: Run, record: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="needs an integer 'epoch'"):
        run.append_epoch(record)
    assert run.epochs() == []


def test_record_that_json_cannot_hold(run: Run) -> None:
    with pytest.raises(InvalidInput, match="cannot be written as JSON"):
        run.append_epoch({"epoch": 1, "loss": torch.tensor(1.0)})
    assert run.epochs() == []


def test_line_torn_anywhere_is_left_out_and_spoils_no_later_one(run: Run) -> None:
    path = run.folder / "metrics.jsonl"
    run.append_epoch({"epoch": 1, "loss": 1.5})
    whole = path.read_bytes()
    line = b'{"epoch":2,"loss":0.5}'
    for length in range(len(line)):
        path.write_bytes(whole + line[:length])
        assert [record["epoch"] for record in run.epochs()] == [1]
        run.append_epoch({"epoch": 2, "loss": 0.25})
        assert run.epochs() == [{"epoch": 1, "loss": 1.5}, {"epoch": 2, "loss": 0.25}]


@pytest.mark.parametrize("torn", [b"\0\0\0\0", b"\xff\xfe{", b"[1]", b'{"loss":1}', b"17"])
def test_line_that_is_no_record_is_left_out(run: Run, torn: bytes) -> None:
    path = run.folder / "metrics.jsonl"
    path.write_bytes(b'{"epoch":1}\n' + torn + b'\n{"epoch":2}')
    assert run.epochs() == [{"epoch": 1}, {"epoch": 2}]


def test_last_of_repeated_epochs_counts_and_epochs_are_in_order(run: Run) -> None:
    for epoch, loss in [(1, 3.0), (3, 1.0), (2, 2.0), (2, 0.5)]:
        run.append_epoch({"epoch": epoch, "loss": loss})
    assert [(record["epoch"], record["loss"]) for record in run.epochs()] == [
        (1, 3.0),
        (2, 0.5),
        (3, 1.0),
    ]


def test_truncating_repairs_the_file(run: Run) -> None:
    path = run.folder / "metrics.jsonl"
    path.write_bytes(b'{"epoch":1}\n{"epo\n{"epoch":2}\n{"epoch":2,"loss":1.0}\n{"epoch":3}\n{"e')
    run.truncate_epochs(2)
    assert path.read_bytes() == b'{"epoch":1}\n{"epoch":2,"loss":1.0}\n'
    run.truncate_epochs(0)
    assert path.read_bytes() == b""
    run.append_epoch({"epoch": 1})
    assert run.epochs() == [{"epoch": 1}]


def test_epoch_that_does_not_fit_the_disk(run: Run) -> None:
    run.append_epoch({"epoch": 1})
    with disk_of(20), pytest.raises(RunError, match=r"metrics\.jsonl: .*the disk is full"):
        run.append_epoch({"epoch": 2, "loss": 0.5})
    assert run.epochs() == [{"epoch": 1}]
    run.append_epoch({"epoch": 2, "loss": 0.25})
    assert run.epochs() == [{"epoch": 1}, {"epoch": 2, "loss": 0.25}]


# Steps


def test_steps_round_trip(run: Run) -> None:
    assert run.steps() == {}
    arrays = {
        "loss": np.array([0.1, np.nan, np.inf]),
        "correct": np.arange(3),
        "firing_rate": np.zeros((0, 4), np.float32),
        "warm": np.array([True, False]),
    }
    run.save_steps(arrays)
    loaded = Run.open(run.folder).steps()
    assert list(loaded) == list(arrays)
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)


@pytest.mark.parametrize("value", [np.array([None]), np.array([{}, 1.0], dtype=object), [1.0]])
def test_steps_hold_numbers_only(run: Run, value: Any) -> None:
    with pytest.raises(InvalidInput, match="'loss' must be an array of numbers"):
        run.save_steps({"loss": value})
    assert run.steps() == {}


def test_object_array_in_the_steps_is_never_unpickled(run: Run, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    np.savez(run.folder / "steps.npz", loss=np.array([Attack(trap)], dtype=object))
    with pytest.raises(RunError, match=r"cannot read .*steps\.npz"):
        run.steps()
    assert not trap.exists()


def test_damaged_steps(run: Run) -> None:
    run.save_steps({"loss": np.arange(100.0)})
    path = run.folder / "steps.npz"
    content = path.read_bytes()
    damaged = [content[:length] for length in range(0, len(content), 50)]
    for bad in damaged:
        path.write_bytes(bad)
        with pytest.raises(RunError, match="damaged or truncated"):
            run.steps()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("loss.txt", "text")
    with pytest.raises(RunError, match="not an array"):
        run.steps()


@pytest.mark.parametrize("flip", [0x01, 0x20, 0xFF])
def test_one_damaged_byte_in_the_steps_never_changes_a_value(run: Run, flip: int) -> None:
    loss = np.arange(5.0)
    run.save_steps({"loss": loss})
    path = run.folder / "steps.npz"
    content = path.read_bytes()
    refused = 0
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= flip
        path.write_bytes(damaged)
        try:
            loaded = run.steps()
        except RunError:
            refused += 1
        else:
            assert not loaded or np.array_equal(loaded["loss"], loss)
    assert refused > len(content) / 2


# Checkpoints


def test_checkpoint_round_trip(run: Run) -> None:
    shared = torch.randn(3, 4)
    tensors = {
        "float32": torch.randn(2, 3),
        "float64": torch.randn(4, dtype=torch.float64) * 1e-300,
        "int64": torch.tensor([2**62 + 1, -1]),
        "bool": torch.tensor([True, False, True]),
        "bytes": torch.arange(256, dtype=torch.uint8),
        "scalar": torch.tensor(7),
        "float64 scalar": torch.tensor(1 / 3, dtype=torch.float64),
        "empty": torch.zeros(0, 3),
        "not finite": torch.tensor([float("nan"), float("inf"), -0.0]),
        "shared": shared,
        "transposed": shared.T,
        "every second": shared[:, ::2],
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    state = {"epoch": 3, "loss": 0.1 + 0.2, "best": None, "steps": [1, 2], "text": "naïve"}
    run.save_checkpoint("last", tensors, state)
    loaded, loaded_state = Run.open(run.folder).load_checkpoint("last")
    assert loaded_state == state
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert loaded[name].shape == tensor.shape
        assert loaded[name].is_contiguous()
        assert not loaded[name].requires_grad
        torch.testing.assert_close(loaded[name], tensor.detach(), rtol=0, atol=0, equal_nan=True)


def test_equal_checkpoints_are_equal_files(run: Run) -> None:
    for name, order in (("last", 1), ("best-test", -1)):
        tensors = {key: torch.arange(3.0) for key in "abc"[::order]}
        run.save_checkpoint(name, tensors, {"epoch": 1})
    assert checkpoint_path(run, "last").read_bytes() == (
        checkpoint_path(run, "best-test").read_bytes()
    )


def test_loaded_tensors_do_not_change_with_the_file(run: Run) -> None:
    run.save_checkpoint("last", {"weight": torch.zeros(1000)}, {})
    weight = run.load_checkpoint("last")[0]["weight"]
    with checkpoint_path(run).open("rb+") as file:
        file.seek(-4000, os.SEEK_END)
        file.write(b"\xff" * 4000)
    assert torch.equal(weight, torch.zeros(1000))


def test_a_state_without_its_tensors(run: Run) -> None:
    run.save_checkpoint("last", {"weight": torch.zeros(1000)}, {"epoch": 3, "best": [0.5]})
    assert run.checkpoint_state("last") == run.load_checkpoint("last")[1]
    with pytest.raises(RunError, match="no checkpoint 'best-test'; saved: last"):
        run.checkpoint_state("best-test")


def test_has_checkpoint(run: Run) -> None:
    assert [run.has_checkpoint(name) for name in CHECKPOINTS] == [False] * 4
    run.save_checkpoint("best-test", {}, {"epoch": 1})
    assert [run.has_checkpoint(name) for name in CHECKPOINTS] == [False, False, True, False]
    with pytest.raises(RunError, match="no checkpoint 'last'; saved: best-test"):
        run.load_checkpoint("last")


@pytest.mark.parametrize("name", ["best-tset", "../last", ""])
def test_unknown_checkpoint(run: Run, name: str) -> None:
    with pytest.raises(InvalidInput, match="unknown checkpoint"):
        run.has_checkpoint(name)
    with pytest.raises(InvalidInput, match="unknown checkpoint"):
        run.save_checkpoint(name, {}, {})
    with pytest.raises(InvalidInput, match="unknown checkpoint"):
        run.load_checkpoint(name)


@pytest.mark.parametrize(
    ("tensors", "state"),
    [
        ({}, {"best": float("-inf")}),
        ({}, {"best": torch.tensor(1.0)}),
        ({"weight": torch.zeros(1, dtype=torch.complex128)}, {}),
    ],
)
def test_contents_that_a_checkpoint_cannot_hold(
    run: Run, tensors: dict[str, torch.Tensor], state: dict[str, Any]
) -> None:
    run.save_checkpoint("last", {"weight": torch.ones(1)}, {"epoch": 1})
    with pytest.raises(InvalidInput, match="checkpoint 'last' cannot be stored"):
        run.save_checkpoint("last", tensors, state)
    assert run.load_checkpoint("last")[1] == {"epoch": 1}


class Attack:
    """Object that creates the file `trap` when it is unpickled."""

    def __init__(self, trap: Path) -> None:
        self.trap = trap

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trap,)


@pytest.mark.parametrize("writer", ["pickle", "torch.save", "torch.save, old"])
def test_checkpoint_that_would_run_code_is_refused_unread(
    run: Run, tmp_path: Path, writer: str
) -> None:
    trap = tmp_path / "trap"
    path = checkpoint_path(run)
    if writer == "pickle":
        path.write_bytes(pickle.dumps(Attack(trap)))
    else:
        torch.save(Attack(trap), path, _use_new_zipfile_serialization="old" not in writer)
    with pytest.raises(RunError, match=r"last\.safetensors: .*torch\.save or pickle"):
        run.load_checkpoint("last")
    assert not trap.exists()
    if writer == "pickle":
        pickle.loads(path.read_bytes())
        assert trap.exists(), "unpickling ran no code, so the file was no attack"


def test_run_never_reaches_for_pickle() -> None:
    tree = ast.parse(Path(run_module.__file__).read_text())
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    imports = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    assert {"safe_open", "torch"} <= imports
    assert not any("pickle" in name for name in imports | names)
    loaders = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    calls = {ast.unparse(node) for node in loaders}
    assert not {"torch.load", "torch.save", "np.load"} & calls


def test_checkpoint_truncated_anywhere(run: Run) -> None:
    run.save_checkpoint("last", {"weight": torch.arange(6.0)}, {"epoch": 1})
    path = checkpoint_path(run)
    content = path.read_bytes()
    for length in range(1, len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(RunError, match=r"last\.safetensors: it is truncated, damaged"):
            run.load_checkpoint("last")
    path.write_bytes(b"")
    with pytest.raises(RunError, match=r"last\.safetensors: the file is empty"):
        run.load_checkpoint("last")


@pytest.mark.parametrize("flip", [0x01, 0x20, 0xFF])
def test_one_damaged_byte_in_a_checkpoint_is_noticed(run: Run, flip: int) -> None:
    """Digests reveal a change of any byte except white space, on which nothing depends."""
    tensors, state = {"a": torch.arange(6.0), "b": torch.tensor([True])}, {"epoch": 1, "best": 0.5}
    run.save_checkpoint("last", tensors, state)
    path = checkpoint_path(run)
    content, lines = path.read_bytes(), set[str]()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= flip
        path.write_bytes(damaged)
        try:
            loaded, found = run.load_checkpoint("last")
        except RunError as error:
            lines.add(str(error))
        else:
            assert content[position : position + 1].isspace()
            assert found == state and all(torch.equal(loaded[key], tensors[key]) for key in tensors)
    assert all("last.safetensors: " in line and "\n" not in line for line in lines)


@pytest.mark.parametrize("kind", ["state", "swapped", "appended"])
def test_a_checkpoint_that_was_changed_is_noticed(run: Run, kind: str) -> None:
    """A changed state is noticed even when it is read alone, without any tensor."""
    run.save_checkpoint("last", {"a": torch.zeros(4), "b": torch.ones(4)}, {"epoch": 1234})
    path = checkpoint_path(run)
    content = path.read_bytes()
    changed = {
        "state": content.replace(b"1234", b"1243"),
        "swapped": content[:-32] + content[-16:] + content[-32:-16],
        "appended": content + bytes(16),
    }
    path.write_bytes(changed[kind])
    with pytest.raises(RunError, match=r"last\.safetensors: it is truncated, damaged, or changed"):
        run.load_checkpoint("last")
    if kind == "state":
        with pytest.raises(RunError, match="the digest of its header does not match"):
            run.checkpoint_state("last")


def test_a_checkpoint_of_an_earlier_version_has_no_digest(run: Run) -> None:
    save_file({"weight": torch.ones(2)}, checkpoint_path(run), {"state": '{"epoch": 3}'})
    tensors, state = run.load_checkpoint("last")
    assert state == run.checkpoint_state("last") == {"epoch": 3}
    assert torch.equal(tensors["weight"], torch.ones(2))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, "written by another program"),
        ({"format": "pt"}, "written by another program"),
        ({"state": "[1]"}, "not a JSON object"),
        ({"state": "{"}, "Expecting"),
    ],
)
def test_safetensors_file_of_another_program(
    run: Run, header: dict[str, str] | None, message: str
) -> None:
    save_file({"weight": torch.ones(2)}, checkpoint_path(run), header)
    with pytest.raises(RunError, match=rf"last\.safetensors: .*{message}"):
        run.load_checkpoint("last")


# Kills and full disks


def test_full_disk_leaves_every_earlier_file(run: Run) -> None:
    run.append_epoch({"epoch": 1})
    run.save_steps({"loss": np.zeros(1)})
    run.save_checkpoint("last", {"weight": torch.ones(1)}, {"epoch": 1})
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    writers: tuple[Callable[[], None], ...] = (
        lambda: run.save_checkpoint("last", {"weight": torch.ones(50_000)}, {"epoch": 2}),
        lambda: run.save_checkpoint("best-test", {"weight": torch.ones(50_000)}, {}),
        lambda: run.save_steps({"loss": np.zeros(1000)}),
        lambda: run.truncate_epochs(1),
        run.record_resume,
    )
    with disk_of(10):
        for write in writers:
            with pytest.raises(RunError, match=r"cannot write .*the disk is full") as caught:
                write()
            path = Path(str(caught.value).removeprefix("cannot write ").partition(":")[0])
            assert str(caught.value).endswith("the earlier contents are kept") == path.exists()
    after = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    assert after == before


def test_full_disk_at_creation_leaves_no_run(tmp_path: Path) -> None:
    with disk_of(10), pytest.raises(RunError, match="the disk is full"):
        Run.create(tmp_path / "run", EXPERIMENT)
    assert list(tmp_path.iterdir()) == []
    assert Run.create(tmp_path / "run", EXPERIMENT).epochs() == []


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_full_disk_noticed_late(run: Run, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    run.save_checkpoint("last", {"weight": torch.ones(1)}, {"epoch": 1})

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, failing, refuse)
    with pytest.raises(RunError, match="No space left on device"):
        run.save_checkpoint("last", {"weight": torch.zeros(1)}, {"epoch": 2})
    assert run.load_checkpoint("last")[1] == {"epoch": 1}
    assert temporary_files(run) == []


def test_contents_reach_the_disk_before_they_take_the_old_ones_place(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(descriptor: int) -> None:
        folder = os.path.samestat(os.fstat(descriptor), checkpoint_path(run).parent.stat())
        events.append("sync folder" if folder else "sync file")
        fsync(descriptor)

    def spy_replace(source: Path, target: Path) -> None:
        assert source.parent == target.parent
        events.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    run.save_checkpoint("last", {"weight": torch.ones(1)}, {})
    assert events == ["sync file", "replace", "sync folder"]


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from tsslbp.run import Run

run = Run.open(Path(sys.argv[1]))
replace = os.replace
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
run.save_checkpoint("last", {"weight": torch.zeros(1000)}, {"epoch": 2})
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills a process by a signal")
def test_kill_while_saving_leaves_the_earlier_checkpoint(run: Run) -> None:
    run.save_checkpoint("last", {"weight": torch.ones(1000)}, {"epoch": 1})
    package = Path(run_module.__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", KILLED, str(run.folder)],
        env=os.environ | {"PYTHONPATH": str(package)},
        timeout=120,
    )
    assert result.returncode == -signal.SIGKILL
    assert len(temporary_files(run)) == 1
    tensors, state = run.load_checkpoint("last")
    assert state == {"epoch": 1}
    assert torch.equal(tensors["weight"], torch.ones(1000))
    with run.hold():
        assert temporary_files(run) == []


@pytest.mark.skipif(sys.platform == "win32", reason="locks files")
def test_opening_a_run_leaves_the_files_that_are_being_written(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def open_first(source: Path, target: Path) -> None:
        Run.open(run.folder)
        replace(source, target)

    monkeypatch.setattr(os, "replace", open_first)
    run.save_checkpoint("last", {}, {"epoch": 1})
    assert run.load_checkpoint("last")[1] == {"epoch": 1}


def test_opening_a_run_removes_no_file_of_the_users(run: Run) -> None:
    for path in (run.folder / ".notes.tmp", run.folder / "notes.txt"):
        path.touch()
        Run.open(run.folder)
        assert path.exists()


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder_can_be_read(run: Run) -> None:
    run.append_epoch({"epoch": 1})
    run.save_checkpoint("last", {}, {"epoch": 1})
    folders = (run.folder, run.folder / "checkpoints")
    for folder in folders:
        folder.chmod(0o555)
    try:
        opened = Run.open(run.folder)
        assert opened.epochs() == [{"epoch": 1}]
        assert opened.load_checkpoint("last")[1] == {"epoch": 1}
        with pytest.raises(RunError, match=r"is the folder writable\?"):
            opened.save_checkpoint("last", {}, {"epoch": 2})
        assert opened.load_checkpoint("last")[1] == {"epoch": 1}
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_every_json_file_is_strict(run: Run) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    run.record_resume()
    run.append_epoch({"epoch": 1, "loss": float("-inf")})
    for name in ("environment.json", "metrics.jsonl"):
        assert json.loads((run.folder / name).read_text(), parse_constant=refuse)


def test_divergence(run: Run) -> None:
    assert run.divergence() is None
    run.record_divergence(None)
    run.record_divergence("epoch 1: NaN")
    assert Run.open(run.folder).divergence() == "epoch 1: NaN"
    run.record_divergence(None)
    assert run.divergence() is None
    (run.folder / "diverged.json").write_text("[]")
    with pytest.raises(RunError, match=r"cannot read .*diverged\.json"):
        run.divergence()


def test_cost(run: Run) -> None:
    assert run.cost() is None
    run.record_cost({"epoch": 3, "total": {"neurons": 2}})
    run.record_cost({"epoch": 4})
    assert Run.open(run.folder).cost() == {"epoch": 4}
    (run.folder / "cost.json").write_text("{")
    with pytest.raises(RunError, match=r"cannot read .*cost\.json"):
        run.cost()
