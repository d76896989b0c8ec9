"""Tests of networks that a function builds: one in a user's file, or a built-in architecture."""

import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tsslbp
from tsslbp import Neuron, Surrogate, models, training
from tsslbp.errors import InvalidInput
from tsslbp.experiment import Experiment, load_recipe, save
from tsslbp.layers import LIF
from tsslbp.network import CustomNetwork
from tsslbp.run import Run
from tsslbp.training.own import build_custom

from .toy import EXPERIMENT, assert_same_run, seen, toy

NETS = Path(__file__).with_name("nets.py")
OWN = replace(EXPERIMENT, network=f"{NETS}:make", loss="softmax", dropout=0.0, tau_m=2.0, epochs=2)
SHAPE, CLASSES = (1, 6, 6), 2
HEAD = """\
from torch import nn
from tsslbp.layers import LIF, Conv, Linear
"""


def build(experiment: Experiment = OWN, **settings: Any) -> CustomNetwork:
    return build_custom(experiment, SHAPE, CLASSES, **settings)


def test_what_the_function_is_given() -> None:
    net = build(replace(OWN, rule=Surrogate(), time_steps=3, threshold=0.5))
    assert net.description == "nets.py:make" and net.time_steps == 3
    assert net.neuron_counts == {"2": 6 * 36, "3.body.2": 6 * 36}
    for lif in (net.layer("2"), net.layer("3.body.2")):
        assert lif.start.rule == Surrogate() and lif.start.neuron == Neuron(2.0, 3.0, 0.5)
        assert lif.learnable == ("tau_m",)
    assert net(torch.zeros(5, *SHAPE)).shape == (3, 5, CLASSES)
    settings = {"width": 3, "learnable": ["tau_s"]}
    other = build(Experiment.from_table(OWN.to_table() | {"network_settings": settings}))
    assert other.neuron_counts == {"2": 3 * 36, "3.body.2": 3 * 36}
    assert other.layer("2").learnable == ("tau_s",)
    table = replace(OWN, network=f"{NETS}:plain", network_settings={"width": 5})
    assert build(table).neuron_counts == {"2": 5}  # read from settings.network_settings


def test_one_seed_is_one_network() -> None:
    """Initial weights depend only on the seed, and PyTorch's own generator stays as it was."""
    state = torch.random.get_rng_state()
    first = build()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(99)
    random.seed(3)
    for one, other in zip(first.state_dict().values(), build().state_dict().values(), strict=True):
        assert torch.equal(one, other)
    other = build(replace(OWN, seed=1))
    assert not torch.equal(first.weights["0.weight"], other.weights["0.weight"])
    ruled = build(replace(OWN, rule=Surrogate(), time_steps=2))  # as `compare` needs it
    assert torch.equal(first.weights["0.weight"], ruled.weights["0.weight"])


