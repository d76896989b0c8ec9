"""Tests of the training loop: its records, and resuming after a kill at any moment."""

import math
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tsslbp.data
from tsslbp import training
from tsslbp.data import batches, normalise
from tsslbp.data.images import augment
from tsslbp.errors import Diverged, RunError
from tsslbp.experiment import load_recipe
from tsslbp.experiment.seeding import generator
from tsslbp.run import Run
from tsslbp.run.results import is_finished
from tsslbp.training.drops import Drop
from tsslbp.training.drops import find as find_drops

from .toy import EXPERIMENT, assert_same_run, seen, toy, trained

CHILD = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from toy import EXPERIMENT, toy
from tsslbp import training
from tsslbp.run import Run
from tsslbp.run.results import is_finished

folder, left = Path(sys.argv[2]), int(sys.argv[3])

def deadly(function):
    def wrapper(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return wrapper

training.loop.CHECKPOINT_SECONDS = 0.0  # a checkpoint after every step
for name in ("fsync", "replace"):
    setattr(os, name, deadly(getattr(os, name)))
new = not (folder / "config.toml").exists()
run = Run.create(folder, EXPERIMENT) if new else Run.open(folder)
training.fit(run, toy())
"""


@pytest.mark.slow
def test_resume_after_kills_at_any_moment(tmp_path: Path) -> None:
    """A training that is killed at ever later writes, and resumed, ends like an undisturbed one."""
    expected = trained(tmp_path / "whole")
    folder = tmp_path / "killed"
    kills = 0
    for writes in (1, 5, 14, 26, 39, 52, 62, 10_000):
        command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(folder)]
        result = subprocess.run([*command, str(writes)], check=False, capture_output=True)
        if result.returncode != 0:
            assert result.returncode == -signal.SIGKILL, result.stderr.decode()
            kills += 1
    assert result.returncode == 0
    assert kills >= 5
    assert_same_run(Run.open(folder), expected)


AUGMENTED = replace(EXPERIMENT, crop_padding=1, horizontal_flip=True, dropout_kind="neurons")


def test_resume_with_augmentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run stopped within its second epoch resumes with the crops of one that was not stopped."""
    monkeypatch.setattr(training.loop, "CHECKPOINT_SECONDS", 0.0)  # a checkpoint after every step
    with monkeypatch.context() as patch:
        expected_images = seen(patch)
        expected = trained(tmp_path / "whole", AUGMENTED)
    with monkeypatch.context() as patch:
        before = seen(patch, stop=10)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "parts", AUGMENTED)
    with monkeypatch.context() as patch:
        after = seen(patch)
        training.fit(Run.open(tmp_path / "parts"), toy())
    assert (len(before), len(after)) == (9, 9)
    assert all(map(torch.equal, before + after, expected_images))
    assert_same_run(Run.open(tmp_path / "parts"), expected)


