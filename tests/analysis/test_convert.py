"""Tests of conversion: ReLU twin, weight balancing, integrate-and-fire neurons, calibration."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tsslbp
from tsslbp import Network, losses, training
from tsslbp.analysis import convert
from tsslbp.analysis.convert import ConvertedNetwork, ReLUNetwork
from tsslbp.data import DataSet, load, normalise
from tsslbp.errors import InvalidInput
from tsslbp.experiment import load_recipe
from tsslbp.run import Run
from tsslbp.run.results import Result, group, measures
from tsslbp.training import Observer

Digits = tuple[Run, DataSet, ReLUNetwork]

NAMES = ["conv1", "conv2", "linear3", "output"]


def relu_network(description: str = "4C3-P2-6C3-7", **settings) -> ReLUNetwork:
    """Return a small random network for the images below."""
    settings = {"input_shape": (2, 9, 8), "classes": 3, "padding": 1} | settings
    generator = torch.Generator().manual_seed(0)
    return ReLUNetwork(Network(description, generator=generator, **settings)).double().eval()


def images(count: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 2, 9, 8, generator=generator, dtype=torch.float64)


def error(net: ReLUNetwork, converted: ConvertedNetwork, x: Tensor) -> float:
    """Return the root mean square error of the outputs' mean over time."""
    return (converted(x).mean(0) - net(x)[0]).square().mean().sqrt().item()


# The ReLU twin


def test_twin_has_the_weights_and_shapes_of_the_spiking_network() -> None:
    spiking = Network("P2-4C3-P2-7", (1, 12, 12), dropout=0.2)
    twin = ReLUNetwork(spiking)
    assert len(list(twin.parameters())) == 3
    for one, other in zip(twin.parameters(), spiking.parameters(), strict=True):
        assert torch.equal(one, other) and one is not other
    assert twin(torch.randn(5, 1, 12, 12)).shape == (1, 5, 10)


def test_twin_has_the_keys_of_the_spiking_network() -> None:
    """Weights can be exchanged in both directions; states with numbered keys are also loaded."""
    spiking, twin = Network("P2-4C3-P2-7", (1, 12, 12), dropout=0.2), relu_network("4C3-P2-7")
    other = ReLUNetwork(Network("P2-4C3-P2-7", (1, 12, 12)))
    assert list(other.state_dict()) == list(spiking.state_dict())
    other.load_state_dict(spiking.state_dict())
    assert torch.equal(other.get_parameter("conv2.weight"), spiking.get_parameter("conv2.weight"))
    numbers = {"conv1": 0, "linear2": 3, "output": 5}
    old = {
        f"layers.{number}.connection.weight": 2 * twin.get_parameter(f"{name}.weight").detach()
        for name, number in numbers.items()
    }
    twin.load_state_dict(old)
    assert all(map(torch.equal, twin.state_dict().values(), old.values()))


def test_twin_is_its_formula() -> None:
    net, x = relu_network("4C3-P2-7", pool_scale=0.5), images()
    conv, linear, output = net.parameters()
    first = torch.nn.functional.conv2d(x, conv, padding=1).relu()
    pooled = 2 * torch.nn.functional.avg_pool2d(first, 2)  # 4 values a window, halved
    second = (pooled.flatten(1) @ linear.T).relu()
    torch.testing.assert_close(net(x)[0], second @ output.T)
    found = net.activations(x)
    assert list(found) == ["conv1", "linear2", "output"]
    for one, other in zip(found.values(), (first, second, second @ output.T), strict=True):
        torch.testing.assert_close(one, other)


def test_twin_refuses_what_lives_in_time() -> None:
    with pytest.raises(InvalidInput, match="neunorm=false"):
        ReLUNetwork(Network("4C3-7", (1, 8, 8), neunorm=True))
    with pytest.raises(InvalidInput, match=r"expected images \[N, 2, 9, 8\].*spike trains"):
        relu_network()(images()[None])


# Weight balancing


def test_balancing_leaves_the_function_alone_up_to_a_factor() -> None:
    net, x, scales = relu_network(), images(), dict(zip(NAMES, (3.0, 0.2, 5.0, 0.7), strict=True))
    before = net.activations(x)
    for name, activation in convert.balanced(net, scales).activations(x).items():
        torch.testing.assert_close(activation * scales[name], before[name])
    del scales["output"]
    torch.testing.assert_close(convert.balanced(net, scales)(x), net(x))
    assert torch.equal(net.activations(x)["conv2"], before["conv2"])  # the argument is left alone


