"""Tests that every rule's step in the GPU kernels compiles; test_cuda.py tests its results."""

from __future__ import annotations

import re
from concurrent.futures import Executor

import pytest

from tsslbp import NA, SLAYER, EventProp, Surrogate
from tsslbp.rules import RULES, Rule, SpikeBP

from .compiling import machine_code, needs_compiler


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    ("rule", "steps"),
    [
        (Surrogate("sigmoid", through_reset=True), 100),
        (SLAYER(), 5),
        (EventProp(), 5),
        (NA(), 5),
    ],
    ids=["surrogate", "SLAYER", "EventProp", "NA"],
)
def test_every_rule_compiles(rule: Rule, steps: int, compiler: Executor) -> None:
    """The backward kernel of each rule fits into registers, that of `NA` for a few steps."""
    _, backward = compiler.submit(machine_code, steps, 1 << 20, rule).result()
    assert not re.search(r"\b(LDL|STL)\b", backward["sass"])


@needs_compiler
def test_every_rule_but_one_has_a_step() -> None:
    """Only `SpikeBP` has no step: it needs all spikes of a neuron, the earlier ones too."""
    from tsslbp.neuron import cuda

    without = {type(make()) for make in RULES.values()} - cuda.BACKWARD.keys()
    assert without == {SpikeBP}
