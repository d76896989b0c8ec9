"""Print the seconds of a case's first training step: ``first.py CASE``.

It runs in a separate process, started by `timing.first_step`.
"""

from __future__ import annotations

import sys
import time

import peers


def main() -> None:
    step = peers.make(sys.argv[1]).step
    images, labels = peers.batch()
    start = time.perf_counter()
    step(images, labels)
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main()