@pytest.mark.parametrize("percentile", [100, 99, 50])
def test_thresholds_leave_so_many_activations_below_one(percentile: float) -> None:
    net, x = relu_network(), images()
    balanced = convert.plain(net, x, 1, percentile).relu
    for name, activation in balanced.activations(x).items():
        largest_allowed = activation <= 1 + 1e-12
        if name != "output" and activation.median() > 0:
            assert largest_allowed.double().mean() >= percentile / 100
            assert (activation < 1 - 1e-12).double().mean() < percentile / 100


def test_silent_layers_convert() -> None:
    net, x = relu_network(), images()
    next(net.parameters()).data.zero_()
    for converted in (convert.plain(net, x, 4), convert.calibrated(net, x, 4)):
        assert torch.equal(converted(x), torch.zeros(4, 20, 3).double())


@pytest.mark.parametrize("percentile", [0, 100.1, math.nan])
def test_a_percentile_out_of_range(percentile: float) -> None:
    with pytest.raises(InvalidInput, match="above 0 and at most 100"):
        convert.plain(relu_network(), images(), 2, percentile)


# Integrate-and-fire neurons


@pytest.mark.parametrize("initial", [0.0, 0.5])
def test_a_neuron_by_hand(initial: float) -> None:
    """A constant current x causes floor((x T + v0) / threshold) spikes, limited to 0 to T."""
    threshold, steps = 2.0, 9
    net = relu_network("1", input_shape=(1, 1, 1), classes=1)
    for weight in net.parameters():
        weight.data.fill_(1.0)
    converted = ConvertedNetwork(convert.balanced(net, {"linear1": threshold}), steps, initial)
    currents = [-0.5, 0.0, 0.125, 0.75, 1.0, 1.625, 2.0, 3.0]
    x = torch.tensor(currents).double().view(-1, 1, 1, 1)
    counts = sum(emitted["linear1"][0, :, 0] for emitted in converted.simulate(x))
    expected = [math.floor((one * steps + initial * threshold) / threshold) for one in currents]
    assert counts.tolist() == [min(max(count, 0), steps) for count in expected]
    torch.testing.assert_close(converted(x).sum(0)[:, 0], threshold * counts)


def test_spikes_come_as_early_as_they_can_and_the_rest_is_kept() -> None:
    """The potential before each reset is 0.75, 1.5, 1.25 and 1, and then the same again."""
    net = relu_network("1", input_shape=(1, 1, 1), classes=1)
    for weight in net.parameters():
        weight.data.fill_(1.0)
    x = torch.full((1, 1, 1, 1), 0.75).double()
    train = [int(emitted["linear1"]) for emitted in ConvertedNetwork(net, 6).simulate(x)]
    assert train == [0, 1, 1, 1, 0, 1]


def test_many_steps_approach_the_relu_network() -> None:
    """The error decreases as 1/T if no activation is above its threshold."""
    net, x = relu_network(), images(8)
    errors = [error(net, convert.plain(net, x, steps, 100), x) for steps in (10, 100, 1000)]
    assert 5 < errors[0] / errors[1] < 20
    assert 5 < errors[1] / errors[2] < 20
    assert errors[2] < 0.01 * net(x).std()


def test_no_state_is_kept_and_images_are_apart() -> None:
    net, x = relu_network(), images()
    converted = convert.calibrated(net, x, 4)
    assert torch.equal(converted(x), converted(x))
    torch.testing.assert_close(converted(x[:3]), converted(x)[:, :3])


# Calibration


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_expressible_is_what_a_neuron_passes_on(steps: int) -> None:
    net = relu_network("1", input_shape=(1, 1, 1), classes=1)
    for weight in net.parameters():
        weight.data.fill_(1.0)
    converted = ConvertedNetwork(convert.balanced(net, {"linear1": 2.0}), steps, initial=0.5)
    x = torch.linspace(-1, 3, 97).double()
    outputs = converted(x.view(-1, 1, 1, 1)).mean(0)[:, 0]
    torch.testing.assert_close(outputs, convert.expressible(x, 2.0, steps))


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_the_threshold_has_the_least_error(steps: int) -> None:
    activation = torch.randn(1000, generator=torch.Generator().manual_seed(0)).double().relu()

    def squares(threshold: float) -> float:
        return (convert.expressible(activation, threshold, steps) - activation).square().sum()

    found = convert.least_error_threshold(activation, steps)
    largest = activation.max().item()
    assert all(squares(found) <= squares(largest * part / 20) for part in range(1, 21))
    assert found < largest


