"""Tests of the losses: values calculated by hand, gradients by finite differences, and errors."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import tsslbp
from tsslbp import losses
from tsslbp.errors import InvalidInput

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "van_rossum": losses.van_rossum,
    "count": lambda psc, labels: losses.count(psc, labels, desired=2.0, undesired=0.5),
    "softmax": losses.softmax,
    "tet": losses.tet,
}


@pytest.fixture(params=LOSSES.values(), ids=LOSSES.keys())
def loss(request: pytest.FixtureRequest) -> Callable[[Tensor, Tensor], Tensor]:
    return request.param


def tensor(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_psc(steps: int = 5, samples: int = 4, classes: int = 3) -> Tensor:
    return torch.rand(steps, samples, classes, dtype=torch.float64)


def target(steps: int, **settings) -> list[float]:
    """Return the true class's target: minus the van Rossum distance's gradient at a PSC of 0."""
    psc = torch.zeros(steps, 1, 2, dtype=torch.float64, requires_grad=True)
    losses.van_rossum(psc, torch.tensor([1]), **settings).backward()
    assert psc.grad is not None
    assert not psc.grad[:, 0, 0].any()
    return (-psc.grad[:, 0, 1]).tolist()


def test_gradients_are_derivatives(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    psc, labels = random_psc().requires_grad_(), torch.tensor([0, 2, 1, 1])
    assert torch.autograd.gradcheck(lambda psc: loss(psc, labels), (psc,))


@pytest.mark.parametrize("filters", [1, 2])
def test_gradient_of_van_rossum_with_settings(filters: int) -> None:
    def loss(psc: Tensor) -> Tensor:
        return losses.van_rossum(
            psc, torch.tensor([0, 2]), tau_s=2.0, target_filters=filters, pattern=[1, 0, 1]
        )

    assert torch.autograd.gradcheck(loss, (random_psc(7, 2).requires_grad_(),))


def test_van_rossum_by_hand() -> None:
    psc = tensor([[[0.5, 0.0]], [[0.0, 0.0]]])  # T = 2, one sample, two classes
    labels = torch.tensor([1])
    # at tau_s = 2 the train 0, 1 becomes 0, 1/2 by one filter, and 0, 1/4 by two
    once = losses.van_rossum(psc, labels, tau_s=2.0, target_filters=1)
    twice = losses.van_rossum(psc, labels, tau_s=2.0)
    assert once.item() == pytest.approx(0.5 * (0.5**2 + 0.5**2))
    assert twice.item() == pytest.approx(0.5 * (0.5**2 + 0.25**2))


def test_van_rossum_is_zero_at_its_target_alone() -> None:
    train = tensor([0, 1, 0, 1, 1]).reshape(5, 1, 1)
    psc = torch.cat([torch.zeros_like(train), tsslbp.psc(train, 3.0)], dim=2)
    settings = {"target_filters": 1, "pattern": (0, 1, 0, 1, 1)}
    assert losses.van_rossum(psc, torch.tensor([1]), **settings).item() == 0
    assert losses.van_rossum(psc, torch.tensor([0]), **settings).item() > 0.1


def test_revised_target_is_filtered_twice() -> None:
    assert target(5) == pytest.approx([0, 1 / 9, 7 / 27, 11 / 27, 131 / 243])


@pytest.mark.parametrize(
    ("steps", "train"),
    [
        (2, [0, 1]),
        (5, [0, 1, 1, 1, 1]),
        (7, [0, 1, 1, 1, 1, 0, 1]),
        (10, [0, 1] * 5),
        (25, [0, 1] * 12 + [0]),
    ],
)
def test_default_desired_trains(steps: int, train: list[int]) -> None:
    assert target(steps, tau_s=1.0) == train  # at tau_s = 1 the filter changes nothing


@pytest.mark.parametrize(
    ("steps", "train"), [(2, [1, 0]), (3, [1, 0, 0]), (8, [1, 0, 0, 1, 0, 0, 1, 0])]
)
def test_pattern_is_repeated_and_cut(steps: int, train: list[int]) -> None:
    assert target(steps, tau_s=1.0, pattern=[1, 0, 0]) == train


@pytest.mark.parametrize(
    ("steps", "settings", "words"),
    [
        (1, {}, r"no spike within T = 1 steps.*nothing to learn"),
        (5, {"pattern": [0, 0]}, r"\[0, 0\] has no spike"),
        (2, {"pattern": [0, 0, 1]}, "no spike within T = 2"),
        (5, {"pattern": []}, r"0 and 1, got \[\]"),
        (5, {"pattern": [0, 2]}, r"0 and 1, got \[0, 2\]"),
        (5, {"tau_s": 0.5}, "tau_s must be at least 1"),
        (5, {"tau_s": 0.0}, "tau_s must be at least 1"),
    ],
)
def test_van_rossum_refuses(steps: int, settings: dict, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        losses.van_rossum(random_psc(steps), torch.zeros(4, dtype=torch.int64), **settings)


def test_count_by_hand() -> None:
    psc = tensor([[[0.5, 0.25, 1.0]], [[0.5, 0.25, 1.0]]])  # sums over T = 2: 1, 0.5, 2
    loss = losses.count(psc, torch.tensor([0]), desired=2.0, undesired=1.0)
    # errors: (1 - 2) / 2; (0.5 - 1) / 2, which is harmless and counts 0; (2 - 1) / 2
    assert loss.item() == pytest.approx(2 / 2 * (0.5**2 + 0 + 0.5**2))


def test_count_is_zero_on_the_harmless_side() -> None:
    psc = tensor([[[3.0, 0.5]], [[3.0, 0.25]]]).requires_grad_()
    loss = losses.count(psc, torch.tensor([0]), desired=5.0, undesired=1.0)
    loss.backward()
    assert loss.item() == 0
    assert psc.grad is not None and not psc.grad.any()
    assert losses.count(psc, torch.tensor([1]), desired=5.0, undesired=1.0).item() > 1


def test_gradient_of_count_is_delta_at_every_step() -> None:
    psc, labels = random_psc(6, 1, 2).requires_grad_(), torch.tensor([0])
    losses.count(psc, labels, desired=9.0, undesired=-1.0).backward()  # no error is harmless
    delta = (psc.detach().sum(0) - tensor([9.0, -1.0])) / 6
    assert psc.grad is not None
    torch.testing.assert_close(psc.grad, delta.expand(6, 1, 2))


def test_softmax_by_hand() -> None:
    psc = tensor([[[1.0, 0.0], [0.0, 0.5]], [[1.0, 0.0], [0.0, 0.5]]])  # sums 2, 0 and 0, 1
    loss = losses.softmax(psc, torch.tensor([0, 0]))
    assert loss.item() == pytest.approx((math.log1p(math.exp(-2)) + math.log1p(math.exp(1))) / 2)


@pytest.mark.parametrize(("name", "factor"), [("van_rossum", 2), ("count", 2), ("softmax", 1)])
def test_sum_or_mean_over_the_batch(name: str, factor: int) -> None:
    psc, labels = random_psc(), torch.tensor([0, 2, 1, 1])
    single = LOSSES[name](psc, labels)
    double = LOSSES[name](torch.cat([psc, psc], dim=1), torch.cat([labels, labels]))
    assert single.item() > 0.1
    assert double.item() == pytest.approx(factor * single.item())


def test_order_of_the_batch_does_not_matter(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    psc, labels, order = random_psc(), torch.tensor([0, 2, 1, 1]), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(loss(psc[:, order], labels[order]), loss(psc, labels))
    assert loss(psc[:, order], labels).item() != pytest.approx(loss(psc, labels).item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_keep_the_dtype(
    loss: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype
) -> None:
    value = loss(random_psc().to(dtype), torch.tensor([0, 2, 1, 1]))
    assert value.dtype == dtype and value.shape == ()


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.tensor([0, 1, 2, 3]), "label 3 is out of range for 3 classes"),
        (torch.tensor([0, -1, 2, 0]), "label -1 is out of range for 3 classes"),
        (torch.tensor([False, True, True, False]), "class numbers .* got torch.bool"),
        (["cat", 1, 2, 0], "labels must be class numbers .N., got"),
        (torch.tensor([0.0, 1.0, 2.0, 0.0]), "class numbers .* got torch.float32"),
        (torch.tensor([0, 1, 2]), r"labels \[N\], got \(5, 4, 3\) and \(3,\)"),
        (torch.zeros(4, 3, dtype=torch.int64), r"labels \[N\], got .* and \(4, 3\)"),
    ],
)
def test_losses_refuse_labels(
    loss: Callable[[Tensor, Tensor], Tensor], labels: Tensor, words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        loss(random_psc(), labels)


def test_losses_refuse_a_psc_without_time(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(InvalidInput, match=r"PSC \[T, N, classes\]"):
        loss(random_psc()[0], torch.tensor([0, 1, 2, 0]))


def test_predict_sums_over_time() -> None:
    psc = tensor([[[0.9, 0.0], [0.0, 0.2]], [[0.0, 1.0], [0.1, 0.2]]])
    assert torch.equal(tsslbp.predict(psc), torch.tensor([1, 1]))


def test_predict_gives_ties_to_the_lower_class() -> None:
    psc = torch.zeros(5, 3, 10)
    psc[2, 1, [4, 7]] = 1.0
    psc[1, 2, 9], psc[4, 2, 3] = 1.0, 1.0  # the same sum, reached at different steps
    assert tsslbp.predict(psc).tolist() == [0, 4, 3]


def test_count_is_exact_in_float64() -> None:
    psc = torch.zeros(2, 1, 2, dtype=torch.float64)
    loss = losses.count(psc, torch.tensor([0]), desired=2.2, undesired=0.1)
    assert loss.item() == pytest.approx(2.2**2 / 4, rel=1e-14)


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    return logits.exp() / logits.exp().sum(-1, keepdim=True)


def smoothed(labels: torch.Tensor, classes: int, smoothing: float) -> torch.Tensor:
    target = torch.full((len(labels), classes), smoothing / classes, dtype=torch.float64)
    target[torch.arange(len(labels)), labels] += 1 - smoothing
    return target


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_label_smoothing_by_its_definition(smoothing: float) -> None:
    psc, labels = torch.randn(4, 5, 3, dtype=torch.float64), torch.tensor([0, 2, 1, 1, 0])
    expected = -(smoothed(labels, 3, smoothing) * probabilities(psc.sum(0)).log()).sum(1).mean()
    found = losses.softmax(psc, labels, label_smoothing=smoothing)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("weight", "smoothing"), [(0.001, 0.0), (0.3, 0.1), (0.0, 0.0)])
def test_tet_by_its_definition(weight: float, smoothing: float) -> None:
    """TET mixes the mean cross-entropy of the steps with the mean squared distance to a target."""
    psc, labels = torch.randn(4, 5, 3, dtype=torch.float64), torch.tensor([0, 2, 1, 1, 0])
    target = smoothed(labels, 3, smoothing)
    entropies = [-(target * probabilities(step).log()).sum(1).mean() for step in psc]
    expected = (1 - weight) * sum(entropies) / 4 + weight * ((psc - 0.7) ** 2).mean()
    found = losses.tet(psc, labels, weight=weight, target=0.7, label_smoothing=smoothing)
    torch.testing.assert_close(found, torch.as_tensor(expected))


def test_tet_is_not_the_cross_entropy_of_the_sum() -> None:
    """Two steps that cancel in the sum still have gradients, a larger one at the wrong step."""
    psc = torch.tensor([[[2.0, 0.0]], [[-2.0, 0.0]]], requires_grad=True)
    losses.tet(psc, torch.tensor([0]), weight=0.0).backward()
    assert psc.grad is not None and float(psc.grad[1, 0, 0]) < 7 * float(psc.grad[0, 0, 0]) < 0
    assert torch.autograd.gradcheck(
        lambda x: losses.tet(x, torch.tensor([0, 1]), weight=0.2, label_smoothing=0.1),
        torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True),
    )


@pytest.mark.parametrize("loss", [losses.softmax, losses.tet])
def test_means_of_no_images_are_zero(loss: losses.Loss) -> None:
    psc = torch.zeros(3, 0, 2, requires_grad=True)
    value = loss(psc, torch.zeros(0, dtype=torch.int64))
    value.backward()
    assert value == 0


@pytest.mark.parametrize(
    ("loss", "keyword"),
    [(losses.softmax, "label_smoothing"), (losses.tet, "label_smoothing"), (losses.tet, "weight")],
)
def test_shares_that_are_none(loss: losses.Loss, keyword: str) -> None:
    for share in (-0.1, 1.1):
        with pytest.raises(InvalidInput, match=f"{keyword} must be from 0 to 1, got {share}"):
            loss(torch.zeros(3, 2, 2), torch.tensor([0, 1]), **{keyword: share})