@pytest.mark.parametrize("name", ["vgg", "sew_resnet"])
def test_networks_that_ship(name: str) -> None:
    settings = {"channels": [[4], [4]] if name == "vgg" else [4, 6], "learnable": ["tau_m"]}
    table = {"network": name, "network_settings": settings, "rule": "Surrogate", "dropout": 0.5}
    net = build(Experiment.from_table(OWN.to_table() | table))
    assert net.description == name and net(torch.zeros(3, *SHAPE)).shape == (4, 3, CLASSES)
    lifs = [part for part in net.modules() if isinstance(part, LIF)]
    assert all(lif.start.rule == Surrogate() for lif in lifs)
    assert all(lif.start.neuron == Neuron(2.0, 3.0, 1.0) for lif in lifs)
    dropouts = [part.p for part in net.modules() if isinstance(part, tsslbp.layers.NeuronDropout)]
    assert set(dropouts) == {0.5}
    assert all(isinstance(one, nn.Module) for one in (net, getattr(models, name)()))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network_settings": {"widths": 3}}, "network_settings: unknown key 'widths'"),
        ({"network_settings": {"chanels": 3}}, "'chanels' .did you mean 'channels'"),
        ({"network_settings": {"rule": "NA"}}, "unknown key 'rule'"),
        (
            {"network_settings": {"learnable": 3}},
            r"network = 'vgg' does not accept network_settings = {'learnable': 3}: .*tsslbp.models",
        ),
        (
            {"network_settings": {"channels": [8, 16]}},
            "a stage of channels must be a sequence, got 8",
        ),
        ({"network_settings": {"channels": [[1]] * 9}}, "expected images .* of at least 512 x 512"),
        ({"neunorm": True}, "neunorm applies only to a network described by its layers"),
        (
            {"weight_scale": 2.0},
            "weight_scale applies only to a network .* leave weight_scale at 1.0",
        ),
    ],
)
def test_settings_that_a_network_that_ships_does_not_take(changes: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        build(replace(OWN, network="vgg", **changes))


def written(folder: Path, source: str, **changes: Any) -> Experiment:
    (folder / "mine.py").write_text(source)
    return replace(OWN, network=f"{folder / 'mine.py'}:make", **changes)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def make(:\n", "mine.py, line 1 is not valid Python: invalid syntax"),
        ("x = 1\n\0", "mine.py"),
        (
            "\n\nimport nowhere\n",
            "mine.py, line 3: ModuleNotFoundError: No module named 'nowhere'; a",
        ),
        ("def mke(): ...\n", r"mine.py has no function 'make' \(did you mean 'mke'\?\)"),
        ("make = 3\n", "mine.py: make must be a function, got 3"),
        ("make = dict\n", "mine.py: make must accept the call make"),
        ("import sys\nsys.exit(0)\n", "mine.py, line 2: it ends the program"),
        ("def make(a, b, c):\n    exit(1)\n", "mine.py, line 2: it ends the program"),
        (
            "import runpy\nrunpy.run_path({other!r})\n",
            "other.py, line 3 is not valid Python",
        ),
        (
            "def make(): ...",
            r"accept the call make\(input_shape, classes, settings\).* too many pos",
        ),
        ("def make(a, b, c, d): ...", "but does not: missing a required argument: 'd'"),
        (
            "def make(a, b, c): ...",
            "make must return a torch.nn.Module, got NoneType; end it with 'return",
        ),
        ("def make(a, b, c): return 3", "make must return a torch.nn.Module, got int$"),
        ("def make(a, b, c):\n    return c.epoch\n", "mine.py, line 2: AttributeError: .*'epoch'"),
        (
            "def make(a, b, c):\n    return c.network_settings['width']\n",
            r"mine.py, line 2: KeyError: 'no width in \[network_settings\]'",
        ),
        (
            f"{HEAD}def make(a, b, c):\n    return Conv(1, 8, 3, groups=3)\n",
            "mine.py, line 4: groups must divide both numbers of channels",
        ),
        (
            f"{HEAD}def make(a, b, c):\n    return nn.Linear(1, 2)\n",
            "mine.py:make contains no tsslbp.layers.LIF, so it has no spiking neurons",
        ),
        (
            f"{HEAD}def make(a, b, c):\n    return nn.Sequential(nn.Flatten(-3), Linear(36, 2), "
            "LIF(time_steps=7))\n",
            r"mine.py:make must return \[T, N, classes\] = \[4, 2, 2\], got \[7, 2, 2\]",
        ),
        (
            f"{HEAD}class Mine(nn.Sequential):\n    def forward(self, x):\n"
            "        return super().forward(x).sum(0)\n\n\ndef make(a, b, c):\n"
            "    return Mine(nn.Flatten(-3), Linear(36, 2), LIF(time_steps=4))\n",
            r"got \[2, 2\]; return the outputs of every step",
        ),
        (
            f"{HEAD}class Mine(nn.Sequential):\n    def forward(self, x):\n"
            "        return super().forward(x)[9]\n\n\ndef make(a, b, c):\n"
            "    return Mine(nn.Flatten(-3), Linear(36, 2), LIF(time_steps=4))\n",
            r"failed for an input \[2, 1, 6, 6\]: IndexError: .* \(.*mine.py, line 5\)",
        ),
    ],
)
def test_bad_files(tmp_path: Path, source: str, words: str) -> None:
    (tmp_path / "other.py").write_text("\n\ndef f(:\n")
    source = source.replace("{other!r}", repr(str(tmp_path / "other.py")))
    with pytest.raises(InvalidInput, match=words) as caught:
        build(written(tmp_path, source))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("assert not self.training", r"in training failed for .*AssertionError: .*py, line 5\)$"),
        ("return super().forward(x).detach()", "has no gradient in training: does its forward"),
        ("return super().forward(x) if not self.training else 3", "T, N, classes.*, got int"),
    ],
)
def test_what_fails_only_in_training(tmp_path: Path, change: str, words: str) -> None:
    """It is told before the first step, in one line, and no run is made."""
    source = (
        f"{HEAD}class Mine(nn.Sequential):\n    def forward(self, x):\n        {change}\n"
        "        return super().forward(x)\n\n\ndef make(a, b, c):\n"
        "    return Mine(nn.Flatten(-3), Linear(36, 2), LIF(time_steps=4))\n"
    )
    wanted = written(tmp_path, source.replace("def forward", "def forward"))
    build(wanted)
    with pytest.raises(InvalidInput, match=words) as caught:
        training.Training(wanted, toy())
    assert "\n" not in str(caught.value)


