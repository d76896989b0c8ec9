"""A custom module as a network for training: the interface of `Model`, and errors."""

import copy
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tsslbp import NA, TSSLBP, Network, Neuron, Surrogate, losses, training
from tsslbp.errors import Diverged, InvalidInput
from tsslbp.experiment import Experiment
from tsslbp.layers import LIF, BatchNorm, Conv, InitialWeights, Linear, NeuronDropout, Residual
from tsslbp.network import CustomNetwork
from tsslbp.rules import Rule
from tsslbp.run import Run
from tsslbp.training.averaging import AveragedWeights

from ..training.toy import EXPERIMENT, assert_same_run, toy

SHAPE, CLASSES, STEPS = (2, 9, 8), 3, 5


def twins(rule: Rule = TSSLBP(), **settings: Any) -> tuple[Network, CustomNetwork]:  # noqa: B008
    """Return a network from a description, and one made of modules with the same weights."""
    random = torch.Generator().manual_seed(0)
    net = Network("4C3-P2-6C3-7", SHAPE, CLASSES, padding=1, weight_scale=4, generator=random)
    for layer in net.spiking_layers:
        layer.neurons = replace(layer.neurons, rule=rule)
    constants: tuple[Any, ...] = 5.0, 3.0, 1.0, rule
    module = nn.Sequential(
        *(Conv(2, 4, 3, padding=1), LIF(*constants, time_steps=STEPS, pool=2, pool_scale=1.1)),
        *(Conv(4, 6, 3, padding=1), LIF(*constants), nn.Flatten(-3)),
        *(Linear(6 * 4 * 4, 7), LIF(*constants), Linear(7, 3), LIF(*constants, output_psc=True)),
    )
    module.load_state_dict(dict(zip(module.state_dict(), net.state_dict().values(), strict=True)))
    return net, CustomNetwork(module, SHAPE, CLASSES, STEPS, **settings)


