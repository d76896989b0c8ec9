"""Every file that the library reads, damaged at random: it is read, or one line says what is wrong.

``--mutations N`` tries N changes of each kind of file, by default 300.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
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

from tsslbp import data, toml_files, training
from tsslbp.cli.drawing import figures_of_run
from tsslbp.data.events import aedat, dvs_gesture, nmnist
from tsslbp.data.events.recording import EventSet
from tsslbp.data.images import cifar10, idx
from tsslbp.errors import Error, printable
from tsslbp.experiment import Binning, Experiment, load_recipe, save
from tsslbp.run import Run
from tsslbp.run.results import Result
from tsslbp.studies import compare
from tsslbp.studies.space import load_space
from tsslbp.training.build import build_network, build_optimizer
from tsslbp.training.checkpoint import TrainingState

Mutate = Callable[[bytes, random.Random], bytes]


@dataclass
class Kind:
    """A kind of file: how one is made in a folder, what reads it there, and how it is changed."""

    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    mutate: Mutate = mutations.mutated_bytes


def make_run(folder: Path, **changes: Any) -> Run:
    """A run with every file that a run has, of a network that is never trained."""
    experiment = replace(load_recipe("digits"), network="4", padding=0, epochs=3, **changes)
    make(folder, experiment, 0.9, note="a caveat", drops=[{"step": 3, "epoch": 1}])
    (folder / "cost.json").write_text(json.dumps(cost(3, 500.0)))
    (folder / "diverged.json").write_text(json.dumps({"reason": "the loss is nan"}))
    run = Run.open(folder)
    arrays = {"images": [50, 50], "correct": [10, 20], "loss": [1.0, 0.5], "epoch": [1, 1]}
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
    """Of files whose checksum is taken for the right one, whatever they hold."""

    def read(path: Path) -> object:
        md5 = {path.name: hashlib.md5(path.read_bytes()).hexdigest()}
        entry = replace(data.catalogue.find("mnist"), md5=md5)
        return data.files.read_packed(path, entry, 10**6, decode)

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
    """What is packed is damaged, most often in the first bytes, where headers are."""
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
        data.frame_cache.load(event_set(), 3, Binning(values="count"))
    (path,) = (folder / "binned").glob("*.safetensors")
    return path


def read_frames(path: Path) -> None:
    """A damaged cache is made again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TSSLBP_CACHE", str(path.parent.parent))
        found = data.frame_cache.load(event_set(), 3, Binning(values="count"))
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


def make_identity(folder: Path) -> Path:
    (folder / "sweep.json").write_text(json.dumps({"id": "a", "study": "b", "storage": "study.db"}))
    return folder / "sweep.json"


KINDS: dict[str, Kind] = {
    "config.toml": Kind(file_of_run("config.toml"), read_result, mutations.mutated_toml),
    "environment.json": Kind(file_of_run("environment.json"), read_result, mutations.mutated_json),
    "metrics.jsonl": Kind(file_of_run("metrics.jsonl"), read_result, mutations.mutated_lines),
    "cost.json": Kind(file_of_run("cost.json"), read_result, mutations.mutated_json),
    "diverged.json": Kind(file_of_run("diverged.json"), read_result, mutations.mutated_json),
    "steps.npz": Kind(file_of_run("steps.npz"), read_steps),
    "checkpoint": Kind(file_of_run("checkpoints/last.safetensors"), load_checkpoint),
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
}


@pytest.mark.parametrize("name", KINDS)
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
