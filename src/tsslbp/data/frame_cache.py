"""Event data sets as frames in a memory-mapped file, made once for each binning.

The file is in ``binned/`` of the cache folder (`tsslbp.data.files.cache_folder`). Its name ends in
a hash of everything that determines its content: the recordings' fingerprint, the binning and T. It
is a safetensors file with all training recordings before the test recordings:

=============  ==========================================================================
``pixels``     ``[K]`` uint16 or int32, the nonzero pixels, see `Frames`
``values``     ``[K]`` float32, unless all are 1
``starts``     ``[R * T + 1]`` int64
``labels``     ``[R]`` int64
=============  ==========================================================================

Its metadata hold the number of training recordings, the size of a frame, and the digests of
`tsslbp.storage`. A file that is damaged or has no digests is made again.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import DataError, InvalidInput, RunError
from ..experiment.binning import Binning
from ..storage import (
    digest_of_rest,
    hold,
    read_header,
    remove_leftovers,
    replace_file,
    sealed_header,
)
from . import catalogue
from .dataset import DataSet
from .events import nmnist
from .events.binning import bin_events
from .events.recording import Events, EventSet
from .files import CACHE_VARIABLE, cache_folder
from .frames import Frames

FORMAT = 2  # version of the file; a new version makes all files again
HEADER = 1024  # bytes reserved for the safetensors header, which is written last
ALIGNMENT = 8  # bytes; each array begins at a multiple of it
OUTSIDE = "have no event within the frames: check binning.window, and that times start at 0"
_LETTERS = {"u": "U", "i": "I", "f": "F"}  # safetensors' letters for types


def load(source: EventSet, time_steps: int, how: Binning) -> DataSet:
    """Return the frames of an event data set; they are binned now or read from an earlier file.

    If several processes call this at once, one makes the file and the others wait for it.

    Args:
        source: the recordings.
        time_steps: T.
        how: the binning.

    Raises:
        DataError: a recording cannot be read, there is none, or the file cannot be written.
        InvalidInput: `how` stabilises recordings that are not those of N-MNIST.
    """
    if how.stabilise:
        entry = catalogue.entries().get(source.name)
        if entry is None or entry.reader != "nmnist":
            raise InvalidInput(
                f"stabilise applies only to N-MNIST, got recordings of {source.name}: set "
                "binning.stabilise to false"
            )
    path = _path(source, time_steps, how, FORMAT)
    if data_set := _open(path, source):
        return data_set
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with hold(path.with_suffix(".lock"), wait=True):
            data_set = _open(path, source)
            if data_set is None:
                remove_leftovers(path.parent, path.name)
                replace_file(path, lambda new: _write(new, source, time_steps, how))
                _remove_earlier(source, time_steps, how)
                data_set = _open(path, source)
    except (OSError, RunError) as error:
        raise DataError(f"{error}; set {CACHE_VARIABLE} to another folder") from error
    assert data_set is not None
    return data_set


def _path(source: EventSet, time_steps: int, how: Binning, file_format: int) -> Path:
    sensor, parts = (source.height, source.width), (len(source.train), len(source.test))
    decides = [file_format, source.name, source.fingerprint, parts, sensor, time_steps, asdict(how)]
    key = hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16]
    return cache_folder() / "binned" / f"{source.name}-{time_steps}-{key}.safetensors"


def _remove_earlier(source: EventSet, time_steps: int, how: Binning) -> None:
    """Remove the files of earlier formats, which are no longer read."""
    for earlier in range(1, FORMAT):
        with suppress(OSError):
            _path(source, time_steps, how, earlier).unlink(missing_ok=True)


def _open(path: Path, source: EventSet) -> DataSet | None:
    """Return the data set in a file, or None if it is missing or damaged."""
    try:
        with path.open("rb") as file:
            header, expected = read_header(file)
            if expected is None or expected != digest_of_rest(file):
                return None
        facts = {key: json.loads(header["__metadata__"][key]) for key in ("train", "size")}
        with safe_open(path, framework="pt") as tensors:
            names = tensors.keys()
            arrays: dict[str, Tensor] = {name: tensors.get_tensor(name) for name in names}
    except (OSError, ValueError, SafetensorError):
        return None
    labels, values = arrays["labels"], arrays.get("values")
    everything = torch.arange(len(labels))
    frames = Frames(arrays["pixels"], values, arrays["starts"], everything, tuple(facts["size"]))
    train, test = slice(facts["train"]), slice(facts["train"], None)
    parts = frames[train], labels[train], frames[test], labels[test]
    return DataSet(source.name, *parts, source.classes, source.note)


def _write(path: Path, source: EventSet, time_steps: int, how: Binning) -> None:
    """Bin all recordings into a file; only one of them is in memory at a time."""
    size = (time_steps, *how.shape(source.height, source.width))
    kind = np.dtype(np.uint16 if math.prod(size[1:]) <= 1 << 16 else np.int32)
    source.oddities.clear()
    labels: list[int] = []
    counts = [np.zeros(1, np.int64)]
    with path.open("w+b") as file, tempfile.TemporaryFile(dir=path.parent) as values:
        file.seek(HEADER)
        for items in (source.train, source.test):
            before = len(labels)
            for label, events in chain.from_iterable(_read(source, item) for item in items):
                if how.stabilise:
                    events = nmnist.stabilise(events)
                active = bin_events(events, source.height, source.width, time_steps, how)
                source.oddities[OUTSIDE] += not active.counts.any()
                labels.append(label)
                counts.append(active.counts)
                file.write(active.pixels.astype(kind).data)
                if active.values is not None:
                    values.write(active.values.data)
            if len(labels) == before:
                raise DataError(f"{source.name} contains no recording for training or for testing")
        for what, count in source.oddities.items():
            if count:
                warnings.warn(f"{source.name}: {count:,} recordings {what}", stacklevel=1)
        arrays = _Arrays(file)
        arrays.end("pixels", kind)
        if values.tell():
            values.seek(0)
            shutil.copyfileobj(values, file)
            arrays.end("values", np.dtype(np.float32))
        file.write(np.concatenate(counts).cumsum().data)
        arrays.end("starts", np.dtype(np.int64))
        file.write(np.array(labels, np.int64).data)
        arrays.end("labels", np.dtype(np.int64))
        arrays.describe({"train": json.dumps(before), "size": json.dumps(size)})


def _read(source: EventSet, item: Any) -> Iterator[tuple[int, Events]]:
    """Yield the recordings of an item, checked, since a user's function may read them."""
    try:
        for label, events in source.read(item):
            if not isinstance(events, Events):
                raise DataError(
                    f"{source.name}: item {item!r} gave no Events: convert it with data.as_events"
                )
            if not 0 <= label < source.classes:
                raise DataError(
                    f"{source.name}: item {item!r} has label {label}, expected 0 to "
                    f"{source.classes - 1}"
                )
            yield label, events
    except OSError as error:
        raise DataError(f"{source.name}: cannot read item {item!r}: {error}") from error


class _Arrays:
    """The arrays of a safetensors file, written one after the other; the header comes last."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.begin, self.headers = file, HEADER, dict[str, Any]()

    def end(self, name: str, kind: np.dtype[Any]) -> None:
        """End the array that was written since the last one, and pad it with zeros."""
        self.file.write(bytes(-self.file.tell() % ALIGNMENT))
        end = self.file.tell()
        self.headers[name] = {
            "dtype": f"{_LETTERS[kind.kind]}{8 * kind.itemsize}",
            "shape": [(end - self.begin) // kind.itemsize],
            "data_offsets": [self.begin - HEADER, end - HEADER],
        }
        self.begin = end

    def describe(self, metadata: dict[str, str]) -> None:
        """Write the header with the digests."""
        self.file.seek(HEADER)  # this also flushes buffered data
        header = {"__metadata__": metadata, **self.headers}
        content = sealed_header(header, digest_of_rest(self.file), HEADER)
        self.file.seek(0)
        self.file.write(content)
