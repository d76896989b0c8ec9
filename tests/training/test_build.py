"""What an experiment becomes: splits, network, and which data fit it."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tsslbp.data
from tsslbp import training
from tsslbp.errors import InvalidInput
from tsslbp.experiment import ProtocolName
from tsslbp.experiment.seeding import derive, generator
from tsslbp.layers.dropout import DROPOUT

from .toy import EXPERIMENT, toy, trained


def test_randomness_does_not_depend_on_rule_or_time(tmp_path: Path) -> None:
    """Two rules and two T see the same initial weights, the same order and the same masks."""
    other = replace(EXPERIMENT, rule=tsslbp.TSSLBP.published(), time_steps=7, loss="softmax")
    nets = [training.build_network(one, (1, 6, 6), 2) for one in (EXPERIMENT, other)]
    for first, second in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(first, second)
    order = [torch.randperm(50, generator=generator(3, "order", 2)) for _ in range(2)]
    assert torch.equal(*order)
    places = itertools.product((0, 1), ("order", "dropout", "augmentation"), (0, 1), (0, 1))
    assert len({derive(*place) for place in places}) == 24


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
    three = replace(EXPERIMENT, mean=(0.0,) * 3, std=(1.0,) * 3)
    with pytest.raises(InvalidInput, match="images of 1 channels"):
        trained(tmp_path / "b", three)
    with pytest.raises(InvalidInput, match=r"crop_padding must be below .* 6 x 6 for toy, got 6"):
        trained(tmp_path / "d", replace(EXPERIMENT, crop_padding=6))
    with pytest.raises(InvalidInput, match="too small for this network"):
        trained(tmp_path / "c", replace(EXPERIMENT, network="4C7"))