def test_augmentation_of_training_images_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only training images are cropped, by (seed, epoch, step), before they are normalised."""
    experiment = replace(AUGMENTED, mean=(0.5,), std=(0.25,), epochs=2, protocol="published")
    images = seen(monkeypatch)
    run = trained(tmp_path / "run", experiment)
    data = toy()
    for epoch in (1, 2):
        order = batches(60, 8, generator(0, "order", epoch))
        for step, chosen in enumerate(order):
            random = generator(0, "augmentation", epoch, step)
            placement = augment.draw(len(chosen), 1, True, random)
            cropped = augment.apply(data.train_images[chosen], placement, 1)
            expected = normalise(cropped, experiment.mean, experiment.std)
            assert torch.equal(images.pop(0), expected)
    assert images == []
    net = tsslbp.load(run.folder, "last")
    test = training.Split(data.test_images, data.test_labels)
    accuracy = training.evaluate(net, test, experiment.mean, experiment.std)[-1]
    assert accuracy == run.epochs()[-1]["test_accuracy"]  # on images that are not cropped


def test_torn_and_repeated_lines_are_repaired(tmp_path: Path) -> None:
    expected = trained(tmp_path / "whole")
    run = trained(tmp_path / "torn", replace(EXPERIMENT, epochs=2))
    metrics = run.folder / "metrics.jsonl"
    lines = metrics.read_bytes().splitlines(keepends=True)
    metrics.write_bytes(b"".join([*lines, lines[1], b'{"epoch": 3, "lo']))
    again = Run.open(run.folder).extended(3)
    training.fit(again, toy())
    assert_same_run(again, expected)
    assert len(metrics.read_text().splitlines()) == 3


def test_records(tmp_path: Path) -> None:
    run = trained(tmp_path / "run")
    epochs, steps = run.epochs(), run.steps()
    assert [record["epoch"] for record in epochs] == [1, 2, 3]
    for record in epochs:
        assert 0 <= record["validation_accuracy"] <= 1
        assert record["firing_rate"].keys() == {"conv1", "linear2", "output"}
        assert all(0 <= rate <= 1 for rate in record["firing_rate"].values())
        assert all(0 <= share <= 1 for share in record["warm_up"].values())
        assert record["images_per_second"] == pytest.approx(48 / record["seconds"])
        assert record["peak_memory"] > 10**7
        assert len(record["test_accuracy_by_step"]) == run.experiment.time_steps
        assert record["test_accuracy_by_step"][-1] == record["test_accuracy"]
        rates = record["firing_rate"]
        neurons = {layer.name: layer.neurons for layer in tsslbp.load(run.folder).plan}
        spikes = sum(rates[name] * neurons[name] for name in rates)
        assert record["spikes_per_image"] == pytest.approx(run.experiment.time_steps * spikes)
    assert len(steps["loss"]) == 18  # three epochs of 48 images in batches of 8
    assert epochs[1]["train_accuracy"] == steps["correct"][6:12].sum() / 48
    assert epochs[1]["loss"] == pytest.approx(steps["loss"][6:12].mean())
    assert epochs[1]["gradient_norm"] == pytest.approx(steps["gradient_norm"][6:12].mean())
    assert steps["activity_step"].tolist() == [0, 6, 12]
    assert steps["firing_rate"].shape == steps["warm_up"].shape == (3, 3)
    assert epochs[-1]["test_accuracy"] > 0.9


def test_every_record_carries_the_caveat_of_its_data(tmp_path: Path) -> None:
    """Each epoch carries the note of the data that it was trained on, also after a resume."""
    run = Run.create(tmp_path / "run", replace(EXPERIMENT, epochs=1))
    training.fit(run, replace(toy(), note="a part of the images"))
    training.fit(run.extended(2), toy())
    first, second = run.epochs()
    assert first["note"] == "a part of the images"
    assert "note" not in second


def test_published_protocol_has_no_validation(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", replace(EXPERIMENT, protocol="published", epochs=1))
    (record,) = run.epochs()
    assert "validation_accuracy" not in record
    assert not run.has_checkpoint("best-validation")
    assert len(run.steps()["loss"]) == 8  # all 60 images; the last batch has 4


def test_patience_ends_the_training(tmp_path: Path) -> None:
    still = replace(EXPERIMENT, learning_rate=1e-12, patience=2, epochs=9)
    run = trained(tmp_path / "run", still)
    assert len(run.epochs()) == 3  # the first epoch is the best, and two more are no better
    training.fit(Run.open(run.folder), toy())
    assert len(run.epochs()) == 3


def test_implementations_train_alike(tmp_path: Path) -> None:
    losses = [
        trained(tmp_path / impl, replace(EXPERIMENT, epochs=1), impl).steps()["loss"]
        for impl in ("cpu", "reference")
    ]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_a_seed_changes_everything(tmp_path: Path) -> None:
    runs = [trained(tmp_path / str(s), replace(EXPERIMENT, seed=s, epochs=1)) for s in (0, 1)]
    weights = [run.load_checkpoint("last")[0]["weights.conv1.weight"] for run in runs]
    assert not torch.equal(*weights)


@pytest.mark.parametrize("loss", ["kernel", "count", "softmax"])
def test_every_loss_trains(tmp_path: Path, loss: str) -> None:
    counts = {"desired_count": 2.0, "undesired_count": 0.5} if loss == "count" else {}
    run = trained(tmp_path / "run", replace(EXPERIMENT, loss=loss, epochs=4, **counts))
    losses = [record["loss"] for record in run.epochs()]
    assert losses[-1] < losses[0]
    assert run.epochs()[-1]["test_accuracy"] > 0.8


def test_divergence_names_the_layer_and_keeps_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(tmp_path / "run", replace(EXPERIMENT, epochs=1))
    before, _ = run.load_checkpoint("last")
    original = training.step.train_step

    def poisoned(net, *arguments, **options):
        with torch.no_grad():
            net.get_parameter("linear2.weight")[0, 0] = math.nan
        return original(net, *arguments, **options)

    monkeypatch.setattr(training.step, "train_step", poisoned)
    with pytest.raises(Diverged, match=r"epoch 2, step 1: .*weights of layer linear2"):
        training.fit(Run.open(run.folder).extended(5), toy())
    after, _ = run.load_checkpoint("last")
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_divergence_leaves_the_numbers_of_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(psc: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return (psc.sum() * 0 + 1) * (math.inf if len(calls) == 10 else 1)

    calls: list[int] = []
    monkeypatch.setattr(training.step, "build_loss", lambda experiment: poisoned)
    run = Run.create(tmp_path / "run", EXPERIMENT)
    with pytest.raises(Diverged, match=r"epoch 2, step 4: .*the loss is inf"):
        training.fit(run, toy())
    assert len(run.steps()["loss"]) == 9


@pytest.mark.parametrize("moment", ["save_steps", "append_epoch", "save_checkpoint"])
def test_stop_between_the_last_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """A run stopped before any of the last epoch's writes resumes to the same result."""
    expected = trained(tmp_path / "whole")
    original, count = getattr(Run, moment), len(expected.epochs())

    def stops(self: Run, *arguments) -> None:
        if (len(self.epochs()) >= count - (moment == "append_epoch")) and not stopped:
            stopped.append(1)
            raise KeyboardInterrupt
        original(self, *arguments)

    stopped: list[int] = []
    monkeypatch.setattr(Run, moment, stops)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "run")
    run = Run.open(tmp_path / "run")
    training.fit(run, toy())
    assert_same_run(run, expected)