def images(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape or (6, *SHAPE), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("frames", [False, True])
@pytest.mark.parametrize("rule", [TSSLBP(), TSSLBP.published(), NA(), Surrogate()])
def test_a_network_of_modules_is_the_network(rule: Rule, frames: bool) -> None:
    """Outputs, gradients, activity and traces are equal bit for bit."""
    net, custom = twins(rule, frames=frames)
    x = images(STEPS, 6, *SHAPE) if frames else images()
    outputs = net(x), custom(x)
    assert torch.equal(*outputs) and outputs[0].any()
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    for output in outputs:
        losses.van_rossum(output, labels).backward()
    for one, other in zip(net.parameters(), custom.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad) and one.grad.any()
    assert list(custom.neuron_counts.values()) == list(net.neuron_counts.values())
    assert list(custom.neuron_counts) == ["1", "3", "6", "8"]
    assert list(custom.activity(x).values()) == list(net.activity(x).values())
    for one, other in zip(net.trace(x).values(), custom.trace(x).values(), strict=True):
        assert all(map(torch.equal, one, other))


def test_what_processes_share_reaches_the_neurons() -> None:
    """The mean over all processes determines both the gradients and the recorded activity."""
    net, custom = twins(TSSLBP.published(rate_threshold=0.5))

    def high(total: Tensor, values: int) -> Tensor:
        return torch.full((), 0.9)

    x, labels = images(), torch.tensor([0, 1, 2, 0, 1, 2])
    for one in (net, custom):
        losses.van_rossum(one(x, high), labels).backward()
    gradients = [weight.grad.clone() for weight in custom.parameters()]
    for one, other in zip(net.parameters(), gradients, strict=True):
        assert torch.equal(one.grad, other)
    custom.zero_grad()
    losses.van_rossum(custom(x), labels).backward()
    assert not torch.equal(custom.module[0].weight.grad, gradients[0])
    rates = [one.firing_rate for one in custom.activity(x, high).values()]
    assert rates == pytest.approx([0.9] * 4)


def residual(learnable: tuple[str, ...] = ("tau_m",)) -> nn.Sequential:
    """Return a residual network for the images of toy.py."""
    neurons: tuple[Any, ...] = 2.0, 1.0, 1.0, Surrogate("arctangent"), learnable
    block = nn.Sequential(Conv(8, 8, 3, padding=1), BatchNorm(8), LIF(*neurons))
    return nn.Sequential(
        *(Conv(1, 8, 3), BatchNorm(8), LIF(*neurons, time_steps=4)),
        *(Residual(block), nn.Flatten(-3), NeuronDropout(0.2), Linear(8 * 16, 2, bias=True)),
    )


def small(**settings: Any) -> CustomNetwork:
    torch.manual_seed(0)
    return CustomNetwork(residual(**settings), (1, 6, 6), 2, 4)


def test_watching_changes_nothing() -> None:
    """Recording activity or traces changes neither the mode nor the running averages."""
    net = small()
    assert net.training and net.module[1].running_mean.eq(0).all()  # nor did the trial pass
    before = {key: value.clone() for key, value in net.state_dict().items()}
    x = images(7, 1, 6, 6)
    activity = net.activity(x)
    assert net.first_nonfinite(x) is None and net.trace(x)
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(0 < one.firing_rate < 1 and one.warm_up is None for one in activity.values())
    assert list(activity) == ["2", "3.body.2"] == list(net.neuron_counts)
    assert net.neuron_counts == {"2": 8 * 16, "3.body.2": 8 * 16}
    assert not any(part._forward_hooks for part in net.modules())
    net(x)
    assert net.module[1].running_mean.any()
    assert net.activity(x) == activity  # it uses the batch's statistics, not the averages


SETTINGS = replace(EXPERIMENT, loss="softmax", epochs=2)
MODERN: dict[str, Any] = {
    **{"optimizer": "sgd", "schedule": "cosine", "warm_up_epochs": 0.5, "average_weights": 0.9},
    **{"loss": "tet", "label_smoothing": 0.1, "batch_size": 3, "accumulate": 2, "mixup": 0.4},
    **{"crop_padding": 1, "roll": 1, "rotate": 9.0, "translate": 0.1, "cutout": 2},
}


def run(folder: Path, experiment: Experiment = SETTINGS) -> Run:
    one = Run.create(folder, experiment)
    training.fit(one, toy(), net=small())
    return one


def test_training(tmp_path: Path) -> None:
    """A custom network learns, and its records, checkpoint and learned constants are kept."""
    done = run(tmp_path / "run", replace(SETTINGS, epochs=4))
    record = done.epochs()[-1]
    assert record["validation_accuracy"] > 0.9 and record["train_accuracy"] > 0.9
    assert list(record["firing_rate"]) == ["2", "3.body.2"]
    rates = record["firing_rate"].values()
    assert record["spikes_per_image"] == pytest.approx(4 * 8 * 16 * sum(rates))
    weights, _ = done.load_checkpoint("last")
    assert weights["weights.module.2.raw_tau_m"].item() != 0.0  # its value at the start, tau_m = 2
    assert weights["weights.module.1.running_mean"].any()


@pytest.mark.parametrize("changes", [{}, MODERN])
def test_resume_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """Running averages and learned constants, too, are restored from within an epoch."""
    settings = replace(SETTINGS, **changes)
    expected = run(tmp_path / "whole", settings)
    monkeypatch.setattr(training.loop, "CHECKPOINT_SECONDS", 0.0)
    original, steps = training.step.train_step, []

    def stopping(*arguments: Any, **options: Any) -> Any:
        steps.append(1)
        if len(steps) == 10:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(training.step, "train_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", settings)
    monkeypatch.setattr(training.step, "train_step", original)
    stopped = Run.open(tmp_path / "stopped")
    training.fit(stopped, toy(), net=small())
    assert_same_run(stopped, expected)


def test_averages_include_the_running_statistics_of_norms() -> None:
    net = small()
    averaged = AveragedWeights(net, 0.9)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    net(images(7, 1, 6, 6))
    averaged.update(net, 1)  # the decay is 2/11 at first
    key = "module.1.running_mean"
    present = net.state_dict()[key]
    assert present.any()
    expected = before[key] * 2 / 11 + present * 9 / 11
    torch.testing.assert_close(averaged.values[key], expected)


def test_divergence_names_the_layer(tmp_path: Path) -> None:
    net = small()
    with torch.no_grad():
        net.module[3].body[0].weight[0, 0, 0, 0] = torch.nan
    one = Run.create(tmp_path / "run", SETTINGS)
    with pytest.raises(Diverged, match=r"first appears in the weights 3\.body\.0\.weight"):
        training.fit(one, toy(), net=net)
    net = small()
    net.module[1].running_var[0] = -1.0
    assert net.eval().first_nonfinite(images(7, 1, 6, 6)) == "the input of layer 2"


def test_an_ordinary_module() -> None:
    net, x = small().eval(), images(7, 1, 6, 6)
    twin = copy.deepcopy(net)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other = CustomNetwork(residual(), (1, 6, 6), 2, 4).eval()
    assert not torch.equal(other(x), net(x))
    other.load_state_dict(torch.load(file, weights_only=True))
    whole = io.BytesIO()
    torch.save(net, whole)
    whole.seek(0)
    for one in (twin, other, torch.load(whole, weights_only=False)):
        assert torch.equal(one(x), net(x))
        assert one.neuron_counts == net.neuron_counts
    assert net.waits_for_device and not small(learnable=()).waits_for_device
    assert net.double()(x.double()).dtype == torch.float64


def test_neurons_that_are_called_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.connection, self.neurons = Linear(12, 12), LIF(time_steps=3)
            self.unused, self.output = LIF(), Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.neurons(self.connection(x.flatten(1)))
            return self.output(self.neurons(self.connection(x)))

    net = CustomNetwork(Twice(), (1, 3, 4), 2, 3)
    assert net.neuron_counts == {"neurons": 12, "neurons (2)": 12}
    assert list(net.activity(images(5, 1, 3, 4))) == ["neurons", "neurons (2)"]


def test_na_without_an_output_layer_scales_each_layer_by_itself() -> None:
    module = nn.Sequential(
        nn.Flatten(-3), Linear(12, 9), LIF(rule=NA(), time_steps=3), Linear(9, 2)
    )
    net, x = CustomNetwork(module, (1, 3, 4), 2, 3), images(5, 1, 3, 4)
    net(x).square().sum().backward()
    grad = module[1].weight.grad.clone()
    net.zero_grad()
    module(x).square().sum().backward()
    assert torch.equal(module[1].weight.grad, grad) and grad.any()


def test_batch_norm_over_several_processes_is_refused() -> None:
    net, x = small(), images(7, 1, 6, 6)
    with pytest.raises(InvalidInput, match="cannot be split over processes"):
        net(x, torch.div)
    assert net.eval()(x, torch.div).shape == (4, 7, 2)


class Failing(nn.Module):
    """A module with neurons, which returns what `function` makes of their spikes."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function, self.neurons = function, LIF(time_steps=4)

    def forward(self, x: Tensor) -> Any:
        return self.function(self.neurons(x.flatten(1)))


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (3, "the network must be a torch.nn.Module, got int"),
        (
            nn.Linear(36, 2),
            "the network contains no tsslbp.layers.LIF, so it has no spiking neurons",
        ),
        (
            Failing(lambda spikes: spikes[..., :2].sum(0)),
            r"must return \[T, N, classes\] = \[4, 2, 2\], got \[2, 2\]; return the outputs of",
        ),
        (
            Failing(lambda spikes: spikes[..., :5]),
            r"got \[4, 2, 5\]; does its last connection have 2 outputs\?",
        ),
        (
            Failing(lambda spikes: spikes[:3, :, :2]),
            r"got \[3, 2, 2\]; does its first LIF have time_steps=4\?",
        ),
        (
            Failing(lambda spikes: spikes[..., :2].transpose(0, 1)),
            r"^the network must return .* got \[2, 4, 2\], which looks like \[N, T, classes\]",
        ),
        (Failing(lambda spikes: spikes[..., :2].long()), "got numbers of type torch.int64; return"),
        (Failing(lambda spikes: (spikes, 1)), "got tuple$"),
        (
            Failing(lambda spikes: spikes @ torch.zeros(3, 2)),
            r"input \[2, 1, 6, 6\]: RuntimeError: ",
        ),
        (Failing(lambda spikes: {}["a\nb"]), r"failed for an input \[2, 1, 6, 6\]: KeyError: 'a"),
        (
            nn.Sequential(nn.Flatten(-3), Linear(36, 2), LIF()),
            r"for an input \[2, 1, 6, 6\]: LIF expects .* static images time_steps",
        ),
        (
            nn.Sequential(Conv(1, 4, 3), LIF(time_steps=4), Linear(64, 2)),
            r"got shape \[4, 2, 4, 4, 4\]; put nn.Flatten\(-3\) before it",
        ),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(module: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as raised:
        CustomNetwork(module, (1, 6, 6), 2, 4)
    assert "\n" not in str(raised.value)


def test_neurons_that_are_not_called() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.spare, self.linear = LIF(), Linear(36, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.flatten(1)).expand(4, -1, -1)

    with pytest.raises(InvalidInput, match="the network calls none of its"):
        CustomNetwork(Around(), (1, 6, 6), 2, 4)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (images(7, 1, 6, 5), r"expected images \[N, 1, 6, 6\] or spike trains \[4, N, 1, 6, 6\]"),
        (images(7, 1, 6, 6).double(), "weights' dtype torch.float32, got torch.float64"),
        (images(7, 1, 6, 6) * torch.nan, "the input contains NaN or infinity"),
        ([1.0], "the input must be a tensor, got list: convert it with torch.as_tensor"),
    ],
)
def test_inputs_that_do_not_fit(x: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        small()(x)


def test_a_network_that_is_initialised_silent_is_counted_all_the_same() -> None:
    module = nn.Sequential(
        *(nn.Flatten(-3), Linear(36, 9, InitialWeights("kaiming", 0.0))),
        *(LIF(5.0, 3.0, 1.0, time_steps=4), Linear(9, 2)),
    )
    net = CustomNetwork(module, (1, 6, 6), 2, 4)
    assert net.neuron_counts == {"2": 9}
    assert net.activity(images(3, 1, 6, 6))["2"] == (0.0, 1.0)
    assert net.module[2].neurons.neuron == Neuron()
