"""Energy of operations: named tables with their source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import final

from ..errors import InvalidInput, nearest

SOURCE = (
    'M. Horowitz, "Computing\'s energy problem (and what we can do about it)", ISSCC 2014, '
    "pp. 10-14, doi:10.1109/ISSCC.2014.6757323, figure 1.1.9: 45 nm, 0.9 V"
)
WORD = 64  # bits of the memory accesses that the source gives


@final
@dataclass(frozen=True)
class EnergyTable:
    """Energy of one operation on numbers of a certain width, in picojoules.

    Attributes:
        name: name of the number format.
        bits: bits per number.
        multiply_add: energy of a multiplication and an addition.
        add: energy of an addition.
        source: publication of the figures.
    """

    name: str
    bits: int
    multiply_add: float
    add: float
    source: str = SOURCE


FLOAT32 = EnergyTable("float32", 32, 3.7 + 0.9, 0.9)
TABLES: Mapping[str, EnergyTable] = {
    one.name: one
    for one in (
        FLOAT32,
        EnergyTable("float16", 16, 1.1 + 0.4, 0.4),
        EnergyTable("int8", 8, 0.2 + 0.03, 0.03),
    )
}
"""Rows of Horowitz (2014): floating-point numbers of 32 and 16 bits, integers of 8.

In picojoules, a multiplication takes 3.7, 1.1 and 0.2, and an addition 0.9, 0.4 and 0.03. The 8-bit
row assumes sums of 8 bits, as in the source; hardware that accumulates in 32-bit integers takes 0.1
for an addition.
"""

MEMORIES: Mapping[str, float] = {"8KB": 10.0, "32KB": 20.0, "1MB": 100.0, "DRAM": 1300.0}
"""Picojoules of a 64-bit access: caches by size; DRAM, for which the source gives 1,300 to 2,600.

All are from `SOURCE`, which gives one figure per memory, without a distinction between reading and
writing. The figures for caches of 32 KB and 1 MB rest on this source alone: no second measurement
of them was found, only publications that repeat it. That an access to fewer bits takes
proportionally less is an assumption of this module.
"""


@final
@dataclass(frozen=True)
class Energy:
    """Energy in picojoules, by its use."""

    connections: float  # multiplications and additions of the connections
    neurons: float  # updates of the neurons' state
    memory: float  # accesses; 0 if no memory is chosen

    @property
    def total(self) -> float:
        """Sum of the three, in picojoules."""
        return self.connections + self.neurons + self.memory


@final
@dataclass(frozen=True)
class Operations:
    """Operations for computing a layer or a network on one image; a mean over images.

    Attributes:
        multiplications: multiply-adds of real numbers in the connections.
        additions: additions of weights for spikes, and of biases.
        updates: updates of membrane potentials, one per neuron and step.
        update_multiplications: multiply-adds in the updates, one for each decay.
        accesses: numbers read from memory or written to it, see `tsslbp.analysis.cost`.
    """

    multiplications: float = 0.0
    additions: float = 0.0
    updates: float = 0.0
    update_multiplications: float = 0.0
    accesses: float = 0.0

    def __add__(self, other: Operations) -> Operations:
        pairs = ((getattr(self, one.name), getattr(other, one.name)) for one in fields(self))
        return Operations(*(mine + theirs for mine, theirs in pairs))

    def traffic(self, table: EnergyTable = FLOAT32) -> float:
        """Return the bytes read from memory or written to it."""
        return self.accesses * table.bits / 8

    def energy(self, table: EnergyTable = FLOAT32, memory: str | None = None) -> Energy:
        """Return ``multiply_add`` (multiplications) + ``add`` (additions); the same for updates.

        Args:
            table: energy of each operation.
            memory: one of `MEMORIES`, used by all accesses; an access takes ``bits / 64`` of its
                energy. None: accesses take no energy, as most papers assume.

        Raises:
            InvalidInput: there is no such memory.
        """
        if memory is not None and memory not in MEMORIES:
            raise InvalidInput(
                f"memory must be one of {', '.join(MEMORIES)}, got {memory!r}"
                f"{nearest(memory, MEMORIES)}"
            )
        access = 0.0 if memory is None else MEMORIES[memory] * table.bits / WORD
        return Energy(
            table.multiply_add * self.multiplications + table.add * self.additions,
            table.multiply_add * self.update_multiplications,
            access * self.accesses,
        )


def table_of(name: str) -> EnergyTable:
    """Return one of `TABLES`.

    Raises:
        InvalidInput: there is no such table.
    """
    if name not in TABLES:
        raise InvalidInput(
            f"numbers must be one of {', '.join(TABLES)}, got {name!r}{nearest(name, TABLES)}"
        )
    return TABLES[name]
