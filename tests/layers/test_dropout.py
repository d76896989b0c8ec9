"""Dropout over signals with time: one mask for all steps."""

import math

import pytest
import torch
from torch import Tensor, nn

from tsslbp.errors import InvalidInput
from tsslbp.layers import NeuronDropout, RowDropout
from tsslbp.layers.dropout import DROPOUT


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def signal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=seeded(1), dtype=torch.float64)


def test_dropout_shares_its_mask_over_width_and_time() -> None:
    dropped = RowDropout(0.5)(torch.ones(5, 24, 25, 26, 3))
    rows = dropped[0, ..., 0]
    assert torch.equal(dropped, rows[None, ..., None].expand_as(dropped))
    assert rows.unique().tolist() == [0, 2]
    for dim in range(3):  # samples, channels and rows differ from each other
        assert rows.any(dim).all() and not rows.all(dim).any()


def test_dropout_of_neurons_shares_its_mask_over_time_alone() -> None:
    dropped = NeuronDropout(0.2)(torch.ones(5, 12, 13, 14, 15))
    assert torch.equal(dropped, dropped[:1].expand_as(dropped))
    assert dropped.unique().tolist() == pytest.approx([0, 1.25])
    kept = dropped[0] > 0
    share = kept.double().mean().item()
    assert share == pytest.approx(0.8, abs=5 * math.sqrt(0.16 / kept.numel()))
    for dim in range(4):  # samples, channels, rows and columns differ from each other
        assert (kept.any(dim) & ~kept.all(dim)).any()


@pytest.mark.parametrize("kind", DROPOUT)
def test_dropout_of_linear_layers_is_per_neuron(kind: str) -> None:
    dropped = DROPOUT[kind](0.2)(torch.ones(5, 400, 100))
    assert torch.equal(dropped, dropped[:1].expand_as(dropped))
    assert dropped.unique().tolist() == pytest.approx([0, 1.25])
    kept = (dropped[0] > 0).double()
    assert kept.mean().item() == pytest.approx(0.8, abs=5 * math.sqrt(0.16 / kept.numel()))
    assert 0 < kept.mean(0).min() < kept.mean(0).max() < 1
    assert 0 < kept.mean(1).min() < kept.mean(1).max() < 1


@pytest.mark.parametrize(
    ("kind", "shape", "mask_shape"),
    [
        (RowDropout, (5, 2, 3, 4, 6), (2, 3, 4, 1)),
        (RowDropout, (5, 2, 7), (2, 7)),
        (NeuronDropout, (5, 2, 3, 4, 6), (2, 3, 4, 6)),
        (NeuronDropout, (5, 2, 7), (2, 7)),
    ],
)
def test_dropout_mask_comes_from_the_cpu_generator(
    kind: type[nn.Module], shape: tuple[int, ...], mask_shape: tuple[int, ...]
) -> None:
    x = signal(*shape)
    torch.manual_seed(7)
    expected = x * (torch.rand(mask_shape) >= 0.3) / 0.7
    torch.manual_seed(7)
    dropped = kind(0.3)(x)
    torch.testing.assert_close(dropped, expected)
    assert not torch.equal(kind(0.3)(x) == 0, dropped == 0)  # a fresh mask each time


def test_dropout_gradient_takes_the_same_mask() -> None:
    x = torch.ones(5, 2, 3, 4, 6, requires_grad=True)
    dropped = RowDropout(0.5)(x)
    dropped.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, dropped)


@pytest.mark.parametrize("kind", DROPOUT)
@pytest.mark.parametrize("why", ["eval", "p=0"])
def test_dropout_that_does_nothing_draws_nothing(kind: str, why: str) -> None:
    dropout = DROPOUT[kind](0.9).eval() if why == "eval" else DROPOUT[kind](0.0)
    x, state = signal(5, 2, 7), torch.get_rng_state()
    assert torch.equal(dropout(x), x)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("p", [1.0, -0.1, float("nan")])
def test_dropout_refuses(p: float) -> None:
    for kind in DROPOUT.values():
        with pytest.raises(InvalidInput, match=f"dropout must be at least 0 and below 1, got {p}"):
            kind(p)


def test_images_without_time_are_refused() -> None:
    """Images without time are refused because a whole batch would share one mask."""
    for kind in DROPOUT.values():
        with pytest.raises(
            InvalidInput, match=r"got shape \[2, 3, 4, 6\]; the first LIF turns images without time"
        ):
            kind(0.5)(signal(2, 3, 4, 6))


def test_names_in_the_printed_module() -> None:
    assert repr(RowDropout(0.2)) == "RowDropout(p=0.2)"
    assert repr(NeuronDropout(0.2)) == "NeuronDropout(p=0.2)"
