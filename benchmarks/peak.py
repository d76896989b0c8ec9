"""Print the peak memory of a case's training step in bytes: ``peak.py CASE T BATCH CHANNELS``.

It runs in a separate process for each case, started by `timing.peak_memory`.
"""

from __future__ import annotations

import sys

import peers
from tsslbp import training
from tsslbp.run.environment import peak_memory

STEPS = 5


def main() -> None:
    name, *numbers = sys.argv[1:]
    size = peers.Size(*map(int, numbers))
    training.keep_freed_memory()
    step = peers.make(name, size).step
    images, labels = peers.batch(size)
    step(images[:1], labels[:1])
    before = peak_memory() or 0
    for _ in range(STEPS):
        step(images, labels)
    print((peak_memory() or 0) - before)


if __name__ == "__main__":
    main()
