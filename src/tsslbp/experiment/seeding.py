"""Random numbers derived from (seed, purpose, epoch, step), generated on the CPU.

Nothing depends on earlier draws. A run can therefore stop and resume anywhere, and two runs that
differ in rule, time steps or implementation use the same initialisation, order and masks.
"""

from __future__ import annotations

import numpy as np
import torch


def derive(seed: int, purpose: str, epoch: int = 0, step: int = 0) -> int:
    """Return a seed of 63 bits for one purpose at one point of a run."""
    entropy = [seed, *purpose.encode(), epoch, step]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(seed: int, purpose: str, epoch: int = 0, step: int = 0) -> torch.Generator:
    """Return a CPU generator seeded by `derive`."""
    return torch.Generator().manual_seed(derive(seed, purpose, epoch, step))
