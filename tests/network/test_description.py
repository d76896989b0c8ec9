"""Network descriptions: shapes, names, and errors that give the position."""

import re
from itertools import pairwise

import pytest

from tsslbp.errors import InvalidInput
from tsslbp.network.description import LayerPlan, plan

CNN1 = "96C3-256C3-P2-384C3-P2-384C3-256C3-1024-1024"
CNN2 = "128C3-256C3-P2-512C3-P2-1024C3-512C3-1024-512"


def test_plan_of_the_mnist_network() -> None:
    assert plan("15C5-P2-40C5-P2-300", (1, 28, 28), 10) == [
        LayerPlan("conv1", "conv", (1, 28, 28), (15, 12, 12), kernel=5, pool=2),
        LayerPlan("conv2", "conv", (15, 12, 12), (40, 4, 4), kernel=5, pool=2),
        LayerPlan("linear3", "linear", (40, 4, 4), (300,)),
        LayerPlan("output", "linear", (300,), (10,)),
    ]


@pytest.mark.parametrize(
    ("description", "input_shape", "padding", "parameters"),
    [
        ("15C5-P2-40C5-P2-300", (1, 28, 28), 0, 210_375),
        (CNN1, (3, 32, 32), 1, 21_156_384),
        (CNN2, (3, 32, 32), 1, 44_999_040),
        ("400-400", (1, 28, 28), 0, 784 * 400 + 400 * 400 + 400 * 10),
    ],
)
def test_parameters_of_published_networks(
    description: str, input_shape: tuple[int, ...], padding: int, parameters: int
) -> None:
    layers = plan(description, input_shape, 10, padding)
    assert sum(layer.parameters for layer in layers) == parameters


def test_shapes_follow_each_other() -> None:
    layers = plan(CNN1, (3, 32, 32), 10, 1)
    assert layers[0].in_shape == (3, 32, 32)
    for before, after in pairwise(layers):
        assert after.in_shape == before.out_shape


def test_padding_one_for_each_convolution() -> None:
    one, two = plan("12C5-P2-64C5-P2", (2, 34, 34), 10, (1, 0))[:2]
    assert (one.padding, one.out_shape) == (1, (12, 16, 16))
    assert (two.padding, two.out_shape) == (0, (64, 6, 6))


def test_padding_makes_a_kernel_fit() -> None:
    assert plan("4C5", (1, 3, 3), 2, 1)[0].out_shape == (4, 1, 1)
    with pytest.raises(InvalidInput, match="too small"):
        plan("4C5", (1, 3, 3), 2, 0)


def test_pooling_leaves_out_what_does_not_fill_a_window() -> None:
    assert plan("4C3-P2", (1, 9, 8), 2)[0].out_shape == (4, 3, 3)


def test_pooling_without_a_convolution_before_it() -> None:
    layers = plan("P2-4C3-P2-P3", (1, 16, 16), 2)
    assert [(layer.name, layer.out_shape) for layer in layers] == [
        ("pool1", (1, 8, 8)),
        ("conv2", (4, 3, 3)),
        ("pool3", (4, 1, 1)),
        ("output", (2,)),
    ]
    assert [layer.parameters for layer in layers] == [0, 36, 0, 8]


@pytest.mark.parametrize(
    ("description", "place"),
    [
        ("15C5-P2-4OC5", "'4OC5' at character 9 of '15C5-P2-4OC5'"),  # a letter O
        ("", "'' at character 1 of ''"),
        ("15C", "'15C' at character 1"),
        ("C5", "'C5' at character 1"),
        ("0C5", "'0C5' at character 1"),
        ("15C0", "'15C0' at character 1"),
        ("P0", "'P0' at character 1"),
        ("15c5", "'15c5' at character 1"),
        ("15C5-", "'' at character 6"),
        ("15C5--300", "'' at character 6"),
        ("15C5-P2 -300", "'P2 ' at character 6"),
        ("300-1.5", "'1.5' at character 5"),
        ("15\N{CYRILLIC CAPITAL LETTER ES}5", "'15\N{CYRILLIC CAPITAL LETTER ES}5' at character 1"),
        ("\N{ARABIC-INDIC DIGIT THREE}", "'\N{ARABIC-INDIC DIGIT THREE}' at character 1"),
    ],
)
def test_typos_point_at_the_place(description: str, place: str) -> None:
    with pytest.raises(InvalidInput, match="network: cannot read " + re.escape(place)) as raised:
        plan(description, (1, 28, 28), 10)
    assert "such as 15C5" in str(raised.value)


@pytest.mark.parametrize(
    ("description", "input_shape", "words"),
    [
        ("300-15C5", (1, 28, 28), "only a linear layer can follow a linear layer, '15C5' at char"),
        ("300-P2", (1, 28, 28), "only a linear layer can follow a linear layer, 'P2' at char"),
        (
            "15C5-P2-40C5",
            (1, 10, 28),
            "the kernel does not fit into 3 x 12 values with padding 0, '40C5' at character 9 of "
            "'15C5-P2-40C5'; the images are too small",
        ),
        ("4C3-P4", (1, 8, 5), "the window does not fit into 6 x 3 values, 'P4' at character 5"),
    ],
)
def test_layers_that_do_not_fit(description: str, input_shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        plan(description, input_shape, 10)


@pytest.mark.parametrize(
    ("padding", "words"),
    [
        ([0], "each of the 2 convolutions, got 1 numbers"),
        ((0, 0, 0), "each of the 2 convolutions, got 3 numbers"),
        (-1, "padding must be a whole number of at least 0, got -1"),
        ([1, -2], "padding must be a whole number of at least 0, got -2"),
    ],
)
def test_padding_that_does_not_fit(padding: int | list[int], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        plan("15C5-P2-40C5-P2-300", (1, 28, 28), 10, padding)


def test_mistyped_number() -> None:
    with pytest.raises(InvalidInput, match="more than 10,000,000,000: check its numbers"):
        plan("999999999999", (1, 28, 28), 10)


def test_neurons_are_counted_before_the_pooling() -> None:
    layers = plan("15C5-P2-40C3-P2-300", (1, 28, 28), 10, (1, 0))
    assert [layer.neurons for layer in layers] == [15 * 26 * 26, 40 * 11 * 11, 300, 10]
