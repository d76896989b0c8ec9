"""Tests of steps that never wait for the host, here on the CPU; a GPU replays them as a graph."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tsslbp import data, training
from tsslbp.errors import Diverged, InvalidInput
from tsslbp.experiment import Experiment
from tsslbp.run import Run
from tsslbp.training import device
from tsslbp.training.device import DeviceSteps, configure

EXPERIMENT = Experiment(
    data="digits",
    network="4C3-P2-12",
    dropout=0.2,
    validation_images=12,
    epochs=3,
    batch_size=8,
    learning_rate=0.01,
)
AUGMENTED = replace(EXPERIMENT, crop_padding=1, horizontal_flip=True)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")


def few() -> data.DataSet:
    digits = data.load("digits")
    return replace(
        digits,
        train_images=digits.train_images[:61],
        train_labels=digits.train_labels[:61],
        test_images=digits.test_images[:20],
        test_labels=digits.test_labels[:20],
    )


def device_steps(experiment: Experiment) -> DeviceSteps:
    train, _, _ = training.splits(experiment, few())
    net = training.build_network(experiment, (1, 8, 8), 10)
    optimizer = training.build_optimizer(experiment, net)
    return DeviceSteps(net, optimizer, train, experiment, capture=False)


def run_epochs(steps: DeviceSteps, epochs: int) -> list:
    found = []
    for epoch in range(1, epochs + 1):
        steps.begin(epoch, 0)
        for step in range(steps.per_epoch):
            steps.run(step)
        found += steps.read(steps.per_epoch)
    return found


@pytest.mark.parametrize(
    "experiment",
    [
        AUGMENTED,
        replace(AUGMENTED, loss="count", desired_count=3.0, undesired_count=0.5),
        replace(AUGMENTED, loss="tet", label_smoothing=0.1),
    ],
    ids=["kernel", "count", "tet"],
)
def test_steps_are_those_of_fit(tmp_path, experiment: Experiment) -> None:
    """Order, crops, dropout masks, last batch and updates are those of `fit`, bit for bit."""
    run = Run.create(tmp_path, experiment)
    training.fit(run, few())
    expected = run.steps()
    steps = device_steps(experiment)
    found = run_epochs(steps, experiment.epochs)
    images = expected["images"]
    assert len(set(images.tolist())) == 2  # the last batch of an epoch is smaller
    per_image = 1 if experiment.loss == "tet" else images  # as in the record
    assert [one.loss for one in found] == pytest.approx(
        list(expected["loss"] * per_image), rel=1e-6
    )
    assert [one.correct for one in found] == expected["correct"].tolist()
    assert [one.gradient_norm for one in found] == expected["gradient_norm"].tolist()
    weights = run.load_checkpoint("last")[0]
    for name, value in steps.net.state_dict().items():
        assert torch.equal(value, weights[f"weights.{name}"])


def test_the_loop_takes_them_as_it_takes_the_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Device steps give the weights and records of host steps, also resumed within an epoch."""
    expected = Run.create(tmp_path / "host", AUGMENTED)
    training.fit(expected, few())
    monkeypatch.setattr(DeviceSteps, "activity_every", 4)
    monkeypatch.setattr(DeviceSteps, "read_every", 4)
    monkeypatch.setattr(training.loop, "CHECKPOINT_SECONDS", 0.0)
    run = Run.create(tmp_path / "device", AUGMENTED)

    class Stop:
        def on_step(self, epoch: int, step: int, *_: object) -> None:
            if (epoch, step) == (2, 6):
                raise KeyboardInterrupt

        def on_epoch(self, record: dict[str, Any]) -> None:
            pass

    with pytest.raises(KeyboardInterrupt):
        with_device_steps(run).fit(run, Stop())
    assert run.load_checkpoint("last")[1]["progress"]["step"] == 4
    with_device_steps(run).fit(run)
    ours, theirs = (one.load_checkpoint("last")[0] for one in (run, expected))
    for name, value in theirs.items():
        if name.startswith("weights"):
            assert torch.equal(ours[name], value), name
    for record, other in zip(run.epochs(), expected.epochs(), strict=True):
        for key in ("train_accuracy", "validation_accuracy", "test_accuracy_by_step"):
            assert record[key] == other[key]
        assert record["loss"] == pytest.approx(other["loss"], rel=1e-6)
        assert record["firing_rate"] != other["firing_rate"]  # measured at other steps
    assert run.steps()["activity_step"].tolist() == [0, 4, 7, 11, 14, 18]


