"""Tests that every file the library reads, if damaged at random, is read or refused in one line.

``--mutations N`` tries N changes of each kind of file; the default is 300.
"""

from __future__ import annotations

import ast
import contextlib
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import tarfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import mutations
from tests.data.events import event_files
from tests.report.conftest import cost, make

import tsslbp
from tsslbp import data, report, storage, toml_files, training
from tsslbp.cli.drawing import figures_of_run
from tsslbp.data import catalogue, files, frame_cache
from tsslbp.data.events import aedat, dvs_gesture, nmnist
from tsslbp.data.events.recording import EventSet
from tsslbp.data.images import cifar10, idx
from tsslbp.errors import Error, InvalidInput, RunError, printable
from tsslbp.experiment import Binning, Experiment, load_recipe, save
from tsslbp.run import Run
from tsslbp.run.results import Result, read_all
from tsslbp.studies import compare
from tsslbp.studies.space import load_space
from tsslbp.studies.sweep import read_identity
from tsslbp.training import trackers
from tsslbp.training.build import build_network, build_optimizer
from tsslbp.training.checkpoint import TrainingState, start_from_weights

Mutate = Callable[[bytes, random.Random], bytes]


@dataclass
class Kind:
    """A kind of file: how to make one in a folder, how to read it there, and how to damage it."""

    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    mutate: Mutate = mutations.mutated_bytes


def make_run(folder: Path, **changes: Any) -> Run:
    """Create a run with every file that a run can have; its network has taken a single step."""
    experiment = replace(load_recipe("digits"), network="4", padding=0, epochs=3, **changes)
    make(folder, experiment, 0.9, note="a caveat", drops=[{"step": 3, "epoch": 1}])
    (folder / "cost.json").write_text(json.dumps(cost(3, 500.0)))
    (folder / "diverged.json").write_text(json.dumps({"reason": "the loss is nan"}))
    run = Run.open(folder)
    arrays = {"images": [50, 50], "correct": [10, 20], "loss": [1.0, 0.5], "epoch": [1, 1]}
    run.record_data("0" * 64, ("left", "right"))
    run.save_steps({name: np.array(values) for name, values in arrays.items()})
    (folder / "checkpoints").mkdir()
    net = build_network(experiment, (1, 8, 8), 10)
    state = TrainingState(net, build_optimizer(experiment, net))
    loss = net(torch.zeros(2, 1, 8, 8)).sum()
    loss.backward()
    state.optimizer.step()
    state.save(run, "last", (1, 8, 8), 10)
    return run


def file_of_run(name: str) -> Callable[[Path], Path]:
    def make_file(folder: Path) -> Path:
        return make_run(folder / "run").folder / name

    return make_file


def read_result(path: Path) -> None:
    Result.read(path.parent)
    Run.open(path.parent).divergence()


def read_steps(path: Path) -> None:
    figures_of_run(Run.open(path.parent))


def load_checkpoint(path: Path) -> None:
    run = Run.open(path.parent.parent)
    net = training.load(run.folder, "last")
    net(torch.zeros(2, 1, 8, 8))
    wanted = run.experiment
    net = build_network(wanted, (1, 8, 8), 10)
    state = TrainingState(net, build_optimizer(wanted, net))
    state.restore(*run.load_checkpoint("last"), "last")


