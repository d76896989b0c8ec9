"""Tests of HM2-BP and ST-RSBP against manual calculations, simulation and finite differences."""

from functools import partial

import pytest
import torch
from torch import Tensor

import tsslbp
from spike_train_rules import (
    HM2BP,
    RULES,
    STRSBP,
    Connection,
    CountLoss,
    SpikeTrainNetwork,
    SpikeTrainRule,
    connect,
    gradients,
    mean_effect,
    papers_neuron,
    s_psp,
    teach,
    train_step,
)
from tsslbp import Neuron
from tsslbp.errors import InvalidInput
from tsslbp.neuron.reference import psc, simulate

PLAIN = HM2BP(silent_effect=0, silent_own=0, silent_ratio=0)  # the paper's formulas alone
EVERY_RULE = pytest.mark.parametrize("rule", [HM2BP(), PLAIN, STRSBP()], ids=repr)
NO_LEAK = 1e30  # tau_m: 1 - 1 / tau_m is exactly 1
NEURON = Neuron(tau_m=4.0, tau_s=2.0, threshold=1.0)


def trains(*rows: list[int]) -> Tensor:
    """Return spike trains of one sample, with one row per neuron, as ``[T, 1, neurons]``."""
    return torch.tensor(rows, dtype=torch.float64).T.unsqueeze(1)


def random_trains(*shape: int, rate: float = 0.3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=generator, dtype=torch.float64) < rate).double()


def s_psp_by_simulation(inputs: Tensor, spikes: Tensor, neuron: Neuron) -> Tensor:
    """Return the S-PSP by its definition: each synapse's share of the potential, step by step."""
    share = effect = torch.zeros(spikes.shape[1], spikes.shape[2], inputs.shape[2]).double()
    for current, spike in zip(psc(inputs, neuron.tau_s), spikes, strict=True):
        share = (1 - 1 / neuron.tau_m) * share + current.unsqueeze(1)
        effect = effect + spike.unsqueeze(2) * share
        share = share * (1 - spike.unsqueeze(2))
    return effect


def layer(seed: int = 0, neuron: Neuron = NEURON) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return weights, 3 samples of 6 inputs, and the potentials and spikes of 4 neurons."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(4, 6, generator=generator, dtype=torch.float64) * 0.7 + 0.2
    inputs = random_trains(30, 3, 6, seed=seed)
    current = psc(inputs, neuron.tau_s) @ weight.T
    trace = simulate(current, neuron)
    return weight, inputs, trace.potential, trace.spikes


def network(seed: int = 0) -> list[Connection]:
    """Return the synapses of three layers with random spike trains, one of which is silent."""
    sizes = (6, 5, 4, 3)
    generator = torch.Generator().manual_seed(seed)
    spikes = [random_trains(20, 2, size, rate=0.2, seed=size) for size in sizes]
    spikes[1][:, 0, 2] = 0
    return [
        connect(torch.randn(after, before, generator=generator).double(), x, y, NEURON)
        for before, after, x, y in zip(sizes, sizes[1:], spikes, spikes[1:], strict=False)
    ]


@pytest.mark.parametrize(
    ("tau_s", "expected"),
    [
        (1.0, 0.5 + 0.5),  # currents 1 0 1 0: shares 1, 1/2 and spike, 1, 1/2 and spike
        (2.0, 0.5 + 0.625),  # 1/2 1/4 5/8 5/16: 1/2, 1/2 and spike, 5/8, 5/8 and spike
    ],
)
def test_s_psp_worked_by_hand(tau_s: float, expected: float) -> None:
    found = s_psp(trains([1, 0, 1, 0]), trains([0, 1, 0, 1]), Neuron(tau_m=2.0, tau_s=tau_s))
    assert found.item() == expected


def test_s_psp_of_an_input_after_the_last_spike_is_zero() -> None:
    assert s_psp(trains([0, 0, 1]), trains([0, 1, 0]), NEURON).item() == 0


