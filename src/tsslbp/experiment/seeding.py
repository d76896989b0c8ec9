"""Random numbers from (seed, purpose, epoch, step), made on the CPU.

Nothing depends on what was drawn before, so a run can stop and resume anywhere, and two runs that
differ in rule, time steps or implementation see the same initialisation, order and masks.
"""

from __future__ import annotations

import numpy as np
import torch


def derive(seed: int, purpose: str, epoch: int = 0, step: int = 0) -> int:
    """Return the seed, 63 bits, for one purpose at one place of a run."""
    entropy = [seed, *purpose.encode(), epoch, step]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(seed: int, purpose: str, epoch: int = 0, step: int = 0) -> torch.Generator:
    """Return a CPU generator seeded by `derive`."""
    return torch.Generator().manual_seed(derive(seed, purpose, epoch, step))