def header_of(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header of a file of tensors without the digests, and the bytes after it."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    for name in storage.DIGESTS:
        header["__metadata__"].pop(name, None)
    return header, content[end:]


def resealed(content: bytes, draw: random.Random) -> bytes:
    """Damage a file of tensors but make its digests match, as somebody could do on purpose."""
    header, rest = header_of(content)
    metadata = header["__metadata__"]
    key = draw.choice(sorted(metadata) + sorted(header.keys() - {"__metadata__"}) * 2)
    if key in metadata:
        metadata[key] = mutations.mutated_json(metadata[key].encode(), draw).decode("latin-1")
    elif draw.random() < 0.5:
        some = ["null", "-1", "0", "[]", "[2, 2]", '"F64"', '"I32"', '"BOOL"', "1e9", "[8, 16]"]
        header = json.loads(mutations.mutated_values(header, draw, some))
    else:
        rest = mutations.mutated_bytes(rest, draw)
    try:
        return storage.sealed_header(header, storage.digest(rest)) + rest
    except (KeyError, TypeError):
        return content[:8] + json.dumps(header).encode() + rest


def unsealed(content: bytes, draw: random.Random) -> bytes:
    """Damage a file of tensors without digests, as earlier versions wrote it."""
    header, rest = header_of(content)
    text = json.dumps(header).encode()
    return mutations.mutated_bytes(len(text).to_bytes(8, "little") + text + rest, draw)


def make_recipe(folder: Path) -> Path:
    save(
        replace(load_recipe("digits"), weight_scale={"conv": 2.0, "linear": 1.0}), folder / "a.toml"
    )
    return folder / "a.toml"


def make_space(folder: Path) -> Path:
    shipped = Path(toml_files.__file__).parent / "studies" / "spaces" / "digits.toml"
    return Path(shutil.copy(shipped, folder / "space.toml"))


def read_space(path: Path) -> None:
    load_space(path).fitted(load_recipe("digits"))


def make_comparison(folder: Path) -> Path:
    wanted = Experiment("digits", "4", epochs=1)
    study = compare.RuleStudy(wanted, ("TSSLBP", "SLAYER"), (2, 3), (0.001, 0.01), 2)
    compare.prepare(study, folder)
    return folder / compare.FILE


def read_comparison(path: Path) -> None:
    compare.read_results(compare.read(path.parent), path.parent)


def make_arrays(folder: Path) -> Path:
    images = np.random.RandomState(0).randint(0, 256, (12, 3, 3)).astype(np.uint8)
    np.savez(folder / "mine.npz", images=images, labels=np.arange(12) % 3)
    return folder / "mine.npz"


def make_packed_arrays(folder: Path) -> Path:
    images = np.random.RandomState(0).rand(12, 2, 1, 3, 3) > 0.5
    np.savez_compressed(folder / "mine.npz", images=images, labels=np.arange(12) % 3)
    return folder / "mine.npz"


def make_image(folder: Path) -> Path:
    image = pytest.importorskip("PIL.Image")
    for name in ("a", "b"):
        (folder / "flowers" / name).mkdir(parents=True)
        for number in range(3):
            pixels = np.full((4, 5), 40 * number, np.uint8)
            image.fromarray(pixels).save(folder / "flowers" / name / f"{number}.png")
    return folder / "flowers" / "a" / "0.png"


def make_idx(folder: Path) -> Path:
    content = b"\0\0\x08\x03" + b"\0\0\0\x02\0\0\0\x03\0\0\0\x02" + bytes(range(12))
    (folder / "images.gz").write_bytes(gzip.compress(content, mtime=0))
    return folder / "images.gz"


def read_packed(decode: Callable[[bytes], object]) -> Callable[[Path], object]:
    """Return a reader of packed files that takes the checksum of any file for the right one."""

    def read(path: Path) -> object:
        md5 = {path.name: hashlib.md5(path.read_bytes()).hexdigest()}
        entry = replace(catalogue.find("mnist"), md5=md5)
        return files.read_packed(path, entry, 10**6, decode)

    return read


def make_tar(folder: Path, packed: bool = True) -> Path:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for number, name in enumerate(cifar10.FILES):
            part = bytes([number]) * 3073
            member = tarfile.TarInfo(f"{cifar10.FOLDER}/{name}")
            member.size = len(part)
            archive.addfile(member, io.BytesIO(part))
    (folder / "a.tar.gz").write_bytes(gzip.compress(content.getvalue(), mtime=0))
    return folder / "a.tar.gz"


def mutated_within(content: bytes, draw: random.Random) -> bytes:
    """Damage what is packed, in half of all cases only its first bytes, where headers are."""
    content = gzip.decompress(content)
    first = draw.choice((512, len(content)))
    return gzip.compress(mutations.mutated_bytes(content[:first], draw) + content[first:], 1)


def make_events(write: Callable[..., bytes], side: int) -> Callable[[Path], Path]:
    def make_file(folder: Path) -> Path:
        (folder / "events").write_bytes(write(event_files.random_events(30, side)))
        return folder / "events"

    return make_file


def make_labels(folder: Path) -> Path:
    (folder / "labels.csv").write_text(f"{dvs_gesture.COLUMNS}\n1,0,100\n11,50,2000\n")
    return folder / "labels.csv"


def make_list(folder: Path) -> Path:
    for name in ("user01_led", "user02_led"):
        (folder / f"{name}.aedat").write_bytes(b"")
        (folder / f"{name}_labels.csv").write_text("")
    (folder / dvs_gesture.LISTS[0]).write_text("user01_led.aedat\nuser02_led.aedat\n")
    return folder / dvs_gesture.LISTS[0]


def event_set() -> EventSet:
    def read(number: int) -> Iterator[tuple[int, Any]]:
        yield number % 2, event_files.random_events(40, 4, number)

    return EventSet("toy", 4, 4, 2, [0, 1], [2], read, "known")


def make_frames(folder: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TSSLBP_CACHE", str(folder))
        frame_cache.load(event_set(), 3, Binning(values="count"))
    (path,) = (folder / "binned").glob("*.safetensors")
    return path


def read_frames(path: Path) -> None:
    """Read a cache of frames; if it is damaged, it is made again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TSSLBP_CACHE", str(path.parent.parent))
        found = frame_cache.load(event_set(), 3, Binning(values="count"))
    assert found.train_images.shape == (2, 3, 2, 4, 4) and len(found.test_labels) == 1
    found.train_images.trains(), found.test_images.trains()


def make_nir(folder: Path) -> Path:
    nir = pytest.importorskip("nir")
    from tsslbp import Network
    from tsslbp.export import to_nir

    nir.write(folder / "net.nir", to_nir(Network("2C2-P2-3", (1, 4, 4), 2, 2)))
    return folder / "net.nir"


def read_nir(path: Path) -> None:
    from tsslbp.export import from_nir

    from_nir(path)


def mutated_nodes(content: bytes, draw: random.Random) -> bytes:
    """Replace one or two nodes of a NIR file by other values or by links."""
    import h5py

    stream = io.BytesIO(content)
    with h5py.File(stream, "r+") as file:
        places: list[str] = []
        file.visit(places.append)
        change_node(file, places, draw)
        if draw.random() < 0.5:  # the first change may have left links without targets
            with contextlib.suppress(OSError, RuntimeError):
                change_node(file, places, draw)
    return stream.getvalue()


def change_node(file: Any, places: list[str], draw: random.Random) -> None:
    import h5py

    name = draw.choice([one for one in places if one in file] or ["version"])
    old = file[name][()] if isinstance(file.get(name), h5py.Dataset) else None
    if name in file:
        del file[name]
    value = draw.choice(odd_nodes())
    if isinstance(old, np.ndarray) and old.dtype.kind in "if" and draw.random() < 0.5:
        with np.errstate(all="ignore"):
            value = draw.choice([old[..., :1], old[None], -old, old * 1e300, old * np.nan])
    if isinstance(old, bytes) and draw.random() < 0.5:
        value = mutations.mutated_bytes(old, draw).replace(b"\0", b"")
        with contextlib.suppress(ValueError):
            value = mutations.mutated_json(old, draw).replace(b"\0", b"")
    file[name] = value


def odd_nodes() -> list[Any]:
    h5py = pytest.importorskip("h5py")
    links = [
        h5py.SoftLink("/"),
        h5py.SoftLink("/node/nodes"),
        h5py.ExternalLink("/etc/passwd", "/"),
        h5py.ExternalLink("net.nir", "/node"),
    ]
    numbers = [0, -1, 1, 3, 2**62, 1e300, np.nan, np.inf, True]
    texts = ["", "x", "\x1b[31m", "CubaLIF", "Flatten", "NIRGraph", "Conv1d", "same", "[" * 10_000]
    arrays = [[], [0], [1, 2], [[1.0]], np.zeros((2, 0, 3)), [2**40, 2**40], ["a", "b"]]
    return [*links, *numbers, *texts, *map(np.array, arrays[:-1]), arrays[-1]]


def make_identity(folder: Path) -> Path:
    (folder / "sweep.json").write_text(json.dumps({"id": "a", "study": "b", "storage": "study.db"}))
    return folder / "sweep.json"


def read_data_record(path: Path) -> None:
    run = Run.open(path.parent)
    run.data_digest()
    run.class_names()


def read_weights(path: Path) -> None:
    wanted = Experiment("digits", "4", weights=str(path))
    start_from_weights(build_network(wanted, (1, 8, 8), 10), wanted)


def make_array(folder: Path) -> Path:
    np.save(folder / "mine.npy", np.arange(3 * 16, dtype=np.uint8).reshape(3, 4, 4))
    return folder / "mine.npy"


def make_id(folder: Path) -> Path:
    (folder / "wandb-id").write_text("0123456789abcdef")
    return folder / "wandb-id"


def make_study(name: str) -> Callable[[Path], Path]:
    """Return a function that makes the study of a sweep with a finished and a running trial."""

    def make_file(folder: Path) -> Path:
        optuna = pytest.importorskip("optuna")
        opened = open_study(folder / name)
        opened.set_user_attr("tsslbp", {"a": 1})
        for state in ("COMPLETE", "RUNNING"):
            opened.add_trial(
                optuna.trial.create_trial(
                    state=optuna.trial.TrialState[state],
                    value=0.5 if state == "COMPLETE" else None,
                    params={"x": 0.5},
                    distributions={"x": optuna.distributions.FloatDistribution(0, 1)},
                    intermediate_values={1: 0.25, 2: 0.5},
                )
            )
        return folder / name

    return make_file


def open_study(path: Path) -> Any:
    optuna_study = pytest.importorskip("tsslbp.studies.optuna_study")
    storage = path if path.suffix == ".db" else str(path)
    with optuna_study.storage_errors(str(path), InvalidInput):
        return optuna_study.open_study("a", storage, optuna_study.make_pruner("none", 3, 1))


def read_study(path: Path) -> None:
    optuna_study = pytest.importorskip("tsslbp.studies.optuna_study")
    study = open_study(path)
    with optuna_study.storage_errors(str(path), RunError):
        study.get_trials()


KINDS: dict[str, Kind] = {
    "config.toml": Kind(file_of_run("config.toml"), read_result, mutations.mutated_toml),
    "environment.json": Kind(file_of_run("environment.json"), read_result, mutations.mutated_json),
    "metrics.jsonl": Kind(file_of_run("metrics.jsonl"), read_result, mutations.mutated_lines),
    "cost.json": Kind(file_of_run("cost.json"), read_result, mutations.mutated_json),
    "diverged.json": Kind(file_of_run("diverged.json"), read_result, mutations.mutated_json),
    "steps.npz": Kind(file_of_run("steps.npz"), read_steps),
    "checkpoint": Kind(file_of_run("checkpoints/last.safetensors"), load_checkpoint),
    "checkpoint resealed": Kind(
        file_of_run("checkpoints/last.safetensors"), load_checkpoint, resealed
    ),
    "checkpoint of old": Kind(
        file_of_run("checkpoints/last.safetensors"), load_checkpoint, unsealed
    ),
    "data.json": Kind(file_of_run("data.json"), read_data_record, mutations.mutated_json),
    "weights": Kind(file_of_run("checkpoints/last.safetensors"), read_weights),
    "weights resealed": Kind(file_of_run("checkpoints/last.safetensors"), read_weights, resealed),
    "array": Kind(make_array, data.npz.load_images),
    "id of a tracker": Kind(make_id, trackers._kept_id),
    "sweep.json": Kind(make_identity, read_identity, mutations.mutated_json),
    "study.db": Kind(make_study("study.db"), read_study),
    "study.log": Kind(make_study("study.log"), read_study, mutations.mutated_lines),
    "recipe": Kind(make_recipe, load_recipe, mutations.mutated_toml),
    "space": Kind(make_space, read_space, mutations.mutated_toml),
    "compare.json": Kind(make_comparison, read_comparison, mutations.mutated_json),
    "arrays": Kind(make_arrays, lambda path: data.load(str(path))),
    "packed arrays": Kind(make_packed_arrays, lambda path: data.load(str(path))),
    "images": Kind(make_image, lambda path: data.load(f"{path.parent.parent}/")),
    "idx": Kind(make_idx, read_packed(lambda content: idx.decode(content, 3))),
    "idx within": Kind(
        make_idx, read_packed(lambda content: idx.decode(content, 3)), mutated_within
    ),
    "archive": Kind(make_tar, read_packed(cifar10._decode_archive)),
    "archive within": Kind(make_tar, read_packed(cifar10._decode_archive), mutated_within),
    "nmnist": Kind(make_events(event_files.nmnist, 34), nmnist.read),
    "aedat 2.0": Kind(make_events(event_files.aedat_2, 128), aedat.read),
    "aedat 3.1": Kind(make_events(event_files.aedat_3, 128), aedat.read),
    "gestures": Kind(make_labels, dvs_gesture.read_labels),
    "list of recordings": Kind(make_list, dvs_gesture._listed),
    "frames": Kind(make_frames, read_frames),
    "nir": Kind(make_nir, read_nir),
    "nir within": Kind(make_nir, read_nir, mutated_nodes),
}


SLOW = ("nir within", "study.db")  # Opening one of these takes a tenth of a second.


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[pytest.mark.slow] * (one in SLOW)) for one in KINDS]
)
def test_a_damaged_file_is_read_or_refused_in_one_line(
    name: str, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    kind, count = KINDS[name], pytestconfig.getoption("--mutations")
    path = kind.make(tmp_path)
    content, before = path.read_bytes(), set(tmp_path.rglob("*"))
    kind.read(path)
    refused, draw = 0, random.Random(name)
    for number in range(count):
        damaged = kind.mutate(content, draw)
        path.write_bytes(damaged)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                kind.read(path)
        except Error as error:
            refused += 1
            check_line(str(error))
        except Exception as error:
            kept = tmp_path.parent / f"{name}-{number}"
            kept.write_bytes(damaged)
            raise AssertionError(f"change {number} of {name}, kept as {kept}") from error
    assert refused or name == "frames"
    assert {one for one in tmp_path.rglob("*") if one.suffix != ".lock"} <= before


def check_line(text: str) -> None:
    assert text and "\n" not in text and len(text) < 2100
    assert text == printable(text)


OF_RUN = ["config.toml", "environment.json", "metrics.jsonl", "cost.json", "diverged.json"]


def test_no_run_ends_a_report_for_all(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """A report on many runs, each with a damaged file, is written and names the unreadable ones."""
    pytest.importorskip("jinja2")
    pytest.importorskip("scipy")
    count, draw = min(300, pytestconfig.getoption("--mutations")), random.Random(0)
    good = make_run(tmp_path / "runs" / "good").folder
    for number in range(count):
        folder = tmp_path / "runs" / str(number)
        shutil.copytree(good, folder)
        config = (folder / "config.toml").read_text()
        (folder / "config.toml").write_text(config.replace("seed = 0", f"seed = {number + 1}"))
        name = OF_RUN[number % len(OF_RUN)]
        path = folder / name
        path.write_bytes(KINDS[name].mutate(path.read_bytes(), draw))
    out = tmp_path / "report.html"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        problems = report.write([tmp_path / "runs"], out)
    assert count / 5 < len(problems) < count
    for problem in problems:
        check_line(problem)
        assert str(tmp_path) in problem
    for written in (out, out.with_suffix(".md")):
        assert printable(written.read_text()) == written.read_text()


def test_odd_things_in_the_place_of_files(tmp_path: Path) -> None:
    """Folders, pipes, devices, circular links and long names cause at most one-line errors."""
    good = make_run(tmp_path / "good").folder
    for name in OF_RUN:
        for kind, put in ODD_THINGS.items():
            folder = tmp_path / f"{kind} as {name}"
            shutil.copytree(good, folder)
            (folder / name).unlink()
            put(folder / name)
            try:
                read_result(folder / name)
            except Error as error:
                check_line(str(error))
    results, problems = read_all([tmp_path, tmp_path / ("x" * 300), tmp_path / "none"])
    assert good in [one.folder for one in results]
    for problem in problems:
        check_line(problem)


def test_files_are_looked_for_without_errors() -> None:
    """Files are looked for by `os.path` and `find`, since some methods of `Path` raise errors."""
    raising = {"exists", "is_dir", "is_file", "is_symlink", "is_mount", "glob", "rglob", "walk"}
    package = Path(tsslbp.__file__).parent
    found = [
        f"{path.name}:{node.lineno} {node.func.attr}"
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if node.func.attr in raising
        if not ast.unparse(node.func).startswith(("os.", "glob.", "ast.", "SHIPPED."))
    ]
    assert found == []


ODD_THINGS: dict[str, Callable[[Path], object]] = {
    "folder": lambda path: path.mkdir(),
    "pipe": lambda path: os.mkfifo(path),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "circle": lambda path: path.symlink_to(path.name),
    "link to nothing": lambda path: path.symlink_to("x" * 300),
    "hole": lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 1 << 40),
    "memory": lambda path: path.symlink_to("/proc/self/mem"),
}