@pytest.mark.parametrize("neuron", [NEURON, Neuron(tau_m=NO_LEAK, tau_s=1.0), Neuron(1.0, 3.0)])
@pytest.mark.parametrize("time_steps", [1, 2, 100])
def test_s_psp_is_its_definition(neuron: Neuron, time_steps: int) -> None:
    inputs, spikes = random_trains(time_steps, 3, 5), random_trains(time_steps, 3, 4, seed=1)
    expected = s_psp_by_simulation(inputs, spikes, neuron)
    torch.testing.assert_close(s_psp(inputs, spikes, neuron), expected)


@pytest.mark.parametrize("neuron", [NEURON, Neuron(tau_m=NO_LEAK, tau_s=2.0)], ids=repr)
def test_total_psp_is_the_potential_at_the_spikes(neuron: Neuron) -> None:
    """The total exceeds threshold times count even without a leak: the reset loses the excess."""
    weight, inputs, potential, spikes = layer(neuron=neuron)
    total = (weight * s_psp(inputs, spikes, neuron)).sum(-1)
    torch.testing.assert_close(total, (potential * spikes).sum(0))
    count = spikes.sum(0)
    assert count.max() > 5
    assert (total[count > 0] > neuron.threshold * count[count > 0]).all()


def test_s_psp_is_the_derivative_of_the_total_at_fixed_spikes() -> None:
    """Finite differences of the forward pass agree; they are small enough to move no spike."""
    weight, inputs, _, spikes = layer()
    effect, step = s_psp(inputs, spikes, NEURON), 1e-6
    for i, j in [(0, 0), (1, 5), (3, 2)]:
        totals = []
        for sign in (-1, 1):
            moved = weight.clone()
            moved[i, j] += sign * step
            trace = simulate(psc(inputs, NEURON.tau_s) @ moved.T, NEURON)
            assert torch.equal(trace.spikes, spikes)
            totals.append((trace.potential * trace.spikes).sum(0)[:, i])
        difference = (totals[1] - totals[0]) / (2 * step)
        torch.testing.assert_close(difference, effect[:, i, j], atol=1e-7, rtol=1e-7)


def test_ratio_is_the_derivative_by_an_inputs_strength_at_fixed_spikes() -> None:
    """Both rules take ``e_i|j / o_j``: spikes of strength 1 + x have a count of (1 + x) o_j."""
    weight, inputs, _, spikes = layer()
    synapses = connect(weight, inputs, spikes, NEURON)
    stronger = inputs.clone()
    stronger[:, :, 2] *= 1 + 1e-6
    moved = connect(weight, stronger, spikes, NEURON)
    rise = (weight * (moved.effect - synapses.effect)).sum(-1)
    more = (moved.inputs - synapses.inputs)[:, 2].unsqueeze(1)
    torch.testing.assert_close(PLAIN.by_count(synapses)[:, :, 2], rise / more, atol=0, rtol=1e-6)


def worked_case() -> Connection:
    """Return synapses with inputs 1010 and 0100, weights 0.8 and 0.6, and threshold 0.9.

    The potential is 0.8 and then 1, which causes the only spike.
    """
    neuron = Neuron(tau_m=2.0, tau_s=1.0, threshold=0.9)
    inputs = trains([1, 0, 1, 0], [0, 1, 0, 0])
    weight = torch.tensor([[0.8, 0.6]]).double()
    spikes = simulate(inputs @ weight.T, neuron).spikes
    assert spikes.flatten().tolist() == [0, 1, 0, 0]
    return connect(weight, inputs, spikes, neuron)


def test_hm2bp_worked_by_hand() -> None:
    """With S-PSPs 1/2 and 1, total 0.8/2 + 0.6 = 1 and count 1, the factor is 1 + 1/0.9."""
    synapses, factor = worked_case(), 1 + 1 / 0.9
    assert synapses.effect.flatten().tolist() == [0.5, 1.0]
    by_weight, by_count = HM2BP().by_weight(synapses), HM2BP().by_count(synapses)
    assert by_weight.flatten().tolist() == pytest.approx([factor / 2, factor])
    assert by_count.flatten().tolist() == pytest.approx([0.8 * 0.5 / 2, 0.6 * 1 / 1])
    (gradient,) = gradients(HM2BP(), [synapses], torch.tensor([[1 - 4.0]]).double())  # count - 4
    assert gradient.flatten().tolist() == pytest.approx([-3 / 0.9 * factor / 2, -3 / 0.9 * factor])


