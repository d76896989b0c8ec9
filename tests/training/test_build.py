"""Tests of what is built from an experiment, and of data that do not fit it."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tsslbp.data
from tsslbp import layers, training
from tsslbp.data import Frames
from tsslbp.errors import InvalidInput
from tsslbp.experiment import Experiment, ProtocolName
from tsslbp.layers.dropout import DROPOUT
from tsslbp.network import Model
from tsslbp.training.build import check_data

from .toy import EXPERIMENT, toy, trained


def test_initial_weights_do_not_depend_on_rule_time_or_loss() -> None:
    other = replace(EXPERIMENT, rule=tsslbp.TSSLBP.published(), time_steps=7, loss="softmax")
    nets = [training.build_network(one, (1, 6, 6), 2) for one in (EXPERIMENT, other)]
    for first, second in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("kind", ["rows", "neurons"])
def test_the_kind_of_dropout_reaches_the_network(kind: str) -> None:
    net = training.build_network(replace(EXPERIMENT, dropout_kind=kind), (1, 6, 6), 2)
    found = [type(layer) for layer in net.layers if type(layer) in DROPOUT.values()]
    assert found == [DROPOUT[kind]] * 2


@pytest.mark.parametrize(("protocol", "left"), [("published", 60), ("validated", 48)])
def test_train_images_are_a_fixed_part_of_those_left(protocol: ProtocolName, left: int) -> None:
    experiment = replace(EXPERIMENT, protocol=protocol)
    everything, validation, test = training.splits(experiment, toy())
    some, same_validation, same_test = training.splits(
        replace(experiment, train_images=20, seed=3), toy()
    )
    assert len(everything.labels) == left and len(some.labels) == 20
    rows = {tuple(image.flatten().tolist()) for image in everything.images}
    assert all(tuple(image.flatten().tolist()) in rows for image in some.images)
    assert torch.equal(test.images, same_test.images)
    assert (validation is None) == (same_validation is None) == (protocol == "published")
    if validation and same_validation:
        assert torch.equal(validation.images, same_validation.images)


def test_data_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"train_images must be at most 48, .* got 49"):
        trained(tmp_path / "e", replace(EXPERIMENT, train_images=49))
    with pytest.raises(InvalidInput, match="validation_images must be between 1 and 59"):
        trained(tmp_path / "a", replace(EXPERIMENT, validation_images=60))
    with pytest.raises(InvalidInput, match="between 1 and 59 for toy, got 5000, the default"):
        trained(tmp_path / "default", replace(EXPERIMENT, validation_images=5000))
    single = replace(
        toy(), train_images=toy().train_images[:1], train_labels=toy().train_labels[:1]
    )
    with pytest.raises(InvalidInput, match="has only 1 training image, so none can be held out"):
        check_data(EXPERIMENT, single)
    three = replace(EXPERIMENT, mean=(0.0,) * 3, std=(1.0,) * 3)
    with pytest.raises(InvalidInput, match=r"images of 1 channel: give one number$"):
        trained(tmp_path / "b", three)
    with pytest.raises(InvalidInput, match=r"crop_padding must be below .* 6 x 6 for toy, got 6"):
        trained(tmp_path / "d", replace(EXPERIMENT, crop_padding=6))
    with pytest.raises(InvalidInput, match="too small for this network"):
        trained(tmp_path / "c", replace(EXPERIMENT, network="4C7"))


SCHEDULES = {
    "constant": ({}, [0.01] * 8),
    "warm-up": ({"warm_up_epochs": 1.5}, [0.01 / 3, 0.02 / 3, *[0.01] * 6]),
    "cosine": (
        {"schedule": "cosine", "final_learning_rate": 0.002},
        [0.002 + 0.004 * (1 + math.cos(math.pi * step / 8)) for step in range(8)],
    ),
    "cosine after a warm-up": (
        {"schedule": "cosine", "warm_up_epochs": 1.0},
        [0.005, 0.01, *(0.005 * (1 + math.cos(math.pi * step / 6)) for step in range(6))],
    ),
    "every so many epochs": (
        {"schedule": "step", "step_epochs": 2, "step_factor": 0.5},
        [*[0.01] * 4, *[0.005] * 4],
    ),
    "after some epochs": (
        {"schedule": "step", "step_epochs": [1, 3]},
        [*[0.01] * 2, *[0.001] * 4, *[0.0001] * 2],
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name: str) -> None:
    """The learning rates of four epochs of two steps are those calculated by hand."""
    changes, expected = SCHEDULES[name]
    experiment = replace(EXPERIMENT, epochs=4, **changes)
    found = [training.build.learning_rate(experiment, step, 2) for step in range(8)]
    assert found == pytest.approx(expected, rel=1e-12)
    assert training.build.rate_moves(experiment) == (len(set(expected)) > 1)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_what_does_not_decay(optimizer: str) -> None:
    """Biases, constants and norms, whatever their shape, are neither decayed nor bounded.

    The weights of NeuNorm's auxiliary neurons are, like those of other connections.
    """

    class Net(Model):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm = torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)
            self.maps, self.images = layers.NeuNorm((2, 3, 3)), torch.nn.LayerNorm((3, 4))
            self.tau = torch.nn.Parameter(torch.tensor(2.0))

    net = Net()
    built = training.build_optimizer(replace(EXPERIMENT, optimizer=optimizer), net)
    decays = {
        name: group["weight_decay"]
        for group in built.param_groups
        for name, weight in net.named_parameters()
        if any(weight is one for one in group["params"])
    }
    assert decays == {name: 0.0 for name, _ in net.named_parameters()} | {
        "linear.weight": 0.01,
        "maps.weight": 0.01,
    }
    kinds = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    assert type(built).__base__ is kinds[optimizer]
    assert {group.get("momentum") for group in built.param_groups} == (
        {0.9} if optimizer == "sgd" else {None}
    )
    with torch.no_grad():
        net.maps.weight.fill_(9.0)
        before = {name: weight.clone() for name, weight in net.named_parameters()}
    for weight in net.parameters():
        weight.grad = torch.zeros_like(weight)
    built.step()
    training.step.clamp_weights(net.connection_weights(), 0.5)
    moved = {
        name for name, weight in net.named_parameters() if not torch.equal(weight, before[name])
    }
    assert moved == {"linear.weight", "maps.weight"}
    assert net.maps.weight.abs().max() <= 0.5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cutout": 6}, ["cutout must be below the images' size, 6 x 6 for toy, got 6"]),
        ({"crop_padding": 6}, ["crop_padding must be below", "could be all black"]),
    ],
)
def test_augmentation_that_leaves_nothing(changes: dict, words: list[str]) -> None:
    with pytest.raises(InvalidInput) as error:
        training.check_data(replace(EXPERIMENT, **changes), toy())
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("key", ["rotate", "translate", "brightness", "mixup"])
def test_augmentation_of_images_alone(key: str) -> None:
    images = toy().train_images
    frames = Frames.from_dense((images > 1).float()[:, None].expand(-1, 4, -1, -1, -1))
    data = replace(toy(), train_images=frames, test_images=frames[:20])
    training.check_data(replace(EXPERIMENT, roll=2, cutout=3, horizontal_flip=True), data)
    with pytest.raises(
        InvalidInput, match=f"{key} applies only to images, but toy holds recordings"
    ):
        training.check_data(replace(EXPERIMENT, **{key: 0.1}), data)
    training.check_data(replace(EXPERIMENT, **{key: 0.1}), toy())


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_optimisers_are_pytorchs(name: str) -> None:
    """Without their preparations for torch.compile, they step and resume bit for bit alike."""
    experiment = replace(EXPERIMENT, optimizer=name)
    net = training.build_network(experiment, (1, 4, 4), 2)
    optimizer = training.build_optimizer(experiment, net)
    kind = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[name]
    expected = copy.deepcopy(net)
    (group,) = optimizer.param_groups
    whole = kind([{**group, "params": list(expected.parameters())}])
    assert isinstance(optimizer, kind) and type(whole) is not type(optimizer)

    def train(optimizer: torch.optim.Optimizer, net: Model, *steps: int) -> None:
        for step in steps:
            optimizer.zero_grad()
            for number, weight in enumerate(net.parameters()):
                draw = torch.Generator().manual_seed(10 * step + number)
                weight.grad = torch.randn(weight.shape, generator=draw)
            optimizer.step()

    train(whole, expected, 0, 1, 2, 3)
    train(optimizer, net, 0, 1)
    resumed = training.build_optimizer(experiment, net)
    resumed.load_state_dict(optimizer.state_dict())
    called: list[object] = []
    resumed.register_step_post_hook(lambda *_: called.append(_))
    train(resumed, net, 2, 3)
    assert len(called) == 2
    assert all(map(torch.equal, net.parameters(), expected.parameters()))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_frozen_layers_stay_as_they_are(optimizer: str) -> None:
    """Neither gradient, decay nor clamping changes frozen layers; the others train as usual."""
    table = EXPERIMENT.to_table() | {"optimizer": optimizer, "freeze": ["conv1"], "epochs": 1}
    wanted = Experiment.from_table(table | {"weight_decay": 0.5, "weight_limit": 0.01})
    ready = training.Training(wanted, toy())
    before = {key: value.clone() for key, value in ready.net.state_dict().items()}
    assert before["conv1.weight"].abs().max() > 0.01
    held = [one for group in ready.state.optimizer.param_groups for one in group["params"]]
    assert len(held) == len(before) - 1 and not ready.net.conv1.weight.requires_grad
    ready.fit(None)
    after = ready.net.state_dict()
    assert torch.equal(after["conv1.weight"], before["conv1.weight"])
    assert not torch.equal(after["linear2.weight"], before["linear2.weight"])
    assert after["linear2.weight"].abs().max() <= 0.01


def test_frozen_layers_in_the_middle_pass_gradients_on() -> None:
    wanted = replace(EXPERIMENT, freeze=("linear2", "output"), epochs=1)
    ready = training.Training(wanted, toy())
    before = {key: value.clone() for key, value in ready.net.state_dict().items()}
    ready.fit(None)
    equal = {key: torch.equal(value, before[key]) for key, value in ready.net.state_dict().items()}
    assert equal == {"conv1.weight": False, "linear2.weight": True, "output.weight": True}


def test_layers_of_a_module_are_frozen_by_their_paths() -> None:
    module = torch.nn.Sequential(
        torch.nn.Sequential(layers.Conv(1, 4, 3), layers.BatchNorm(4), layers.LIF(time_steps=4)),
        torch.nn.Flatten(-3),
        layers.Linear(64, 2),
    )
    before = {key: value.clone() for key, value in module.state_dict().items()}
    settings = {"epochs": 1, "validation_images": 12, "time_steps": 4, "loss": "tet"}
    tsslbp.fit(module, toy(), freeze=["0"], **settings)
    after = module.state_dict()
    parameters = dict(module.named_parameters())
    same = [key for key in parameters if torch.equal(after[key], before[key])]
    assert same == [key for key in parameters if key.startswith("0.")] and len(same) == 3
    assert not torch.equal(after["0.1.running_mean"], before["0.1.running_mean"])
    message = r"freeze: the module has no layer '1' with parameters.*; known: 0.0, 0.1, 2$"
    with pytest.raises(InvalidInput, match=message):
        tsslbp.fit(module, toy(), freeze=["0", "1"], **settings)


def test_layers_that_cannot_be_frozen() -> None:
    message = (
        r"freeze: 4C3-P2-12 has no layer 'conv2' with parameters \(did you mean 'conv1'\?\); "
        "known: conv1, linear2, output$"
    )
    with pytest.raises(InvalidInput, match=message):
        training.Training(replace(EXPERIMENT, freeze=("conv2",)), toy())
    everything = ("conv1", "linear2", "output")
    with pytest.raises(InvalidInput, match="leaves no parameters of 4C3-P2-12 to train"):
        training.Training(replace(EXPERIMENT, freeze=everything), toy())
