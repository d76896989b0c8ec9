"""The folder of one training run; only this module reads or writes it.

===========================  ==============================================================
``config.toml``              the complete experiment; a folder with this file is a run
``*.py``                     file of a custom network; the configuration has its checksum
``environment.json``         versions, commit, machine and command of the run and its resumes
``metrics.jsonl``            one JSON object per epoch and line; ``note``: a caveat of its data
``steps.npz``                arrays with one value per training step
``diverged.json``            why the training ended, if it diverged: ``{"reason": ...}``
``data.json``                digest and class names of the data, if they are the user's own
``cost.json``                cost of the trained network per image
``checkpoints/*.safetensors``  tensors, and the rest of the state as JSON in the file's metadata
===========================  ==============================================================

Files are replaced atomically: if a run is killed, or the disk is full, the earlier file remains. No
code from a file is executed here: tensors are safetensors, arrays are plain numbers, and everything
else is JSON or TOML. The file of a network is only copied.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, final

from safetensors import SafetensorError, safe_open

from .. import experiment as experiments
from ..errors import Error, InvalidInput, RunError, nearest
from ..experiment import Experiment, is_shipped, network_file, trained_folder, trained_names
from ..reading import find, parse_json, read_arrays, read_table, read_whole
from ..storage import (
    DAMAGED,
    append_lines,
    digest,
    digest_of_rest,
    hold_folder,
    is_held,
    read_header,
    remove_leftovers,
    sealed_header,
    write_error,
    write_file,
    writing,
)
from .environment import describe_environment
from .json_files import parse_records, to_line, write_json

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

AVERAGED = "averaged"  # checkpoint of the averaged weights
CHECKPOINTS = ("last", "best-validation", "best-test", AVERAGED)
WEIGHTS = "weights."  # with which the names of a network's weights begin in a checkpoint

_CONFIG = "config.toml"
_ENVIRONMENT = "environment.json"
_METRICS = "metrics.jsonl"
_STEPS = "steps.npz"
_DIVERGED = "diverged.json"
_COST = "cost.json"
_DATA = "data.json"
_CHECKPOINT_FOLDER = "checkpoints"
_STATE_KEY = "state"
_TRIES = 100  # to read a checkpoint that is being replaced


@final
@dataclass(frozen=True)
class Run:
    """A run folder, made by `Run.create` or `Run.open`; one process at a time may write to it.

    Every method that writes raises `RunError` if the disk is full or the folder is read-only; the
    earlier contents are kept.

    Attributes:
        folder: the run folder.
        experiment: what the run trains.
        trust_code: whether code in the folder, that is, a network's file, may be executed.
    """

    folder: Path
    experiment: Experiment
    trust_code: bool = field(default=False, compare=False)

    @classmethod
    def create(cls, folder: Path, experiment: Experiment) -> Run:
        """Create `folder`, with its parents, and write the experiment and the environment into it.

        A network's file is copied into it, and the run trains this copy from then on.

        Raises:
            InvalidInput: the network's file cannot be read.
            RunError: the folder contains a run, part of one, or other files, is in use, or cannot
                be written.
        """
        with claim(folder):
            for pattern in (_CONFIG, _METRICS, _STEPS, f"{_CHECKPOINT_FOLDER}/*.safetensors"):
                if find(folder, pattern):
                    raise RunError(
                        f"{folder} holds a run already (found {pattern}): resume it, or choose "
                        "another folder"
                    )
            file = network_file(experiment.network)
            _check_others(folder, [file.path.name] if file else [])
            write_json(folder / _ENVIRONMENT, describe_environment())
            with writing(f"the run folder {folder}"):
                (folder / _CHECKPOINT_FOLDER).mkdir(exist_ok=True)
            # Written last, because this file makes the folder a run.
            experiments.save(experiment, folder / _CONFIG)
            return cls.open(folder, trust_code=True)

    @classmethod
    def open(cls, folder: Path, trust_code: bool = False) -> Run:
        """Open the run in `folder`; set `trust_code` only for files that you know.

        The name of a pretrained network opens that network, unless a folder of this name
        contains a run (`tsslbp.experiment.trained_folder`).

        Raises:
            RunError: `folder` contains no run, or its configuration is invalid.
        """
        named, folder = str(folder), trained_folder(folder)
        config = folder / _CONFIG
        if not os.path.isfile(config):
            if not os.path.lexists(folder):
                known = nearest(named, trained_names()) if folder.name == named else ""
                raise RunError(f"{folder} is not a run folder: it does not exist{known}")
            inside = find(folder, f"*/{_CONFIG}")
            known = f", but {inside[0].parent} is one" if inside else ""
            raise RunError(f"{folder} is not a run folder: it contains no {_CONFIG}{known}")
        try:
            experiment = experiments.load_recipe(config)
        except Error as error:
            raise RunError(f"cannot open the run {folder}: {error}") from error
        if network_file(experiment.network) and experiment.network_checksum is None:
            raise RunError(
                f"cannot open the run {folder}: {_CONFIG} has no checksum of the network's file, "
                "so it was not written by this program"
            )
        return cls(folder, experiment, trust_code)

    @property
    def is_shipped(self) -> bool:
        """Whether it is a pretrained network, whose folder is never written."""
        return is_shipped(self.folder)

    @property
    def environment(self) -> dict[str, Any]:
        """The environment of the run (`describe_environment`), and ``"resumed"``: later ones.

        ``"resumed"`` is absent until `record_resume` is called.

        Raises:
            RunError: the file is missing or damaged.
        """
        return read_table(self.folder / _ENVIRONMENT)

    def record_resume(self) -> None:
        """Append the present environment to the list ``"resumed"`` of the run's environment."""
        with self.hold():
            value = self.environment
            resumed = [*value.get("resumed", []), describe_environment()]
            write_json(self.folder / _ENVIRONMENT, value | {"resumed": resumed})

    def extended(self, epochs: int) -> Run:
        """Return the run with another number of epochs to train, which is also written.

        Raises:
            RunError: more epochs have been trained already, or another process trains the run.
        """
        if epochs == self.experiment.epochs:
            return self
        with self.hold():
            if epochs < (done := len(self.epochs())):
                raise RunError(
                    f"{self.folder} has {done} epochs already, so it cannot end at {epochs}"
                )
            experiment = replace(self.experiment, epochs=epochs)
            experiments.save(experiment, self.folder / _CONFIG)
            return Run(self.folder, experiment, self.trust_code)

    def append_epoch(self, record: Mapping[str, Any]) -> None:
        """Append one epoch's record to the metrics; it is on the disk when this returns.

        Args:
            record: JSON values, with the number of the epoch as ``"epoch"``; NaN and infinity are
                written as null.

        Raises:
            InvalidInput: the number of the epoch is missing, or JSON cannot represent a value.
        """
        append_lines(self.folder / _METRICS, to_line(record))

    def epochs(self) -> list[dict[str, Any]]:
        """Return the records of all epochs in order; empty before the first epoch has ended.

        A line that was cut off by a kill is left out. If an epoch has several lines, the last one
        counts.

        Raises:
            RunError: the file cannot be read, or its last line is complete but no record.
        """
        path = self.folder / _METRICS
        try:
            content = read_whole(path) if os.path.lexists(path) else b""
        except OSError as error:
            raise RunError(f"cannot read {path}: {error.strerror or error}") from error
        records = parse_records([line for line in content.splitlines() if line.strip()])
        is_whole = content.endswith(b"\n")  # not cut off by a kill
        if is_whole and records and records[-1] is None:
            raise RunError(
                f"{path}: the last line is not the record of an epoch: was the file damaged or "
                "edited? Restore it from a copy"
            )
        by_epoch = {record["epoch"]: record for record in records if record}
        return [by_epoch[epoch] for epoch in sorted(by_epoch)]

    def truncate_epochs(self, count: int) -> None:
        """Keep only the records with ``epoch <= count``, one line each, and no incomplete line."""
        lines = [to_line(record) for record in self.epochs() if record["epoch"] <= count]
        write_file(self.folder / _METRICS, *lines)

    def save_steps(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Write the arrays of the training steps, replacing the earlier ones.

        Raises:
            InvalidInput: an array contains Python objects, which only pickle could store.
        """
        import numpy as np

        for name, array in arrays.items():
            if not isinstance(array, np.ndarray) or array.dtype.hasobject:
                got = f"got {array!r:.60}"
                raise InvalidInput(f"steps: {name!r} must be an array of numbers, {got}")
        content = io.BytesIO()
        values: dict[str, Any] = dict(arrays)
        np.savez(content, **values)
        write_file(self.folder / _STEPS, content.getbuffer())

    def steps(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return the arrays that `save_steps` wrote; empty if it was never called.

        Raises:
            RunError: the file is damaged, or contains something other than arrays of numbers.
        """
        path = self.folder / _STEPS
        if not os.path.lexists(path):
            return {}
        try:
            return read_arrays(path)
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read {path}: {error}; is it damaged or truncated?") from error

    def record_divergence(self, reason: str | None) -> None:
        """Record why the training diverged; None deletes the record, as for a new attempt."""
        path = self.folder / _DIVERGED
        if reason is not None:
            write_json(path, {"reason": reason})
            return
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise RunError(write_error(path, error)) from error

    def divergence(self) -> str | None:
        """Return why the training diverged, or None if it has not.

        Raises:
            RunError: the file cannot be read.
        """
        if (table := self._table(_DIVERGED)) is None:
            return None
        if "reason" not in table:
            raise RunError(f"cannot read {self.folder / _DIVERGED}: it holds no 'reason'")
        return str(table["reason"])

    def record_cost(self, record: Mapping[str, Any]) -> None:
        """Record the cost of the trained network, replacing an earlier record.

        Args:
            record: the result of `tsslbp.analysis.cost`, as returned by ``Cost.to_table``, with the
                ``"epoch"`` and the ``"checkpoint"`` of the weights.
        """
        write_json(self.folder / _COST, record)

    def cost(self) -> dict[str, Any] | None:
        """Return what `record_cost` wrote; None if it was never called.

        Raises:
            RunError: the file is damaged.
        """
        return self._table(_COST)

    def record_data(self, digest: str, class_names: Sequence[str] = ()) -> None:
        """Record the user's own data on which the run trains: their digest, and their classes.

        Args:
            digest: digest of the images and labels (`data.digest`).
            class_names: names of the classes, if they have names.

        Raises:
            RunError: the run has trained on different data.
        """
        if (there := self.data_digest()) is None:
            table = {"data": self.experiment.data, "sha256": digest}
            names = {"class_names": list(class_names)} if class_names else {}
            write_json(self.folder / _DATA, table | names)
        elif there != digest:
            raise RunError(
                f"{self.folder} was trained on different data: their SHA-256 is {there[:12]}..., "
                f"that of the present data is {digest[:12]}...; restore the original data"
            )

    def data_digest(self) -> str | None:
        """Return the digest that `record_data` wrote; None if it was never called.

        Raises:
            RunError: the file is damaged.
        """
        if (table := self._table(_DATA)) is None:
            return None
        if not isinstance(digest := table.get("sha256"), str):
            raise RunError(f"cannot read {self.folder / _DATA}: it holds no 'sha256'")
        return digest

    def class_names(self) -> tuple[str, ...]:
        """Return the class names that `record_data` wrote; empty if there are none.

        Raises:
            RunError: the file is damaged.
        """
        names = (self._table(_DATA) or {}).get("class_names", [])
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise RunError(
                f"cannot read {self.folder / _DATA}: 'class_names' is not a list of text"
            )
        return tuple(names)

    def _table(self, name: str) -> dict[str, Any] | None:
        """Return the content of a JSON file of the folder; None if there is no such file."""
        path = self.folder / name
        return read_table(path) if os.path.lexists(path) else None

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Lock the run against other processes while the context lasts, as `claim` does.

        Raises:
            RunError: another process uses it, or the folder cannot be written.
        """
        with _hold(self.folder):
            yield

    @property
    def is_training(self) -> bool:
        """Whether a process is training this run now."""
        return is_held(self.folder)

    def has_checkpoint(self, name: str) -> bool:
        """Whether the checkpoint `name`, one of `CHECKPOINTS`, has been saved."""
        return os.path.isfile(self._checkpoint(name))

    def save_checkpoint(
        self, name: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any]
    ) -> None:
        """Write a checkpoint, replacing the earlier one of that name.

        Args:
            name: one of `CHECKPOINTS`.
            tensors: any shapes, strides and devices; they may share memory.
            state: values that JSON can represent, with finite numbers; tuples are read as lists.

        Raises:
            InvalidInput: the name is unknown, or the file cannot represent the contents.
        """
        import safetensors.torch
        import torch

        path = self._checkpoint(name)
        copies = {
            key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for key, tensor in tensors.items()
        }
        try:
            text = json.dumps(dict(state), allow_nan=False)
            content = safetensors.torch.save(copies, {_STATE_KEY: text})
        except (TypeError, ValueError, KeyError, SafetensorError) as error:
            raise InvalidInput(f"checkpoint {name!r} cannot be stored: {error}") from error
        file = io.BytesIO(content)
        header, _ = read_header(file)
        data = memoryview(content)[file.tell() :]
        write_file(path, sealed_header(header, digest(data)), data)

    def load_checkpoint(
        self, name: str, prefix: str = ""
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors of a checkpoint, on the CPU, and its state.

        Args:
            name: one of `CHECKPOINTS`.
            prefix: only tensors whose names begin with it are returned; all are verified.

        Raises:
            InvalidInput: the name is unknown.
            RunError: there is no such checkpoint, or it is damaged or not from this program.
        """
        for _ in range(_TRIES):
            with self._opened(name) as (file, metadata, expected):
                _check_digest(expected, digest_of_rest(file))
                with safe_open(self._checkpoint(name), framework="pt") as opened:
                    if (opened.metadata() or {}) == metadata:  # not replaced in the meantime
                        names = [key for key in opened.keys() if key.startswith(prefix)]  # noqa: SIM118
                        # Cloned, because the file is mapped into memory.
                        tensors = {key: opened.get_tensor(key).clone() for key in names}
                        return tensors, _parse_state(metadata)
        raise RunError(f"cannot load {self._checkpoint(name)}: it keeps changing while it is read")

    def checkpoint_state(self, name: str) -> dict[str, Any]:
        """Return only the state of a checkpoint, as `load_checkpoint` does; no tensor is read."""
        with self._opened(name) as (_, metadata, _):
            return _parse_state(metadata)

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[tuple[IO[bytes], dict[str, Any], str | None]]:
        """Yield a checkpoint's file at the first tensor, its metadata, and the tensors' digest."""
        path = self._checkpoint(name)
        if not os.path.isfile(path):
            saved = ", ".join(other for other in CHECKPOINTS if self.has_checkpoint(other))
            raise RunError(f"{self.folder} has no checkpoint {name!r}; saved: {saved or 'none'}")
        try:
            with path.open("rb") as file:
                header, expected = read_header(file)
                yield file, header["__metadata__"], expected
        except (SafetensorError, OSError, ValueError, RecursionError) as error:
            raise RunError(f"cannot load {path}: {_load_failure(path, error)}") from error

    def _checkpoint(self, name: str) -> Path:
        if name not in CHECKPOINTS:
            hint = f"{nearest(name, CHECKPOINTS)}; known: {', '.join(CHECKPOINTS)}"
            raise InvalidInput(f"unknown checkpoint {name!r}{hint}")
        return self.folder / _CHECKPOINT_FOLDER / f"{name}.safetensors"


def has_begun(folder: Path) -> bool:
    """Whether a folder contains a run with a checkpoint from which it can resume."""
    return os.path.isfile(folder / _CHECKPOINT_FOLDER / "last.safetensors")


def read_weights(content: bytes, path: Path) -> dict[str, Tensor]:
    """Return the weights in a file of tensors, by the keys of a network's state, on the CPU.

    From a checkpoint only the weights are returned, from another safetensors file all tensors.

    Args:
        content: content of the file.
        path: path of the file, for messages.

    Raises:
        RunError: it is not such a file, is damaged, or contains no tensors.
    """
    import safetensors.torch

    try:
        file = io.BytesIO(content)
        _, expected = read_header(file)
        _check_digest(expected, digest(memoryview(content)[file.tell() :]))
        tensors = safetensors.torch.load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise RunError(f"cannot load {path}: {_load_failure(path, error)}") from error
    own = {key: one for key, one in tensors.items() if key.startswith(WEIGHTS)}
    ours = {key.removeprefix(WEIGHTS): one for key, one in own.items()}
    if not (ours or tensors):
        raise RunError(f"{path} contains no tensors")
    return ours or tensors


def _check_digest(expected: str | None, found: str) -> None:
    """Raise `ValueError` if tensors have another digest than the one written with them, if any."""
    if expected not in (None, found):
        raise ValueError(f"{DAMAGED}: its tensors have another digest than when they were written")


@contextlib.contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Lock the run in a folder against creation, change and training by other processes.

    Code that creates or resumes a run claims its folder before first reading it and until the end;
    within the context, `Run.create`, `Run.hold` and others share this claim. Incomplete files of a
    killed process are removed.

    Raises:
        RunError: another process uses the run, the folder contains other files than a run's, or it
            cannot be written.
    """
    if not os.path.exists(folder / _CONFIG):  # leave no trace in a folder with other files
        _check_others(folder, [path.name for path in find(folder, "*.py")])
    with _hold(folder):
        yield


@contextlib.contextmanager
def _hold(folder: Path) -> Iterator[None]:
    if is_shipped(folder):
        raise RunError(
            f"{folder.name} is a pretrained network, and its folder is never changed: "
            f"tsslbp train {folder.name} --weights {folder.name} trains it further as a new run"
        )
    with hold_folder(folder):
        for place in (folder, folder / _CHECKPOINT_FOLDER):
            remove_leftovers(place)
        yield


def _check_others(folder: Path, ours: Collection[str]) -> None:
    """Raise `RunError` if a folder contains files that are neither a run's nor `ours`."""
    known = {_CONFIG, _ENVIRONMENT, _METRICS, _STEPS, _CHECKPOINT_FOLDER, *ours}
    names = (path.name for path in find(folder, "*"))
    if others := [name for name in names if name not in known and name[0] != "."]:
        raise RunError(
            f"{folder} contains other files (found {min(others)}): choose an empty or new folder"
        )


def count_epochs(folder: Path) -> int:
    """Return the number of epochs that the run in `folder` has recorded so far; 0 if none."""
    try:
        return read_whole(folder / _METRICS).count(b"\n")
    except OSError:
        return 0


def _parse_state(metadata: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(text := metadata.get(_STATE_KEY), str):
        raise ValueError("it has no training state, so it was written by another program")
    state = parse_json(text.encode())
    if not isinstance(state, dict):
        raise ValueError("its training state is not a JSON object")
    return state


def _load_failure(path: Path, error: Exception) -> str:
    """Return the probable reason why a checkpoint cannot be loaded."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        start = file.read(9)
        if not start:
            return "the file is empty; was the disk full when it was copied?"
        # safetensors: 8 bytes of length, then "{"; torch.save: a zip archive; pickle: byte 128.
        if start[8:] != b"{" and (start[:2] == b"PK" or start[0] == 0x80):
            return (
                "it looks like a file of torch.save or pickle, which could run code and is never "
                "opened; expected a safetensors file"
            )
    if isinstance(error, SafetensorError):
        return f"it is truncated, damaged or not a safetensors file ({error})"
    return str(error)
