"""Tests of `tsslbp.fit`, which trains a given module like a recipe's network."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tsslbp
from tsslbp import Surrogate, training
from tsslbp.errors import InvalidInput, RunError
from tsslbp.run import Run

from . import nets
from .toy import EXPERIMENT, assert_same_run, seen, toy

SETTINGS = replace(EXPERIMENT, loss="softmax", epochs=2, rule=Surrogate(), tau_m=2.0)


def module(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nets.make((1, 6, 6), 2, SETTINGS)


def test_a_module_is_trained_in_place() -> None:
    mine = module()
    before = mine[0].weight.detach().clone()
    net = tsslbp.fit(mine, toy(), SETTINGS, epochs=4)
    assert net.module is mine and not net.training
    assert not torch.equal(mine[0].weight, before)
    data = toy()
    accuracy = training.evaluate(
        net, training.Split(data.test_images, data.test_labels), (0.0,), (1.0,)
    )[-1]
    assert accuracy > 0.9


def test_records(tmp_path: Path) -> None:
    """The run is like any other; keywords alone suffice, and the module determines the rule."""
    changes = {"validation_images": 12, "batch_size": 8, "loss": "softmax", "learning_rate": 0.01}
    tsslbp.fit(module(), toy(), time_steps=4, epochs=2, out=tmp_path / "run", **changes)
    run = Run.open(tmp_path / "run")
    assert run.experiment.network == "module:Sequential" and run.experiment.data == "toy"
    assert run.experiment.rule == Surrogate() and run.experiment.loss == "softmax"
    assert [list(one["firing_rate"]) for one in run.epochs()] == [["2", "3.body.2"]] * 2
    assert not list(run.folder.glob("*.py"))
    net = tsslbp.load(run.folder, "last", module=module(5))
    data = toy()
    test = training.Split(data.test_images, data.test_labels)
    assert training.evaluate(net, test, (0.0,), (1.0,))[-1] == run.epochs()[-1]["test_accuracy"]
    with pytest.raises(InvalidInput, match=r"module:Sequential.*module=\.\.\."):
        tsslbp.load(run.folder, trust_code=True)
    wider = nets.make((1, 6, 6), 2, SETTINGS, width=7)
    with pytest.raises(RunError, match="another network than 'the module'"):
        tsslbp.load(run.folder, module=wider)


def test_progress_is_shown_and_the_observer_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []

    class Watch:
        def on_step(self, *_: object) -> None:
            pass

        def on_epoch(self, record: dict[str, Any]) -> None:
            seen.append(record["epoch"])

    tsslbp.fit(module(), toy(), SETTINGS, observer=Watch())
    assert capsys.readouterr().out == ""
    tsslbp.fit(module(), toy(), SETTINGS, observer=Watch(), progress=True)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["epoch", "loss", "train"]
    assert [line.split()[0] for line in lines] == ["1/2", "2/2"]
    assert seen == [1, 2] * 2


def test_progress_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook shows the bar in a widget, and a line of output for each epoch."""
    widgets = pytest.importorskip("ipywidgets")
    import IPython.display

    shown: list[Any] = []
    monkeypatch.setattr(IPython.display, "display", shown.append)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    tsslbp.fit(module(), toy(), SETTINGS, progress=True)
    assert sum(isinstance(one, widgets.Output) for one in shown) == 1
    texts = [one.text for one in shown if hasattr(one, "text")]
    rows = [text.split() for text in texts if text.strip()]
    assert [row[0] for row in rows if row[0] in ("1/2", "2/2")] == ["1/2", "2/2"]
    bars = (["epoch", "1/2"], ["epoch", "2/2"])  # the bar is drawn a few times a second
    assert any(row[0] == "starting" or row[:2] in bars for row in rows)


def test_resume_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tsslbp.fit(module(), toy(), SETTINGS, out=tmp_path / "whole")
    monkeypatch.setattr(training.loop, "CHECKPOINT_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        seen(patch, stop=9)
        with pytest.raises(KeyboardInterrupt):
            tsslbp.fit(module(), toy(), SETTINGS, out=str(tmp_path / "run"), resume=True)
    with pytest.raises(RunError, match=r"resume it with resume=True"):
        tsslbp.fit(module(), toy(), SETTINGS, out=tmp_path / "run")
    with pytest.raises(RunError, match=r"learning_rate is 0.01 there, 0.1 here"):
        tsslbp.fit(
            *(module(), toy(), SETTINGS), out=tmp_path / "run", resume=True, learning_rate=0.1
        )
    tsslbp.fit(module(9), toy(), SETTINGS, out=tmp_path / "run", resume=True)
    assert_same_run(Run.open(tmp_path / "run"), Run.open(tmp_path / "whole"))
    assert len(Run.open(tmp_path / "run").environment["resumed"]) == 1
    tsslbp.fit(module(), toy(), SETTINGS, epochs=3, out=tmp_path / "run", resume=True)
    assert len(Run.open(tmp_path / "run").epochs()) == 3


def test_data_by_name(tmp_path: Path) -> None:
    data = toy()
    images = torch.cat([data.train_images, data.test_images]).numpy()
    labels = torch.cat([data.train_labels, data.test_labels]).numpy()
    np.savez(tmp_path / "mine.npz", images=images, labels=labels)
    path = str(tmp_path / "mine.npz")
    net = tsslbp.fit(module(), path, SETTINGS, epochs=1, out=tmp_path / "run")
    assert net.input_shape == (1, 6, 6)
    assert Run.open(tmp_path / "run").experiment.data == path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"network": "300"}, "fit cannot change network"),
        ({"rule": "NA"}, "fit cannot change rule"),
        ({"learning_rat": 0.1}, "unknown key 'learning_rat' .did you mean 'learning_rate'"),
        ({"time_steps": 5}, r"the module must return .* does its first LIF have time_steps=5\?"),
    ],
)
def test_what_does_not_fit(change: dict[str, Any], words: str) -> None:
    for settings in (SETTINGS, None):
        if settings is None and "time_steps" not in change:
            continue
        with pytest.raises(InvalidInput, match=words):
            tsslbp.fit(module(), toy(), settings, **change)
    pairs = torch.utils.data.TensorDataset(torch.rand(9, 1, 8, 8), torch.arange(9) % 3)
    for wrong in (pairs, torch.rand(9, 1, 8, 8), (torch.rand(9, 1, 8, 8), torch.arange(9))):
        with pytest.raises(InvalidInput, match=rf"got {type(wrong).__name__}: .*from_torch"):
            tsslbp.fit(module(), wrong, SETTINGS)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"the module must be a torch.nn.Module, got int"):
        tsslbp.fit(3, toy(), SETTINGS)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"the module contains no tsslbp.layers.LIF"):
        tsslbp.fit(nn.Linear(3, 4), toy(), SETTINGS)