def test_fewer_epochs_than_there_are(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", replace(EXPERIMENT, epochs=2))
    with pytest.raises(RunError, match="has 2 epochs already"):
        run.extended(1)


@pytest.mark.slow
def test_digits_keep_their_promise(tmp_path: Path) -> None:
    """The demo's whole recipe has at least 96 % at the epoch chosen on validation images."""
    run = Run.create(tmp_path / "run", load_recipe("digits"))
    training.fit(run, tsslbp.data.load("digits"))
    chosen = max(run.epochs(), key=lambda record: record["validation_accuracy"])
    assert chosen["test_accuracy"] >= 0.96


def test_a_sudden_drop_is_in_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A drop caused by spoilt weights is recorded with its step, accuracies and firing rates."""
    damaged, calls = 74, 0
    step = training.step.train_step

    def spoil(net, *arguments, **options):
        nonlocal calls
        result = step(net, *arguments, **options)
        calls += 1
        if calls == damaged:
            with torch.no_grad():
                list(net.parameters())[-1].neg_()
        return result

    monkeypatch.setattr(training.step, "train_step", spoil)
    run = trained(tmp_path / "run", replace(EXPERIMENT, dropout=0.0, epochs=22))
    found = [(record["epoch"], drop) for record in run.epochs() for drop in record.get("drops", ())]
    [(epoch, table)] = found
    drop = Drop.from_table(table)
    assert (drop.step, drop.epoch) == (damaged, 13)
    assert epoch == 16  # the epoch of the 19th step from it on, which confirms it
    assert drop.accuracy.before > 0.95 and drop.accuracy.after < 0.8
    assert list(drop.firing_rate) == list(run.epochs()[0]["firing_rate"])
    assert drop.firing_rate["output"].after < 0.01 < drop.firing_rate["output"].before
    [later] = find_drops(run.steps(), list(drop.firing_rate))
    assert later == replace(drop, recovery=later.recovery)


RECIPE = replace(EXPERIMENT, loss="softmax", crop_padding=1)
MODERN: dict[str, dict] = {
    "sgd": {"optimizer": "sgd", "momentum": 0.8, "learning_rate": 0.1},
    "cosine": {"schedule": "cosine", "warm_up_epochs": 0.5, "final_learning_rate": 1e-4},
    "step": {"schedule": "step", "step_epochs": (1, 2), "step_factor": 0.3},
    "tet": {"loss": "tet", "label_smoothing": 0.1, "tet_weight": 0.05},
    "label_smoothing": {"label_smoothing": 0.1},
    "average_weights": {"average_weights": 0.9},
    "accumulate": {"batch_size": 3, "accumulate": 3},
    "cutout": {"cutout": 2},
    "mixup": {"mixup": 0.4},
    "rotate": {"rotate": 15.0},
    "translate": {"translate": 0.2},
    "brightness": {"brightness": 0.3},
    "roll": {"roll": 1},
}
MODERN["all"] = {
    **{key: value for one in MODERN.values() for key, value in one.items()},
    **{"schedule": "cosine", "step_epochs": None, "step_factor": 0.1},
}


@pytest.mark.parametrize("name", MODERN)
def test_resume_with_every_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """With each key, a resumed run equals an undisturbed one bit for bit; the key has an effect."""
    monkeypatch.setattr(training.loop, "CHECKPOINT_SECONDS", 0.0)  # a checkpoint after every step
    experiment = replace(RECIPE, **MODERN[name])
    expected = trained(tmp_path / "whole", experiment)
    steps = len(expected.steps()["loss"]) // experiment.epochs
    with monkeypatch.context() as patch:
        seen(patch, stop=steps + 4)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "parts", experiment)
    run = Run.open(tmp_path / "parts")
    assert run.experiment == experiment
    assert run.load_checkpoint("last")[1]["progress"]["step"] == 3
    training.fit(run, toy())
    assert_same_run(run, expected)
    assert np.isfinite(expected.steps()["loss"]).all()
    if name != "average_weights":
        plain = trained(tmp_path / "plain", RECIPE).load_checkpoint("last")[0]
        found = expected.load_checkpoint("last")[0]
        key = "weights.conv1.weight"
        assert not torch.equal(found[key], plain[key])


def test_averaged_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Averages equal a manual calculation; they are evaluated, stored, and change nothing else."""
    original, weights = training.step.train_step, []

    def spy(net, *arguments, **options):
        before.append({key: value.clone() for key, value in net.state_dict().items()})
        result = original(net, *arguments, **options)
        weights.append({key: value.clone() for key, value in net.state_dict().items()})
        return result

    before: list[dict] = []
    with monkeypatch.context() as patch:
        patch.setattr(training.step, "train_step", spy)
        run = trained(tmp_path / "run", replace(EXPERIMENT, average_weights=0.9))
    plain = trained(tmp_path / "plain")
    average = {key: value.double() for key, value in before[0].items()}
    for number, after in enumerate(weights, 1):
        decay = min(0.9, (1 + number) / (10 + number))
        average = {key: decay * average[key] + (1 - decay) * after[key] for key in after}
    stored = run.load_checkpoint("averaged")[0]
    for key, value in average.items():
        torch.testing.assert_close(stored[f"weights.{key}"].double(), value, rtol=1e-4, atol=1e-6)
    data, last = toy(), run.epochs()[-1]
    test = training.Split(data.test_images, data.test_labels)
    net = tsslbp.load(run.folder, "averaged")
    assert training.evaluate(net, test, (0.0,), (1.0,))[-1] == last["averaged_test_accuracy"]
    assert 0 <= last["averaged_validation_accuracy"] <= 1
    accuracies = [one["averaged_test_accuracy"] for one in run.epochs()]
    assert accuracies != [one["test_accuracy"] for one in run.epochs()]
    for record, expected in zip(run.epochs(), plain.epochs(), strict=True):
        assert record["test_accuracy"] == expected["test_accuracy"]
    ours, theirs = (one.load_checkpoint("last")[0] for one in (run, plain))
    assert all(torch.equal(ours[key].nan_to_num(-1), theirs[key].nan_to_num(-1)) for key in theirs)


def test_averaged_weights_that_a_checkpoint_lacks(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", replace(EXPERIMENT, epochs=1))
    config = run.folder / "config.toml"
    config.write_text("average_weights = 0.9\n" + config.read_text())
    with pytest.raises(RunError, match=r"checkpoint 'last' of .* holds no averaged weights"):
        training.fit(Run.open(run.folder).extended(2), toy())


@pytest.mark.parametrize("loss", ["kernel", "softmax", "tet"])
def test_accumulated_batches_are_one(tmp_path: Path, loss: str) -> None:
    """In float64, three batches of 3 images take the same steps as one batch of 9."""
    experiment = replace(
        RECIPE, loss=loss, dropout=0.0, epochs=1, cutout=2, mixup=0.3, horizontal_flip=True
    )
    found = []
    for size, count in ((9, 1), (3, 3)):
        one = replace(experiment, batch_size=size, accumulate=count)
        net = _Double(training.build_network(one, (1, 6, 6), 2).double())
        run = Run.create(tmp_path / f"{size}", one)
        training.fit(run, toy(), net=net)
        found.append((run.steps(), run.load_checkpoint("last")[0]))
    (steps, expected), (accumulated, weights) = found
    assert accumulated["images"].tolist() == steps["images"].tolist() == [9] * 5 + [3]
    assert accumulated["correct"].tolist() == steps["correct"].tolist()
    for key in ("loss", "gradient_norm"):
        np.testing.assert_allclose(accumulated[key], steps[key], rtol=1e-9)
    for key, value in expected.items():
        if key.startswith("weights"):
            torch.testing.assert_close(weights[key], value, rtol=1e-9, atol=1e-12)


class _Double(tsslbp.network.Model):
    """A network in float64 that takes images in float32."""

    def __init__(self, net: tsslbp.Network) -> None:
        super().__init__()
        self.net, self.time_steps = net, net.time_steps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x.double())


def test_the_learning_rate_follows_its_schedule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, rates = training.step.train_step, []

    def spy(net, optimizer, *arguments, **options):
        rates.append({group["lr"] for group in optimizer.param_groups})
        return original(net, optimizer, *arguments, **options)

    monkeypatch.setattr(training.step, "train_step", spy)
    experiment = replace(EXPERIMENT, schedule="cosine", warm_up_epochs=1.0)
    run = trained(tmp_path / "run", replace(experiment, epochs=2))
    expected = [training.build.learning_rate(run.experiment, step, 6) for step in range(12)]
    assert rates == [{rate} for rate in expected]
    assert [one["learning_rate"] for one in run.epochs()] == [expected[5], expected[11]]
    rates.clear()
    longer = run.extended(3)
    training.fit(longer, toy())  # from here on, the schedule is the longer run's
    assert rates == [{training.build.learning_rate(longer.experiment, n, 6)} for n in range(12, 18)]
    assert "learning_rate" not in trained(tmp_path / "plain").epochs()[-1]


def test_patience_looks_at_validation_images_where_there_are_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patience is judged on validation images, or on test images if no others are held out."""
    for split, count in (("validation", 3), ("test", 3)):
        calls: list[int] = []

        def accuracies(self, images, split=split, calls=calls) -> list[float]:
            calls.append(1)
            is_test = images is self.test
            worse = is_test if split == "test" else not is_test
            return [0.5 if worse else len(calls) / 100]

        monkeypatch.setattr(training.Training, "_accuracies", accuracies)
        protocol = "validated" if split == "validation" else "published"
        experiment = replace(EXPERIMENT, protocol=protocol, patience=2, epochs=9)
        run = trained(tmp_path / split, experiment)
        assert len(run.epochs()) == count
        assert is_finished(run.epochs(), experiment)
        assert not is_finished(run.epochs()[:-1], experiment)
    experiment = replace(EXPERIMENT, patience=2, epochs=6)
    run = trained(tmp_path / "test only", experiment)  # only the test accuracy stands still
    assert len(run.epochs()) == 6


def test_resume_from_weights_with_frozen_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run equals an undisturbed one bit for bit, even if its first weights are gone."""
    first = trained(tmp_path / "first", replace(EXPERIMENT, epochs=1, seed=9))
    wanted = replace(EXPERIMENT, weights=str(first.folder), freeze=("conv1",), average_weights=0.9)
    whole = Run.create(tmp_path / "whole", wanted)
    training.fit(whole, toy())
    assert whole.experiment.weights_checksum
    frozen = tsslbp.load(first.folder).state_dict()["conv1.weight"]
    assert torch.equal(whole.load_checkpoint("last")[0]["weights.conv1.weight"], frozen)
    monkeypatch.setattr(training.loop, "CHECKPOINT_SECONDS", 0.0)  # a checkpoint after every step
    stopped = Run.create(tmp_path / "stopped", wanted)
    with monkeypatch.context() as patch:
        seen(patch, stop=9)
        with pytest.raises(KeyboardInterrupt):
            training.fit(stopped, toy())
    shutil.rmtree(first.folder)
    training.fit(Run.open(stopped.folder), toy())
    assert_same_run(Run.open(stopped.folder), whole)
