"""Every rule's step in the GPU kernels compiles; what it computes is tested by test_cuda.py."""

from __future__ import annotations

import re
from concurrent.futures import Executor

import pytest

from tsslbp import NA, SLAYER, EventProp, Surrogate
from tsslbp.rules import RULES, Rule, SpikeBP

from .compiling import machine_code, needs_compiler


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
    """With registers enough, but for NA, whose history is as long as T."""
    _, backward = compiler.submit(machine_code, steps, 1 << 20, rule).result()
    assert not re.search(r"\b(LDL|STL)\b", backward["sass"])


@needs_compiler
def test_every_rule_but_one_has_a_step() -> None:
    """What `SpikeBP` needs, the number of later spikes, no step backward can know."""
    from tsslbp.neuron import cuda

    without = {type(make()) for make in RULES.values()} - cuda.BACKWARD.keys()
    assert without == {SpikeBP}