def test_strsbp_worked_by_hand() -> None:
    """At a firing probability of 1/4, q = 1/4 + 3/8 q, with the slope q' = 3/8 q' - q / 2."""
    q, slope = [0.25, 0.34375, 0.37890625, 0.39208984375], [0, -0.125, -0.21875, -0.271484375]
    rise = (sum(q) + sum(slope) / 4) / 4
    feedback = 1 - rise * (0.8 * 2 + 0.6 * 1) / 0.9
    synapses = worked_case()
    assert STRSBP().feedback(synapses).item() == pytest.approx(feedback) and feedback > 0.2
    by_weight, by_count = STRSBP().by_weight(synapses), STRSBP().by_count(synapses)
    assert by_weight.flatten().tolist() == pytest.approx([0.5 / feedback, 1 / feedback])
    assert by_count.flatten().tolist() == pytest.approx([0.2 / feedback, 0.6 / feedback])


def test_error_two_layers_down_worked_by_hand() -> None:
    """Input, hidden and output neuron spike at steps 0, 0 and 1, so e is 1 and then 1/2."""
    neuron = Neuron(tau_m=2.0, tau_s=1.0, threshold=0.4)
    first, last = (torch.tensor([[w]]).double() for w in (0.5, 0.9))
    x, h, y = trains([1, 0]), trains([1, 0]), trains([0, 1])
    found = gradients(
        HM2BP(),
        [connect(first, x, h, neuron), connect(last, h, y, neuron)],
        torch.tensor([[2.0]]).double(),
    )
    delta = 2 / 0.4  # dE/da at the output
    assert found[1].item() == pytest.approx(delta * 0.5 * (1 + 0.9 * 0.5 / 0.4))
    delta = delta * 0.9 * 0.5 / 0.4  # at the hidden neuron
    assert found[0].item() == pytest.approx(delta * 1.0 * (1 + 0.5 / 0.4))


def test_mean_effect_is_the_mean_over_random_trains() -> None:
    time_steps, neuron = 30, Neuron(tau_m=6.0, tau_s=2.0)
    for count in (2, 6, 15):
        places = torch.randint(time_steps, (4000,), generator=torch.Generator().manual_seed(count))
        inputs = torch.nn.functional.one_hot(places, time_steps).T.double().unsqueeze(2)
        spikes = random_trains(time_steps, 4000, 1, rate=count / time_steps, seed=count)
        samples = s_psp(inputs, spikes, neuron).flatten()
        expected = mean_effect(torch.tensor(count).double(), time_steps, neuron).value
        assert abs(samples.mean() - expected) < 4 * samples.std() / 4000**0.5


def test_mean_effect_beside_the_authors_table() -> None:
    """The mean effect is close to the authors' polynomial for 10 input spikes and 400 steps.

    It is the one of their file for tau_m = 64 and tau_s = 8, which is fitted to samples and has a
    refractory period of two steps.
    """
    table = [-6.0030441e-06, 7.7504582e-04, -3.6904733e-02, 7.6185707e-01, 9.6468675e-01]
    neuron = papers_neuron(400)
    for count in (5, 8, 10):
        theirs = sum(c * count ** (4 - n) for n, c in enumerate(table))
        slope = sum((4 - n) * c * count ** (3 - n) for n, c in enumerate(table[:4]))
        ours = mean_effect(torch.tensor(count).double(), 400, neuron)
        assert 10 * ours.value.item() == pytest.approx(theirs, rel=0.05)
        assert 10 * ours.slope.item() == pytest.approx(slope, rel=0.1)


def test_mean_effect_slope_is_its_derivative() -> None:
    counts = torch.tensor([0.0, 1.0, 7.0, 20.0]).double()
    of = partial(mean_effect, time_steps=25, neuron=NEURON)
    difference = (of(counts + 1e-5).value - of(counts - 1e-5).value) / 2e-5
    torch.testing.assert_close(of(counts).slope, difference, atol=1e-9, rtol=1e-7)