def test_a_last_batch_of_one_image_that_a_norm_cannot_take(tmp_path: Path) -> None:
    wanted = replace(OWN, network="vgg", network_settings={"channels": [[4]]}, time_steps=1)
    wanted = replace(wanted, tau_s=1.0, protocol="published", batch_size=59)  # of 60 images
    with pytest.raises(InvalidInput, match=r"last batch contains only one image, choose another"):
        training.Training(wanted, toy())
    training.Training(replace(wanted, batch_size=58), toy())
    training.Training(replace(wanted, time_steps=2), toy())


def test_nothing_to_train(tmp_path: Path) -> None:
    source = "def make(a, b, c):\n    return nn.Sequential(nn.Flatten(-3), LIF(time_steps=4))\n"
    net = build_custom(written(tmp_path, HEAD + source), (1, 1, 2), 2)
    with pytest.raises(InvalidInput, match=r"mine.py:make has no parameters, so there is nothing"):
        training.build_optimizer(OWN, net)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"cannot read the network's file .*none.py: No such"):
        build(replace(OWN, network=f"{tmp_path / 'none.py'}:make"))


@pytest.mark.parametrize("function", ["make", "plain", "frames"])
def test_settings_that_nothing_reads(function: str) -> None:
    """A setting is refused if the function neither takes it by name nor reads it from the table."""
    table = {"width": 4, "widht": 4} if function != "frames" else {"widht": 4}
    wanted = replace(OWN, network=f"{NETS}:{function}", network_settings=table)
    with pytest.raises(InvalidInput, match=f"nets.py:{function} does not use 'widht'") as caught:
        build(wanted)
    assert ("did you mean 'width'" in str(caught.value)) == (function == "make")


def test_the_file_is_compiled_as_it_stands(tmp_path: Path) -> None:
    """This program's imports from `__future__` do not affect the file; dataclasses work in it."""
    source = f"""{HEAD}
from dataclasses import dataclass
def annotated(x: int): ...
assert annotated.__annotations__ == {{"x": int}}
@dataclass
class Part:
    width: "int" = 3
def make(shape, classes, settings):
    width = Part().width
    return nn.Sequential(nn.Flatten(-3), Linear(36, width), LIF(time_steps=4), Linear(width, 2))
"""
    assert build(written(tmp_path, source)).neuron_counts == {"2": 3}


def test_copies_run_only_where_they_are_trusted(tmp_path: Path) -> None:
    source = f"open({str(tmp_path / 'seen')!r}, 'w').close()\n" + NETS.read_text()
    own = written(tmp_path, source)
    build(own)  # the user's own file needs no permission
    (tmp_path / "seen").unlink()
    (tmp_path / "run").mkdir()
    save(own, tmp_path / "run" / "config.toml")
    copy = load_recipe(tmp_path / "run" / "config.toml")
    with pytest.raises(InvalidInput, match="is not executed automatically"):
        build(copy)
    assert not (tmp_path / "seen").exists()
    build(copy, trust_code=True)
    assert (tmp_path / "seen").exists()
    (tmp_path / "seen").unlink()
    (tmp_path / "run" / "mine.py").write_text(source + "\n")
    with pytest.raises(
        InvalidInput, match="has changed since it was copied next to its configuration"
    ):
        build(copy, trust_code=True)
    assert not (tmp_path / "seen").exists()


