"""Tests that random numbers depend on seed, purpose, epoch and step alone."""

from itertools import product

import torch

from tsslbp.experiment.seeding import derive, generator


def test_seeds_are_the_same_on_every_machine() -> None:
    """These numbers must never change, since every run that resumes would change with them."""
    assert derive(0, "order") == 7578279855587470956
    assert derive(3, "dropout", epoch=2, step=5) == 5161860587492540916


def test_every_argument_counts() -> None:
    places = product((0, 1, 2**63 - 1), ("order", "dropout", "orde"), (0, 1), (0, 1))
    seeds = [derive(*place) for place in places]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_generator_depends_on_nothing_that_was_drawn_before() -> None:
    first = torch.rand(3, generator=generator(1, "order", 2))
    torch.manual_seed(5)
    again = torch.rand(3, generator=generator(1, "order", 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, torch.rand(3, generator=generator(1, "order", 3)))