def test_strsbp_is_the_derivative_of_the_mean_model() -> None:
    """The rule gives the derivatives of the count that solves the mean model.

    The model is ``nu o_i = a_i = sum_j w_ij o_j h(o_i)``.
    """
    neuron, time_steps, inputs = Neuron(10.0, 2.0), 40, torch.tensor([4.0, 9.0]).double()
    own = torch.tensor(6.0).double()

    def h(count: Tensor) -> Tensor:
        return mean_effect(count, time_steps, neuron).value

    weight = torch.tensor([0.5, 0.8]).double()
    weight *= own / (weight @ inputs * h(own))  # so that 6 spikes are the solution

    def total(weight: Tensor, inputs: Tensor) -> Tensor:
        count = own.clone()
        for _ in range(60):
            count = weight @ inputs * h(count)
        return count  # threshold 1: the T-PSP is the count

    effect = (inputs * h(own)).view(1, 1, 2)
    synapses = Connection(
        weight.unsqueeze(0), effect, inputs.unsqueeze(0), own.view(1, 1), time_steps, neuron
    )
    for place in torch.eye(2).double() * 1e-5:
        j = int(place.argmax())
        by_weight = (total(weight + place, inputs) - total(weight - place, inputs)) / 2e-5
        by_count = (total(weight, inputs + place) - total(weight, inputs - place)) / 2e-5
        assert STRSBP().by_weight(synapses)[0, 0, j].item() == pytest.approx(by_weight.item())
        assert STRSBP().by_count(synapses)[0, 0, j].item() == pytest.approx(by_count.item())


def test_strsbp_feedback_without_memory_is_the_drives_distance_from_the_threshold() -> None:
    """With tau_m = tau_s = 1 each spike acts alone, so h = o_i / T and S = 1 - mean current."""
    inputs = random_trains(50, 1, 3)
    weight = torch.tensor([[1.2, 0.9, 1.1]]).double()
    spikes = (inputs @ weight.T > 1).double()
    found = STRSBP().feedback(connect(weight, inputs, spikes, Neuron(1.0, 1.0)))
    torch.testing.assert_close(found, 1 - (inputs @ weight.T).mean(0))


def test_silent_neuron_and_silent_input() -> None:
    """A silent neuron has HM2-BP's constants or nothing; a silent input moves no weight."""
    weight = torch.tensor([[0.2, 0.4]]).double()
    quiet = connect(weight, trains([1, 0, 1], [0, 0, 0]), trains([0, 0, 0]), NEURON)
    factor = 1 + 0.5 * (0.2 + 0.4)
    assert HM2BP().by_weight(quiet).flatten().tolist() == pytest.approx([0.1 * factor, 0])
    assert HM2BP().by_count(quiet).flatten().tolist() == pytest.approx([0.2, 0.4])
    for rule in (PLAIN, STRSBP()):
        assert not rule.by_weight(quiet).any() and not rule.by_count(quiet).any()
    fired = connect(weight, trains([1, 0, 1], [0, 0, 0]), trains([0, 0, 1]), NEURON)
    for rule, expected in ((HM2BP(), 0.4), (PLAIN, 0.0), (STRSBP(), 0.0)):
        assert rule.by_weight(fired)[0, 0, 1] == 0
        assert rule.by_count(fired)[0, 0, 1].item() == pytest.approx(expected)


@EVERY_RULE
def test_gradients_are_linear_in_the_error(rule: SpikeTrainRule) -> None:
    synapses, generator = network(), torch.Generator().manual_seed(1)
    first, second = torch.randn(2, 2, 3, generator=generator, dtype=torch.float64)
    of = partial(gradients, rule, synapses)
    for mixed, one, other in zip(of(2 * first - 3 * second), of(first), of(second), strict=True):
        assert mixed.abs().max() > 0
        torch.testing.assert_close(mixed, 2 * one - 3 * other)


