"""Tests that several processes train like one; torchrun starts two real processes."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from tsslbp import TSSLBP, cli, training
from tsslbp.data import DataSet, batches, normalise
from tsslbp.data.dataset import normalised
from tsslbp.errors import Diverged, InvalidInput
from tsslbp.experiment import Experiment
from tsslbp.experiment.seeding import generator
from tsslbp.layers import LIF, Conv, InitialWeights, Linear
from tsslbp.network import CustomNetwork, Model
from tsslbp.run import Run
from tsslbp.training import batch
from tsslbp.training.parallel import ONE_PROCESS, Processes, join

FIVE_STEPS = Experiment(
    data="toy",
    network="16C3-P2-24",
    crop_padding=1,
    horizontal_flip=True,
    protocol="published",
    epochs=1,
    batch_size=7,
    learning_rate=0.01,
    weight_scale=2.0,
)
# Between the rates of the first layer in the two parts of the first batch, 0.193 and 0.152.
BY_LAYER = TSSLBP.published(rate_threshold=0.165)
COUNT = {"loss": "count", "desired_count": 3.0, "undesired_count": 0.5}
CASES = {
    f"{name} {loss['loss']} {impl}": (replace(FIVE_STEPS, rule=rule, **loss), impl)
    for name, rule in (("revised", TSSLBP()), ("published", BY_LAYER))
    for loss in ({"loss": "kernel"}, COUNT, {"loss": "softmax"})
    for impl in ("cpu", "reference")
}
CASES["recipe"] = (
    replace(
        FIVE_STEPS,
        **{"loss": "tet", "label_smoothing": 0.1, "schedule": "cosine", "average_weights": 0.9},
        **{"accumulate": 3, "batch_size": 3, "cutout": 2, "rotate": 10.0, "mixup": 0.5, "roll": 1},
    ),
    "cpu",
)
CASES["published kernel of modules"] = replace(FIVE_STEPS, rule=BY_LAYER), "modules"
SEPARATE = "published kernel cpu"  # also trained with a separate decision by each process
LONGER = replace(FIVE_STEPS, dropout=0.2, epochs=2)


def toy() -> DataSet:
    """Return 29 training images in two classes: a last batch of one, so one process gets none."""
    random = np.random.RandomState(0)
    labels = torch.from_numpy(np.arange(49) % 2)
    images = torch.from_numpy(random.rand(49, 1, 6, 6).astype(np.float32))
    images[labels == 0, :, :, :3] += 2
    images[labels == 1, :, :, 3:] += 2
    return DataSet("toy", images[:29], labels[:29], images[29:], labels[29:], 2)


def with_image(number: int, value: float) -> DataSet:
    data = toy()
    data.train_images[number] = value
    return data


def fit(folder: Path, experiment: Experiment, processes: Processes, **options) -> None:
    run = Run.create(folder, experiment) if processes.is_first else None
    training.fit(run, options.pop("data", toy()), processes=processes, **options)


def of_modules(experiment: Experiment) -> CustomNetwork:
    """Return a network with learned constants, whose gradients are also summed over processes."""
    initial = InitialWeights(scale=2.0, generator=generator(experiment.seed, "weights"))
    learned: tuple[Any, ...] = 5.0, 3.0, 1.0, experiment.rule, ("tau_m", "tau_s", "threshold")
    module = nn.Sequential(
        *(Conv(1, 16, 3, initial=initial), LIF(*learned, time_steps=5, pool=2), nn.Flatten(-3)),
        *(Linear(64, 24, initial), LIF(*learned), Linear(24, 2, initial)),
        LIF(*learned, output_psc=True),
    )
    return CustomNetwork(module, (1, 6, 6), 2, 5)


def fit_in_float64(
    folder: Path, experiment: Experiment, processes: Processes, impl: str = "auto"
) -> None:
    if impl == "modules":
        net: Model = of_modules(experiment)
    else:
        net = training.build_network(experiment, (1, 6, 6), 2, impl)
    net.double()
    with (
        mock.patch.object(batch, "normalise", lambda *x: normalise(*x).double()),
        mock.patch.object(training.step, "normalised", lambda *x: normalised(*x).double()),
    ):
        fit(folder, experiment, processes, net=net)


def child(folder: Path, processes: Processes) -> None:
    """Run the trainings that the tests examine, in each of the two processes."""
    for name, (experiment, impl) in CASES.items():
        fit_in_float64(folder / "two" / name, experiment, processes, impl)
    with mock.patch.object(Processes, "mean", lambda self, total, values: total / values):
        fit_in_float64(folder / "separate", CASES[SEPARATE][0], processes)
    with pytest.raises(Diverged) as error:
        fit(folder / "diverged", FIVE_STEPS, processes, data=with_image(3, 3e38))
    (folder / f"diverged-{processes.rank}").write_text(str(error.value))
    run = Run.open(folder / "resumed").extended(2) if processes.is_first else None
    training.fit(run, toy(), processes=processes)
    fit(folder / "bad", FIVE_STEPS, processes, data=with_image(_of_second_process(), torch.nan))


def _of_second_process() -> int:
    order = next(batches(29, 7, generator(0, "order", 1)))
    return int(Processes(1, 2).shard(order)[0])


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess]:
    """Return the folder to which two processes have written, and how they ended."""
    folder = tmp_path_factory.mktemp("two")
    fit(folder / "resumed", replace(LONGER, epochs=1), ONE_PROCESS)
    return folder, torchrun(__file__, str(folder))


def torchrun(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    source = str(Path(training.__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*launcher, "--nproc-per-node", "2", *arguments],
        capture_output=True,
        check=False,
        cwd=cwd,
        env=environment,
        text=True,
        timeout=200,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one(two, tmp_path: Path, name: str) -> None:
    """With augmentation and a small last batch, weights and records agree to 1e-9 in float64."""
    experiment, impl = CASES[name]
    fit_in_float64(tmp_path / "run", experiment, ONE_PROCESS, impl)
    one, both = Run.open(tmp_path / "run"), Run.open(two[0] / "two" / name)
    expected, _ = one.load_checkpoint("last")
    found, _ = both.load_checkpoint("last")
    images = [9, 9, 9, 2] if name == "recipe" else [7, 7, 7, 7, 1]
    assert found["history.images"].tolist() == images
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert key.startswith("history") or value.dtype == torch.float64 or value.ndim == 0
        torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-9)
    (record,), (expected_record,) = both.epochs(), one.epochs()
    for key in ("loss", "train_accuracy", "gradient_norm", "test_accuracy_by_step", "warm_up"):
        assert record[key] == pytest.approx(expected_record[key], rel=1e-9), key


@pytest.mark.slow
def test_the_rate_of_a_part_decides_otherwise(two) -> None:
    """A firing rate per process would give other weights, which the cases above would detect."""
    paths = two[0] / "two" / SEPARATE, two[0] / "separate"
    shared, separate = (Run.open(path).load_checkpoint("last")[0] for path in paths)
    key = "weights.conv1.weight"
    assert (shared[key] - separate[key]).abs().max() > 1e-4


@pytest.mark.slow
def test_divergence_of_one_is_told_by_all(two) -> None:
    first, second = ((two[0] / f"diverged-{rank}").read_text() for rank in (0, 1))
    assert first == second
    assert re.match(r"epoch 1, step \d: .* first appears in the input current of", first)


@pytest.mark.slow
def test_one_process_continued_by_two(two, tmp_path: Path) -> None:
    """Two processes continue the run of one; as dropout masks differ, losses agree only roughly."""
    run = Run.open(two[0] / "resumed")
    fit(tmp_path / "run", LONGER, ONE_PROCESS)
    first, second = run.epochs()
    expected_first, expected_second = Run.open(tmp_path / "run").epochs()
    assert first["loss"] == expected_first["loss"]
    assert second["epoch"] == 2
    assert second["loss"] == pytest.approx(expected_second["loss"], rel=0.5)
    assert second["loss"] != expected_second["loss"]
    assert len(run.steps()["loss"]) == 10


@pytest.mark.slow
def test_an_error_of_one_ends_all(two) -> None:
    """If only the second process has a bad image, it says so, and the first does not wait."""
    _, ended = two
    assert ended.returncode != 0
    told = re.findall(r"^\[rank(\d)\]: (\S*(?:Error|Input): .*)", ended.stderr, re.M)
    assert told == [("1", "tsslbp.errors.InvalidInput: the input contains NaN or infinity")]


RECIPE = """
data = "mine.npz"
network = "8C3-P2-12"
time_steps = 4
weight_scale = 2
epochs = 2
batch_size = 8
learning_rate = 0.01
protocol = "published"
"""


@pytest.mark.slow
def test_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """The program trains alike with and without torchrun, resumes alone, and prints errors once."""
    monkeypatch.chdir(tmp_path)
    data = toy()
    np.savez("mine.npz", images=data.train_images.numpy(), labels=data.train_labels.numpy())
    Path("mine.toml").write_text(RECIPE)
    assert cli.main(["train", "mine.toml", "--out", "one"]) == 0
    program = "-m", "tsslbp", "train", "mine.toml", "--out", "two"
    ended = torchrun(*program, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("run folder  two") == 1
    assert "processes   2" in ended.stdout
    assert "warning" not in ended.stderr
    one, both = Run.open(Path("one")), Run.open(Path("two"))
    for record, expected in zip(both.epochs(), one.epochs(), strict=True):
        for key in ("loss", "train_accuracy", "test_accuracy", "gradient_norm", "firing_rate"):
            assert record[key] == pytest.approx(expected[key], rel=1e-3), key
    assert (one.environment["processes"], both.environment["processes"]) == (1, 2)

    failed = torchrun(*program, cwd=tmp_path)
    assert failed.returncode != 0
    assert re.findall("^error: .*", failed.stderr, re.M) == [
        "error: two already contains a run: continue it with --resume, or give another --out"
    ]

    assert cli.main(["train", "mine.toml", "--out", "two", "--resume", "--epochs", "3"]) == 0
    assert "resumed after epoch 2" in capsys.readouterr().out
    assert [record["epoch"] for record in both.epochs()] == [1, 2, 3]
    assert both.environment["resumed"][0]["processes"] == 1


def test_parts_make_up_the_batch() -> None:
    batch = torch.arange(7)
    parts = [Processes(rank, 3).shard(batch) for rank in range(3)]
    assert [len(part) for part in parts] == [3, 2, 2]
    assert torch.equal(torch.cat(parts).sort().values, batch)
    assert len(Processes(1, 2).shard(batch[:1])) == 0
    assert len({Processes(rank, 3).own_purpose("dropout") for rank in range(3)}) == 3


def test_other_data_on_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process is refused if its data differ from those of the first process."""
    # The first process broadcasts facts about the run, then about its data.
    first = iter([(FIVE_STEPS, False, False), (toy().train_images.shape, 1, 2)])
    monkeypatch.setattr(Processes, "broadcast", lambda self, value: next(first))
    with pytest.raises(
        InvalidInput, match="process 1 has different data than the first process under the name"
    ):
        training.fit(None, toy(), processes=Processes(1, 2))


def test_gpus_are_taken_in_the_order_of_the_processes() -> None:
    assert ONE_PROCESS.device("cuda:3") == "cuda:3"
    assert Processes(5, 8, local_rank=1).device("cuda") == "cuda:1"
    assert Processes(5, 8, local_rank=1).device("cpu") == "cpu"
    with pytest.raises(InvalidInput, match="use device cuda, not 'cuda:3'"):
        Processes(5, 8, local_rank=1).device("cuda:3")


if __name__ == "__main__":
    with join() as processes:
        child(Path(sys.argv[1]), processes)