def test_a_threshold_that_needs_no_compromise() -> None:
    assert convert.least_error_threshold(torch.tensor([0.0, 1.0, 2.0, 4.0]), 4) == 4.0


@pytest.mark.parametrize("steps", [2, 4, 8, 16])
def test_calibration_helps_when_steps_are_few(steps: int) -> None:
    net, x = relu_network(weight_scale=2), images(60)
    fitted, other = x[:30], x[30:]
    plain, calibrated = convert.plain(net, fitted, steps), convert.calibrated(net, fitted, steps)
    assert error(net, calibrated, other) < 0.7 * error(net, plain, other)


# Training and measuring


def train(run: Run, data: DataSet, observer: Observer | None = None) -> ReLUNetwork:
    net = convert.build_relu_network(run.experiment, data)
    assert training.fit(run, data, observer, net=net) is net
    return net


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    experiment = convert.relu_experiment(replace(load_recipe("digits"), epochs=6))
    run, data = Run.create(tmp_path_factory.mktemp("relu") / "run", experiment), load("digits")
    return run, data, train(run, data)


def test_training_begins_as_the_spiking_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have the same initial weights, first batch, clipping and dropout seed."""
    seen = []

    def spy(net, optimizer, loss, images, labels, **settings) -> None:
        seen.append((next(net.parameters()).detach().clone(), images, torch.rand(3), settings))
        raise InterruptedError

    experiment = replace(load_recipe("digits"), crop_padding=1, gradient_clip=0.3)
    monkeypatch.setattr(Network, "activity", lambda *_: {})
    monkeypatch.setattr(training.step, "train_step", spy)
    twin = Run.create(tmp_path / "relu", convert.relu_experiment(experiment))
    with pytest.raises(InterruptedError):
        train(twin, load("digits"))
    with pytest.raises(InterruptedError):
        training.fit(Run.create(tmp_path / "run", experiment), load("digits"))
    (*tensors, settings), (*expected, expected_settings) = seen
    for one, other in zip(tensors, expected, strict=True):
        assert torch.equal(one, other)
    assert settings.keys() == expected_settings.keys() and settings["gradient_clip"] == 0.3
    assert settings["weight_limit"] == expected_settings["weight_limit"]


def test_validation_images_choose_the_epoch(trained: Digits) -> None:
    run, data, net = trained
    record = measures(run.epochs())["best-validation"]
    _, validation, test = training.splits(run.experiment, data)
    statistics = run.experiment.mean, run.experiment.std
    assert not net.training
    assert training.evaluate(net, validation, *statistics) == [record["validation_accuracy"]]
    assert training.evaluate(net, test, *statistics) == [record["test_accuracy"]]


def test_the_records_say_nothing_of_spikes(trained: Digits) -> None:
    run, _, _ = trained
    assert [one["epoch"] for one in run.epochs()] == [1, 2, 3, 4, 5, 6]
    for record in run.epochs():
        assert record.keys() == {
            *("epoch", "loss", "train_accuracy", "gradient_norm", "validation_accuracy"),
            *("test_accuracy", "test_accuracy_by_step", "seconds", "images_per_second"),
            *("evaluation_seconds", "peak_memory"),
        }
        assert record["test_accuracy_by_step"] == [record["test_accuracy"]]
    assert len(run.steps()["loss"]) == 6 * 26
    assert len(run.steps()["activity_step"]) == 0


def test_a_run_of_a_relu_network_resumes(tmp_path: Path, trained: Digits) -> None:
    """A run with dropout and crops, stopped within an epoch, resumes with bit-identical results."""
    base = replace(load_recipe("digits"), epochs=2, dropout=0.2, crop_padding=1, train_images=400)
    experiment, data = convert.relu_experiment(base), load("digits")
    whole, parts = (Run.create(tmp_path / name, experiment) for name in ("whole", "parts"))
    expected = train(whole, data)

    class Stop:
        def on_step(self, epoch: int, step: int, *_: object) -> None:
            if (epoch, step) == (2, 3):
                raise KeyboardInterrupt

        def on_epoch(self, record: dict[str, Any]) -> None:
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.loop, "CHECKPOINT_SECONDS", 0.0)  # a checkpoint after every step
        with pytest.raises(KeyboardInterrupt):
            train(parts, data, Stop())
    assert parts.load_checkpoint("last")[1]["progress"]["step"] == 2
    found = train(Run.open(parts.folder), data)
    for one, other in zip(found.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other)
    for name in ("last", "best-validation", "best-test"):
        tensors, other = (run.load_checkpoint(name)[0] for run in (parts, whole))
        assert tensors.keys() == other.keys()
        assert all(torch.equal(tensors[key], other[key]) for key in tensors)


def test_what_needs_spikes_does_not_matter() -> None:
    recipe = load_recipe("digits")
    other = replace(recipe, time_steps=7, rule="NA", tau_m=9.0, loss="softmax", desired_train=None)
    assert convert.relu_experiment(recipe) == convert.relu_experiment(other)
    assert convert.relu_experiment(replace(recipe, dropout=0.2)).dropout == 0.2


def test_nothing_takes_the_run_for_a_spiking_one(trained: Digits, tmp_path: Path) -> None:
    run, data, _ = trained
    for network in (
        lambda: tsslbp.load(run.folder),
        lambda: training.build_network(run.experiment, data.input_shape, data.classes),
        lambda: training.fit(Run.create(tmp_path / "run", run.experiment), data),
    ):
        with pytest.raises(
            InvalidInput, match="without spikes, which only `tsslbp convert` trains"
        ):
            network()
    spiking = Result.read(run.folder)
    spiking = replace(spiking, experiment=replace(spiking.experiment, activation=None))
    assert [one.label for one in group([Result.read(run.folder), spiking])] == [
        "digits, activation = 'relu', desired_train = None, epochs = 6, loss = 'softmax'",
        "digits, desired_train = None, epochs = 6, loss = 'softmax'",
    ]


def test_ten_steps_are_enough_for_digits(trained: Digits) -> None:
    run, data, net = trained
    found = convert.by_steps(run.experiment, data, net, [3, 10])
    relu = measures(run.epochs())["best-validation"]["test_accuracy"]
    by_step = found["calibrated"]["10"]
    assert relu > 0.94
    assert by_step["test_accuracy_by_step"][-1] > relu - 0.02
    calibrated = found["calibrated"]["3"]["test_accuracy_by_step"][-1]
    assert calibrated > found["plain"]["test_accuracy_by_step"][2] + 0.1
    assert [len(one) for one in found["plain"].values()] == [10, 10]


def test_measures_count_spikes_and_hits(trained: Digits) -> None:
    run, data, net = trained
    statistics = run.experiment.mean, run.experiment.std
    split = training.Split(data.test_images[:230], data.test_labels[:230])
    x = normalise(split.images, *statistics)
    converted = convert.calibrated(net, x, 3)
    found = convert.measure(converted, split, *statistics)
    assert found["test_accuracy_by_step"] == training.evaluate(converted, split, *statistics)
    emitted = [list(step.values())[:-1] for step in converted.simulate(x)]
    total = sum(layer.sum().item() for step in emitted for layer in step)
    spikes = found["spikes_per_image_by_step"]
    assert spikes[-1] == pytest.approx(total / 230)
    assert all(set(layer.unique().tolist()) <= {0.0, 1.0} for layer in emitted[0])
    assert 0 < spikes[0] < spikes[1] < spikes[2]


def test_patience_ends_the_training(tmp_path: Path) -> None:
    recipe = replace(load_recipe("digits"), learning_rate=1e-12, epochs=5, patience=2)
    run = Run.create(tmp_path, convert.relu_experiment(replace(recipe, train_images=50)))
    train(run, load("digits"))
    assert [record["epoch"] for record in run.epochs()] == [1, 2, 3]


def test_the_loss_is_the_cross_entropy() -> None:
    outputs, labels = torch.randn(1, 4, 3), torch.tensor([0, 2, 1, 1])
    expected = torch.nn.functional.cross_entropy(outputs[0], labels)
    torch.testing.assert_close(losses.softmax(outputs, labels), expected)