@EVERY_RULE
def test_gradients_add_up_over_the_batch(rule: SpikeTrainRule) -> None:
    """Samples add up in any order, since no sample affects another."""
    error = torch.randn(2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole = gradients(rule, network(), error)
    for sample in (1, 0):
        alone = [
            synapses._replace(
                effect=synapses.effect[sample : sample + 1],
                inputs=synapses.inputs[sample : sample + 1],
                counts=synapses.counts[sample : sample + 1],
            )
            for synapses in network()
        ]
        one = gradients(rule, alone, error[sample : sample + 1])
        whole = [total - part for total, part in zip(whole, one, strict=True)]
    for rest in whole:
        torch.testing.assert_close(rest, torch.zeros_like(rest), atol=1e-12, rtol=0)


def test_loss_leaves_counts_within_the_margin() -> None:
    loss = CountLoss(desired=10, undesired=2, margin=1)
    counts = torch.tensor([[9.0, 3.0, 7.0], [0.0, 12.0, 2.0]])
    found = loss.error(counts, torch.tensor([0, 1]))
    assert found.tolist() == [[0, 0, 5], [-2, 2, 0]]


def test_teacher_speaks_for_the_labels_silent_neuron_alone() -> None:
    spikes = torch.zeros(9, 3, 2)
    spikes[4, 1, 1] = 1
    taught = teach(spikes, torch.tensor([0, 1, 1]), desired=3)
    assert taught[:, 0, 0].tolist() == [0, 0, 0, 1, 0, 0, 1, 0, 0]
    assert torch.equal(taught[:, 2, 1], taught[:, 0, 0])
    assert torch.equal(taught[:, 1], spikes[:, 1]) and not taught[:, 0, 1].any()
    assert spikes.sum() == 1


@pytest.mark.parametrize("name", RULES)
def test_learns_a_toy(name: str) -> None:
    """Each rule learns, through a hidden layer, which third of nine inputs spikes often."""
    torch_random = torch.Generator().manual_seed(0)
    net = SpikeTrainNetwork((9, 12, 3), papers_neuron(50), torch_random)
    labels = torch.arange(12) % 3
    rates = torch.full((12, 9), 0.1)
    rates.view(12, 3, 3)[torch.arange(12), labels] = 0.4
    inputs = (torch.rand(50, 12, 9, generator=torch_random) < rates).float()
    loss = CountLoss(desired=15, undesired=2, margin=1)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.03)
    step = partial(train_step, net, RULES[name](), loss, optimizer, inputs, labels)
    losses = [step() for _ in range(25)]
    assert losses[-1] < 0.2 * losses[0]
    assert torch.equal(net.predict(inputs), labels)


def test_papers_neuron_in_other_steps() -> None:
    assert papers_neuron(400) == Neuron(64.0, 8.0, 1.0)
    assert papers_neuron(100) == Neuron(16.0, 2.0, 1.0)
    with pytest.raises(InvalidInput, match=r"tau_s must be at least 1 time step .* got 0\.8"):
        papers_neuron(40)


def test_what_does_not_fit_is_refused() -> None:
    for broken in (
        partial(Neuron, tau_m=0.5),
        partial(Neuron, threshold=0.0),
        partial(HM2BP, silent_ratio=-1.0),
        partial(CountLoss, desired=0),
        partial(SpikeTrainNetwork, (64,), NEURON),
        partial(SpikeTrainNetwork, (64, 0), NEURON),
    ):
        with pytest.raises(InvalidInput):
            broken()
    with pytest.raises(InvalidInput, match=r"\[5, 1, 2\] and \[4, 1, 2\]"):
        s_psp(torch.zeros(5, 1, 2), torch.zeros(4, 1, 2), NEURON)
    with pytest.raises(InvalidInput, match=r"must be \[T, N, 3\]"):
        SpikeTrainNetwork((3, 2), NEURON)(torch.zeros(5, 1, 2))
    with pytest.raises(InvalidInput):  # they are not rules of single steps
        tsslbp.spikes(torch.zeros(3, 1), rule=HM2BP())  # type: ignore[arg-type]
