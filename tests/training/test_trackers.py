"""Tests of trackers: they write what the run's records say, once, however often it is resumed."""

import contextlib
import json
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import disk_of

from tsslbp import cli, training
from tsslbp.data import DataSet
from tsslbp.errors import InvalidInput, RunError
from tsslbp.experiment import Experiment
from tsslbp.run import Run
from tsslbp.training import trackers as tracking

EXPERIMENT = Experiment(
    data="toy", network="12", time_steps=3, protocol="published", epochs=3, batch_size=8
)
STEPS = 7  # per epoch: 50 images in batches of 8, the last of 2


def toy() -> DataSet:
    images, labels = torch.rand(60, 1, 4, 4), torch.arange(60) % 2
    return DataSet("toy", images[:50], labels[:50], images[50:], labels[50:], 2)


class Stop:
    """Interrupts the training after a number of steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def on_step(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt

    def on_epoch(self, record: dict[str, Any]) -> None:
        pass


class FullDisk(Stop):
    """From a step on, limits the size of files to that of a tracker's largest file at that time."""

    def __init__(self, folder: Path, steps: int, stack: contextlib.ExitStack) -> None:
        super().__init__(steps)
        self.folder, self.stack = folder, stack

    def on_step(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            files = [*self.folder.rglob("*tfevents*"), *self.folder.rglob("*.db")]
            self.stack.enter_context(disk_of(max(path.stat().st_size for path in files)))


def fit(
    folder: Path,
    *names: str,
    stop: int = 0,
    experiment: Experiment = EXPERIMENT,
    observer: Stop | None = None,
) -> Run:
    """Start or resume a training, and interrupt it after `stop` steps unless that is 0."""
    torch.manual_seed(0)
    there = (folder / "config.toml").exists()
    run = Run.open(folder) if there else Run.create(folder, experiment)
    with (
        contextlib.suppress(KeyboardInterrupt) if stop else contextlib.nullcontext(),
        tracking.trackers(names, run, STEPS, observer or Stop(stop)) as observer,
    ):
        training.fit(run, toy(), observer)
    return run


def points(run: Run) -> dict[str, list[tuple[int, float]]]:
    """Return step and value of every point that TensorBoard shows, by tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in tags}


# Names


def test_unknown_tracker() -> None:
    with pytest.raises(InvalidInput, match=r"'tensorbord' \(did you mean 'tensorboard'"):
        tracking.check(["tensorboard", "tensorbord"])


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_missing_package_is_told_before_the_folder_is_made(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("tensorboard", "torch.utils.tensorboard", "wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, module, None)
    tracking.check([])
    out = str(tmp_path / "run")
    assert cli.main(["train", "digits", "--track", name, "--out", out]) == 2
    error = capsys.readouterr().err
    assert error.endswith(f"pip install 'tsslbp[{name}]'\n") and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_without_trackers_the_observer_is_alone(tmp_path: Path) -> None:
    observer = Stop(0)
    with tracking.trackers([], Run.create(tmp_path / "run", EXPERIMENT), STEPS, observer) as same:
        assert same is observer


def test_tracker_that_cannot_write(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", EXPERIMENT)
    (run.folder / "tensorboard").write_text("a file in the way")
    with pytest.raises(RunError, match="cannot write what --track needs"):
        fit(run.folder, "tensorboard")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_full_disk_under_a_tracker(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The training ends with an error of one line; resumed, it equals an undisturbed one.

    Weights & Biases is left out, since a separate process writes its files.
    """
    pytest.importorskip(name)
    for variable in [key for key in os.environ if key.startswith("MLFLOW_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setattr(tracking, "STEPS_EVERY", 1)
    whole, folder = fit(tmp_path / "whole"), tmp_path / "run"
    with contextlib.ExitStack() as stack, pytest.raises(RunError) as caught:
        fit(folder, name, observer=FullDisk(tmp_path, STEPS + 2, stack))
    message = str(caught.value)
    assert "\n" not in message and ("the disk is full" in message or "disk I/O error" in message)
    assert capfd.readouterr().err == ""
    run = fit(folder, name)
    assert run.epochs()[-1]["test_accuracy"] == whole.epochs()[-1]["test_accuracy"]
    assert run.steps()["loss"].tolist() == whole.steps()["loss"].tolist()


# TensorBoard


def test_tensorboard_of_a_resumed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "STEPS_EVERY", 2)
    fit(tmp_path / "run", "tensorboard", stop=STEPS + 5)
    run = fit(tmp_path / "run", "tensorboard", "tensorboard")
    found = points(run)
    steps, epochs = run.steps(), run.epochs()
    for name in ("loss", "gradient_norm"):
        values = list(enumerate(steps[name].astype(np.float32), 1))[1::2]
        assert found[f"step/{name}"] == values, name
    assert [step for step, _ in found["step/accuracy"]] == list(range(2, 22, 2))
    for tag in ("loss", "train_accuracy", "test_accuracy", "spikes_per_image", "gradient_norm"):
        values = [(STEPS * one["epoch"], np.float32(one[tag])) for one in epochs]
        assert found[f"epoch/{tag}"] == values, tag
    for tag in ("firing_rate/linear1", "warm_up/linear1", "epoch/images_per_second"):
        assert [step for step, _ in found[tag]] == [STEPS, 2 * STEPS, 3 * STEPS], tag
    assert found["firing_rate/linear1"][2][1] == np.float32(epochs[2]["firing_rate"]["linear1"])


def test_tensorboard_shows_the_configuration(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = fit(tmp_path / "run", "tensorboard", experiment=replace(EXPERIMENT, epochs=1))
    events = EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    (text,) = events.Tensors("config/text_summary")
    assert 'network = "12"' in text.tensor_proto.string_val[0].decode()


def test_scalars() -> None:
    record = {
        "epoch": 3,
        "loss": 0.5,
        "note": "text",
        "warm_up": {"conv1": float("nan"), "linear2": 0.25},
        "test_accuracy_by_step": [0.5, 1],
    }
    assert tracking.scalars(record) == {
        "epoch/loss": 0.5,
        "warm_up/linear2": 0.25,
        "test_accuracy_by_step/1": 0.5,
        "test_accuracy_by_step/2": 1.0,
    }


# Weights & Biases


def wandb_records(path: Path) -> Iterator[Any]:
    """Yield the records of a ``.wandb`` file, whose 32 KiB blocks contain parts of records."""
    from wandb.proto import wandb_internal_pb2

    content, record, position = path.read_bytes(), b"", 7
    while position < len(content):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        size, kind = int.from_bytes(content[position + 4 : position + 6], "little"), position + 6
        record += content[position + 7 : position + 7 + size]
        if content[kind] in (1, 4):  # a whole record, or the last part of one
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""
        position += 7 + size


@pytest.mark.slow
def test_wandb_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """An interrupted and resumed run is recorded offline; without an account, `check` refuses."""
    import wandb

    for variable in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    with pytest.raises(InvalidInput, match=r"API key.*WANDB_MODE=offline to record without"):
        tracking.check(["wandb"])
    wandb.teardown()
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "wandb-dir"))
    (tmp_path / "wandb-dir").mkdir()
    monkeypatch.setattr(tracking, "STEPS_EVERY", 2)
    tracking.check(["wandb"])
    fit(tmp_path / "run", "wandb", stop=STEPS + 5)
    run = fit(tmp_path / "run", "wandb")
    wandb.teardown()
    assert capfd.readouterr() == ("", "")
    first, second = sorted(
        (list(wandb_records(path)) for path in tmp_path.glob("wandb-dir/wandb/*run-*/*.wandb")),
        key=lambda records: rows(records)[0]["_step"],
    )
    for records, code in ((first, 1), (second, 0)):
        (made,) = (one.run for one in records if one.HasField("run"))
        assert (made.run_id, made.project, made.display_name) == (
            (run.folder / "wandb-id").read_text(),
            "tsslbp",
            "run",
        )
        config = {one.key: json.loads(one.value_json) for one in made.config.update}
        assert config["network"] == "12" and config["rule"]["name"] == "TSSLBP"
        assert [one.exit.exit_code for one in records if one.HasField("exit")] == [code]
    assert [row["_step"] for row in rows(first)] == [2, 4, 6, 7, 8, 10, 12]
    assert [row["_step"] for row in rows(second)] == [8, 10, 12, 14, 16, 18, 20, 21]
    epochs = run.epochs()
    assert rows(first)[3]["epoch/test_accuracy"] == epochs[0]["test_accuracy"]
    assert rows(second)[3]["epoch/loss"] == epochs[1]["loss"]
    assert rows(second)[-2]["step/loss"] == run.steps()["loss"][19]


def rows(records: list[Any]) -> list[dict[str, Any]]:
    found = []
    for record in records:
        if record.HasField("history"):
            items = record.history.item
            found.append(
                {one.key or "/".join(one.nested_key): json.loads(one.value_json) for one in items}
                | {"_step": record.history.step.num}
            )
    return found


# MLflow


@pytest.mark.slow
def test_mlflow_of_a_resumed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The SQLite file next to the run contains one run, in which each step occurs once."""
    pytest.importorskip("mlflow")
    for variable in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setattr(tracking, "STEPS_EVERY", 2)
    tracking.check(["mlflow"])
    fit(tmp_path / "run", "mlflow", stop=STEPS + 5)
    assert capfd.readouterr() == ("", "")
    id_ = (tmp_path / "run" / "mlflow-id").read_text()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its packages warn about each other
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
        assert client.get_run(id_).info.status == "FAILED"
    capfd.readouterr()
    run = fit(tmp_path / "run", "mlflow")
    assert capfd.readouterr() == ("", "")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        there = client.get_run(id_)
        losses = client.get_metric_history(id_, "step/loss")
        epochs = client.get_metric_history(id_, "epoch/test_accuracy")
        (experiment,) = client.search_experiments(filter_string="name = 'tsslbp'")
        assert len(client.search_runs([experiment.experiment_id])) == 1
    assert (there.info.status, there.info.run_name) == ("FINISHED", "run")
    assert there.data.params["network"] == "12" and there.data.params["rule.name"] == "TSSLBP"
    assert sorted(one.step for one in losses) == list(range(2, 22, 2))
    values = {one.step: one.value for one in epochs}
    assert values == {STEPS * one["epoch"]: one["test_accuracy"] for one in run.epochs()}
