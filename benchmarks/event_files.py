"""Reading and binning event files: ``python benchmarks/event_files.py [--files N] [--json FILE]``.

First, one file of each format is read many times from memory: the timed region includes decoding
its bytes into events with all checks, but not the file system. Then N files in the format of
N-MNIST are made, with 4,300 events each at random positions and times. This is about the mean of
the official set, but random positions leave more nonzero pixels than the set's edges do. The files
are binned into T = 30 and T = 100 frames of 3 ms, stabilised. The timed region includes finding the
files, reading, stabilising, binning and writing the cache file, in one process. Finally all frames
are read once, in batches of 50 in random order. The official set has 70,000 files.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tsslbp.data import Binning, Events, Frames, load
from tsslbp.data.events import aedat, nmnist
from tsslbp.run.environment import describe_environment, peak_memory

OFFICIAL = 70_000
EVENTS = 4300  # per file of N-MNIST
LENGTH = 315_000  # microseconds
ROUNDS = 15
BATCH = 50

Row = dict[str, Any]


def main() -> None:
    """Measure, print, and write the record if requested."""
    parser = argparse.ArgumentParser(description="Reading and binning event files.")
    parser.add_argument("--files", type=int, default=7000, help="number of files (default 7000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"environment": describe_environment(), "files": arguments.files}
    result["decoding"] = [decoding(name, *case) for name, case in formats().items()]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TSSLBP_CACHE"] = str(Path(folder) / "cache")
        make_files(Path(folder), arguments.files)
        result["binning"] = [binning(Path(folder), steps, arguments.files) for steps in (30, 100)]
    for row in result["decoding"] + result["binning"]:
        print(", ".join(f"{key} {value}" for key, value in row.items()))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


def formats() -> dict[str, tuple[bytes, Callable[[bytes], object], int]]:
    """Return content, decoder and number of events of a file of each format."""
    small, large = events(EVENTS, nmnist.SIDE), events(500_000, aedat.SIDE)
    return {
        "N-MNIST": (nmnist_bytes(small), nmnist.decode, EVENTS),
        "AEDAT 2.0": (aedat_2_bytes(large), aedat.decode, len(large.t)),
        "AEDAT 3.1": (aedat_3_bytes(large), aedat.decode, len(large.t)),
    }


def decoding(name: str, content: bytes, decode: Callable[[bytes], object], count: int) -> Row:
    """Return the events per second, the median of several rounds of about 50 ms."""
    repeats = max(1, 2_000_000 // count)
    rates = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(repeats):
            decode(content)
        rates.append(repeats * count / (time.perf_counter() - start))
    return {"format": name, "million events a second": round(statistics.median(rates) / 1e6, 1)}


def binning(folder: Path, time_steps: int, files: int) -> Row:
    """Return the seconds for all files of a folder, and for one pass over their frames."""
    how = Binning(window=3.0, stabilise=True)
    start = time.perf_counter()
    found = load("nmnist", folder, time_steps, how)
    seconds = time.perf_counter() - start
    size = sum(path.stat().st_size for path in (folder / "cache").rglob("*.safetensors"))
    images = found.train_images
    assert isinstance(images, Frames)
    start = time.perf_counter()
    for chosen in torch.randperm(len(images)).split(BATCH):
        images[chosen].trains()
    epoch = time.perf_counter() - start
    return {
        "time steps": time_steps,
        "seconds": round(seconds, 1),
        "files a second": round(files / seconds),
        "million events a second": round(files * EVENTS / seconds / 1e6, 2),
        f"seconds for {OFFICIAL} files": round(seconds * OFFICIAL / files, 1),
        "milliseconds a batch": round(1000 * epoch / -(-len(images) // BATCH), 2),
        "all cache files, MB": round(size / 1e6, 1),
        "peak memory, MB": round((peak_memory() or 0) / 1e6),
    }


def make_files(folder: Path, count: int) -> None:
    """Write files, a seventh of them for testing; 500 different recordings are repeated."""
    contents = [nmnist_bytes(events(EVENTS, nmnist.SIDE, seed)) for seed in range(500)]
    for number in range(count):
        part = "Test" if number % 7 == 0 else "Train"
        place = folder / "N-MNIST" / part / str(number % 10)
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:05}.bin").write_bytes(contents[number % len(contents)])


def events(count: int, side: int, seed: int = 0) -> Events:
    random = np.random.default_rng(seed)
    return Events(
        random.integers(0, side, count).astype(np.int16),
        random.integers(0, side, count).astype(np.int16),
        np.sort(random.integers(0, LENGTH, count)).astype(np.int64),
        random.integers(0, 2, count).astype(np.uint8),
    )


def nmnist_bytes(some: Events) -> bytes:
    x, y, t, p = (column.astype(np.int64) for column in some)
    parts = np.stack([x, y, p << 7 | t >> 16, t >> 8 & 255, t & 255], 1)
    return parts.astype(np.uint8).tobytes()


def aedat_2_bytes(some: Events) -> bytes:
    x, y, t, p = (column.astype(np.int64) for column in some)
    words = np.stack([(127 - x) << 1 | y << 8 | (1 - p), t], 1)
    return b"#!AER-DAT2.0\r\n" + words.astype(">u4").tobytes()


def aedat_3_bytes(some: Events, size: int = 1000) -> bytes:
    """Return a file with packets of `size` events."""
    content = [b"#!AER-DAT3.1\r\n#!END-HEADER\r\n"]
    x, y, t, p = (column.astype(np.int64) for column in some)
    words = np.stack([x << 17 | y << 2 | p << 1 | 1, t], 1).astype("<u4")
    for first in range(0, len(words), size):
        part = words[first : first + size]
        numbers = (1, 1, 8, 4, 0, len(part), len(part), len(part))
        content += [struct.pack("<hhiiiiii", *numbers), part.tobytes()]
    return b"".join(content)


if __name__ == "__main__":
    main()