def test_rules_that_make_no_difference(tmp_path: Path) -> None:
    training.check_rule(build(replace(OWN, rule=Surrogate())), replace(OWN, rule=Surrogate()))
    fixed = written(
        tmp_path, NETS.read_text().replace("settings.rule", "__import__('tsslbp').NA()")
    )
    with pytest.raises(InvalidInput, match=r"use the rule NA, not .* rule=settings\.rule"):
        training.check_rule(build(fixed), fixed)
    training.check_rule(training.build_network(EXPERIMENT, SHAPE, CLASSES), replace(OWN, seed=3))


class TestRuns:
    def fit(self, folder: Path, **changes: Any) -> Run:
        run = Run.create(folder, replace(OWN, **changes))
        training.fit(run, toy())
        return run

    def test_records_and_load(self, tmp_path: Path) -> None:
        run = self.fit(tmp_path / "run", epochs=4)
        record = run.epochs()[-1]
        assert record["validation_accuracy"] > 0.9
        assert list(record["firing_rate"]) == ["2", "3.body.2"]
        assert (run.folder / "nets.py").read_bytes() == NETS.read_bytes()
        assert run.experiment.network == f"{run.folder / 'nets.py'}:make"
        data = toy()
        test = training.Split(data.test_images, data.test_labels)
        net = tsslbp.load(run.folder, "last", trust_code=True)
        assert not net.training
        assert training.evaluate(net, test, (0.0,), (1.0,))[-1] == record["test_accuracy"]
        with pytest.raises(InvalidInput, match="trust_code=True"):
            tsslbp.load(run.folder, "last")
        module = build(replace(OWN, seed=5)).module
        filled = tsslbp.load(run.folder, "last", module=module)  # executes no code of the folder
        assert filled.module is module
        assert torch.equal(filled(data.test_images), net(data.test_images))

    def test_the_kept_file_trains(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """After a kill, a moved folder resumes bit for bit with its own copy of the file."""
        whole = self.fit(tmp_path / "whole")
        monkeypatch.setattr(training.loop, "CHECKPOINT_SECONDS", 0.0)
        mine = tmp_path / "mine.py"
        mine.write_bytes(NETS.read_bytes())
        run = Run.create(tmp_path / "run", replace(OWN, network=f"{mine}:make"))
        with monkeypatch.context() as patch:
            seen(patch, stop=9)
            with pytest.raises(KeyboardInterrupt):
                training.fit(run, toy())
        mine.unlink()
        os.rename(run.folder, tmp_path / "moved")
        with pytest.raises(InvalidInput, match="is not executed automatically"):
            training.fit(Run.open(tmp_path / "moved"), toy())
        run = Run.open(tmp_path / "moved", trust_code=True)
        training.fit(run, toy())
        assert_same_run(run, whole)

    def test_a_configuration_without_a_checksum(self, tmp_path: Path) -> None:
        """Removing the checksum does not get the code executed: the run is refused."""
        run = self.fit(tmp_path / "run", epochs=1)
        config = run.folder / "config.toml"
        lines = config.read_text().splitlines(keepends=True)
        config.write_text("".join(one for one in lines if "network_checksum" not in one))
        with pytest.raises(tsslbp.errors.RunError, match="no checksum of the network's file"):
            Run.open(run.folder)

    def test_frames(self, tmp_path: Path) -> None:
        """A network that accepts only recordings is checked with recordings, also on loading."""
        data = toy()
        trains = [
            tsslbp.data.Frames.from_dense((part > 1)[:, None].expand(-1, 4, -1, -1, -1))
            for part in (data.train_images, data.test_images)
        ]
        recordings = replace(data, train_images=trains[0], test_images=trains[1])
        with pytest.raises(InvalidInput, match=r"frames.*\[2, 1, 6, 6\]"):
            training.build_for(replace(OWN, network=f"{NETS}:frames"), toy())
        run = Run.create(tmp_path / "run", replace(OWN, network=f"{NETS}:frames", epochs=1))
        training.fit(run, recordings)
        net = tsslbp.load(run.folder, trust_code=True)
        assert isinstance(net, CustomNetwork) and net.frames