def test_the_loop_tells_which_of_the_results_is_not_finite(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", EXPERIMENT)
    ready = with_device_steps(run)
    healthy = ready.steps.loss

    def loss(psc: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        calls.append(0)
        return healthy(psc, labels) * (torch.nan if len(calls) == 3 else 1)

    calls: list[int] = []
    ready.steps.loss = loss
    with pytest.raises(Diverged, match="epoch 1, step 3: training diverged: the loss is nan"):
        ready.fit(run)
    assert len(run.steps()["loss"]) == 2
    assert "step 3" in str(run.divergence())


def with_device_steps(run: Run) -> training.Training:
    """Return a training that uses device steps as on a GPU, but on the CPU."""
    ready = training.Training(run.experiment, few())
    parts = ready.net, ready.state.optimizer, ready.train, ready.experiment
    ready.steps = DeviceSteps(*parts, capture=False)
    return ready


def test_an_epoch_goes_on_where_it_was_left() -> None:
    whole, parts = device_steps(AUGMENTED), device_steps(AUGMENTED)
    run_epochs(whole, 1)
    for first, last in ((0, 3), (3, whole.per_epoch)):
        parts.begin(1, first)
        for step in range(first, last):
            parts.run(step)
        assert len(parts.read(last)) == last - first
    for one, other in zip(whole.net.parameters(), parts.net.parameters(), strict=True):
        assert torch.equal(one, other)


def test_weights_stay_after_a_divergence() -> None:
    steps = device_steps(EXPERIMENT)
    steps.begin(1, 0)
    steps.run(0)
    before = [weight.clone() for weight in steps.net.parameters()]
    healthy = steps.loss
    steps.loss = lambda psc, labels: healthy(psc, labels) * torch.nan
    steps.run(1)
    steps.loss = healthy
    steps.run(2)
    results = steps.read(3)
    assert [result.finite for result in results] == [True, False, True]
    for weight, kept in zip(steps.net.parameters(), before, strict=True):
        assert torch.equal(weight, kept)


class Reads(TorchDispatchMode):
    """Records operations for which the host would wait for a GPU, or that cannot be captured."""

    WAITS = ("aten._local_scalar_dense.default", "aten.nonzero.default", "aten.equal.default")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if str(function) in self.WAITS:
            self.found.append(str(function))
        return function(*args, **(kwargs or {}))


def test_a_step_reads_no_number() -> None:
    """A step reads numbers only for two checks of CPU tensors: finite images, labels in range."""
    steps = device_steps(AUGMENTED)
    steps.begin(1, 0)
    steps.run(0)
    with Reads() as reads:
        steps.run(1)
    assert len(reads.found) == 3, reads.found


class Uploads(TorchDispatchMode):
    """Records operations that take a tensor from the host, which a graph would reuse for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor)]
        if any(tensor.device.type == "cpu" for tensor in tensors):
            self.found.append(str(function))
        return result


@pytest.mark.parametrize("rule", ["TSSLBP", "TSSLBP.published"])
@pytest.mark.parametrize("loss", ["kernel", "count", "softmax", "tet"])
def test_a_step_takes_nothing_from_the_host(
    monkeypatch: pytest.MonkeyPatch, loss: str, rule: str
) -> None:
    """A step uses no host tensor and reads no number, which the meta device would not allow."""
    experiment = replace(AUGMENTED, loss=loss, rule=rule, desired_count=3.0, undesired_count=0.5)
    net = training.build_network(experiment, (1, 8, 8), 10, impl="reference").to("meta").train()
    # SGD stands in for AdamW, whose update is PyTorch's own.
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, foreach=True)
    images = torch.empty(61, 1, 8, 8, dtype=torch.uint8, device="meta")
    labels = torch.empty(61, dtype=torch.int64, device="meta")
    statistics = torch.empty(2, 1, 1, 1, device="meta").unbind()
    monkeypatch.setattr(device, "channel_statistics", lambda *_: statistics)
    split = training.Split(images, labels)
    steps = DeviceSteps(net, optimizer, split, experiment, capture=False)  # type: ignore[arg-type]
    del optimizer.found_inf  # which SGD does not support
    steps.batch(8)
    steps._step(8)  # computes the loss's target, which is kept
    with Uploads() as uploads:
        steps._step(8)
    assert uploads.found == []


@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_schedule_changes_the_rate_between_steps(as_tensor: bool) -> None:
    """Updates follow the learning rate, whether it is a number or the tensor that a graph reads."""
    moves = replace(EXPERIMENT, schedule="step", step_epochs=1, step_factor=0.1, weight_decay=0.0)
    steps = device_steps(moves)
    if as_tensor:
        for group in steps.optimizer.param_groups:
            group["lr"] = torch.tensor(group["lr"])
    pointers = [group["lr"] for group in steps.optimizer.param_groups]
    steps.begin(1, 0)
    lengths = []
    for step, epoch in enumerate((0, 1, 2)):
        rate = training.build.learning_rate(moves, epoch * steps.per_epoch, steps.per_epoch)
        training.build.set_learning_rate(steps.optimizer, rate)
        before = [weight.detach().clone() for weight in steps.weights]
        steps.run(step)
        moved = zip(steps.weights, before, strict=True)
        lengths.append(max(float((new - old).detach().abs().max()) for new, old in moved))
        if as_tensor:
            assert all(
                one["lr"] is kept
                for one, kept in zip(steps.optimizer.param_groups, pointers, strict=True)
            )
    assert lengths[0] == pytest.approx(0.01, rel=0.01)  # Adam's first update equals the rate
    assert 0.02 < lengths[1] / lengths[0] < 0.2 and 0.02 < lengths[2] / lengths[1] < 0.2


@pytest.mark.parametrize(
    ("changes", "is_taken"),
    [
        ({}, True),
        ({"schedule": "cosine", "average_weights": 0.9, "loss": "tet"}, True),
        ({"crop_padding": 1, "horizontal_flip": True}, True),
        *(
            ({key: value}, False)
            for key, value in {
                "optimizer": "sgd",
                "accumulate": 2,
                "roll": 1,
                "cutout": 1,
                "rotate": 1.0,
                "translate": 0.1,
                "brightness": 0.1,
                "mixup": 0.1,
            }.items()
        ),
    ],
)
def test_settings_that_only_host_steps_take(changes: dict[str, Any], is_taken: bool) -> None:
    assert device.has_device_steps(replace(EXPERIMENT, **changes)) == is_taken


def test_steps_in_bfloat16() -> None:
    """With bfloat16 the loss falls, and weights, their gradients and moments stay in float32."""
    experiment = replace(AUGMENTED, crop_padding=0, horizontal_flip=False, dropout=0.0)
    steps = device_steps(experiment)
    steps.net.set_precision("bf16")
    losses = [result.loss for result in run_epochs(steps, 30)]
    assert sum(losses[-steps.per_epoch :]) < 0.5 * sum(losses[: steps.per_epoch])
    for weight in steps.net.parameters():
        moments = steps.optimizer.state[weight].values()
        assert {one.dtype for one in (weight, weight.grad, *moments)} == {torch.float32}


def test_crops_are_drawn_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Crops are not drawn for a whole epoch at its start, when the device would be idle."""
    drawn = []
    draw = device.augment.draw
    monkeypatch.setattr(
        device.augment, "draw", lambda *arguments: drawn.append(0) or draw(*arguments)
    )
    steps = device_steps(AUGMENTED)
    steps.begin(1, 0)
    assert len(drawn) == 0
    steps.run(0)
    assert len(drawn) == 1


@pytest.mark.parametrize(
    ("device", "precision", "message"),
    [
        ("gpu", "float32", "device must be 'cpu', 'cuda' or 'cuda:N', got 'gpu'"),
        ("cpu", "bf16", "precision 'bf16' needs a GPU: add --device cuda"),
        ("cpu", "tf32", "precision 'tf32' needs a GPU: add --device cuda"),
        ("cuda:99", "float32", "there is no device 'cuda:99': PyTorch finds"),
    ],
)
def test_devices_that_cannot_be(device: str, precision: str, message: str) -> None:
    with pytest.raises(InvalidInput) as error:
        configure(device, precision)
    assert message in str(error.value)


@needs_gpu
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_captured_steps_train(tmp_path, precision: str) -> None:
    experiment = replace(EXPERIMENT, dropout=0.0, precision=precision, epochs=60)
    configure("cuda", precision)
    run = Run.create(tmp_path, experiment)
    training.fit(run, few(), device="cuda")
    assert run.epochs()[-1]["train_accuracy"] > 0.9


@needs_gpu
def test_replayed_steps_are_those_that_were_captured() -> None:
    """A replayed graph uses new crops, flips and dropout masks at each step, as without a graph."""
    configure("cuda", "float32", deterministic=True)
    found = []
    for capture in (False, True):
        train, _, _ = training.splits(AUGMENTED, few())
        net = training.build_network(AUGMENTED, (1, 8, 8), 10).cuda().train()
        optimizer = training.build_optimizer(AUGMENTED, net)
        parts = net, optimizer, train.to("cuda"), AUGMENTED
        found.append(run_epochs(DeviceSteps(*parts, capture=capture), 3))
    torch.use_deterministic_algorithms(False)
    for plain, replayed in zip(*found, strict=True):
        assert replayed.correct == plain.correct
        assert replayed.loss == pytest.approx(plain.loss, rel=1e-5)


@needs_gpu
def test_deterministic_steps_repeat_and_resume(tmp_path) -> None:
    configure("cuda", "float32", deterministic=True)
    runs = [Run.create(tmp_path / name, AUGMENTED) for name in "ab"]
    for run in runs:
        training.fit(run, few(), device="cuda")
    one, other = (run.load_checkpoint("last")[0] for run in runs)
    for name, value in one.items():
        assert torch.equal(value.nan_to_num(-1), other[name].nan_to_num(-1))
    torch.use_deterministic_algorithms(False)


@needs_gpu
def test_divergence_on_the_device(tmp_path) -> None:
    broken = few()
    images = torch.full_like(broken.train_images, float("nan"), dtype=torch.float32)
    broken = replace(broken, train_images=images)
    with pytest.raises(Diverged, match="epoch 1, step 1"):
        training.fit(Run.create(tmp_path, EXPERIMENT), broken, device="cuda")
