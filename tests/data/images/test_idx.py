"""Tests of MNIST and Fashion-MNIST: small sets in their format, damaged files, real files."""

from __future__ import annotations

import gzip
import io
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tsslbp import data
from tsslbp.data import catalogue, files
from tsslbp.data.files import VARIABLE
from tsslbp.data.images import idx
from tsslbp.errors import DataError


def expect_error(make: Callable[[], object], path: Path, *parts: str) -> None:
    with pytest.raises(DataError) as error:
        make()
    message = str(error.value)
    assert str(path) in message and "\n" not in message
    for part in parts:
        assert part in message


def test_values(tiny: Any, tmp_path: Path) -> None:
    found = idx.load(tiny.entry(), tiny.write(tmp_path / "given"))
    assert found.name == "tiny" and found.classes == 10 and found.note == ""
    assert found.train_images.dtype == torch.uint8 and found.train_labels.dtype == torch.int64
    for tensor, name in (
        (found.train_images.squeeze(1), idx.TRAIN_IMAGES),
        (found.train_labels, idx.TRAIN_LABELS),
        (found.test_images.squeeze(1), idx.TEST_IMAGES),
        (found.test_labels, idx.TEST_LABELS),
    ):
        assert np.array_equal(tensor.numpy(), tiny.arrays[name])
    assert found.train_images.shape == (7, 1, 5, 4)


def test_download(tiny: Any, server: Any, cache: Path) -> None:
    server.files.update(tiny.files)
    found = idx.load(tiny.entry(server.url))
    assert np.array_equal(found.test_labels.numpy(), tiny.arrays[idx.TEST_LABELS])
    assert sorted(server.requests) == sorted(tiny.files)
    assert {path.name for path in (cache / "tiny").iterdir()} == set(tiny.files)


def test_load_finds_the_sets_by_name(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.write(tmp_path / "given")
    monkeypatch.setitem(catalogue.entries(), "mnist", tiny.entry())
    assert len(data.load("mnist", folder).train_labels) == 7
    monkeypatch.setenv(VARIABLE, str(folder))
    assert len(data.load("mnist").train_labels) == 7


@pytest.mark.parametrize("name", [idx.TRAIN_IMAGES, idx.TEST_LABELS])
def test_missing_file(tiny: Any, tmp_path: Path, name: str) -> None:
    folder = tiny.write(tmp_path / "given")
    (folder / "tiny" / name).unlink()
    expect_error(
        lambda: idx.load(tiny.entry(), folder),
        folder / "tiny" / name,
        "is missing",
        f"http://127.0.0.1/{name}",
    )


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda packed: b"", "(0 bytes) is not compressed with gzip"),
    "unpacked": (gzip.decompress, "is not compressed with gzip"),
    "error page": (lambda packed: b"<html>404</html>", "is not compressed with gzip"),
    "truncated": (lambda packed: packed[:-20], "is damaged, cut short, another version"),
    "only the start": (lambda packed: packed[:5], "(5 bytes) has MD5 sum"),
    "something appended": (lambda packed: packed + b"more", "has MD5 sum"),
    "other level": (
        lambda packed: gzip.compress(gzip.decompress(packed), compresslevel=1, mtime=7),
        "has MD5 sum",
    ),
    "a bomb": (lambda packed: bomb(), "has MD5 sum"),
}
WITHIN: dict[str, tuple[Callable[[bytes], bytes], str]] = {  # damage under the right checksum
    "truncated": (lambda packed: packed[:-20], "is damaged (Compressed file ended"),
    "flipped sum": (lambda packed: packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:], "damaged"),
    "unsound stream": (lambda packed: packed[:10] + b"\xff" * 30, "is damaged"),
    "something appended": (lambda packed: packed + b"more", "is damaged"),
    "a bomb": (lambda packed: bomb(), "unpacks to more than 47,040,016 bytes"),
    "header only": (
        lambda packed: gzip.compress(gzip.decompress(packed)[:6]),
        "ends within its header",
    ),
    "values missing": (
        lambda packed: gzip.compress(gzip.decompress(packed)[:-1]),
        "holds 139 values, but its header announces 7 x 5 x 4 = 140",
    ),
    "float values": (
        lambda packed: gzip.compress(b"\0\0\x0d" + gzip.decompress(packed)[3:]),
        "is not an IDX file of images: it begins with 00000d03, expected 00000803",
    ),
}


def bomb() -> bytes:
    """Return a quarter of a gigabyte of zeros, packed into about a megabyte."""
    content, packer = io.BytesIO(), zlib.compressobj(1, wbits=31)
    for _ in range(256):
        content.write(packer.compress(bytes(1 << 20)))
    return content.getvalue() + packer.flush()


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_file_is_not_unpacked(
    tiny: Any, tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, cause = DAMAGE[damage]
    content = change(tiny.files[idx.TRAIN_IMAGES])
    folder = tiny.write(tmp_path / "given", **{idx.TRAIN_IMAGES: content})
    monkeypatch.setattr(files, "unpack", lambda *_: pytest.fail("it was unpacked"))
    expect_error(
        lambda: idx.load(tiny.entry(), folder),
        folder / "tiny" / idx.TRAIN_IMAGES,
        cause,
        f"download it again from http://127.0.0.1/{idx.TRAIN_IMAGES}",
    )


@pytest.mark.parametrize("damage", WITHIN)
def test_what_is_wrong_within_a_file_of_the_right_checksum(
    tiny: Any, tmp_path: Path, damage: str
) -> None:
    change, cause = WITHIN[damage]
    tiny.files[idx.TRAIN_IMAGES] = change(tiny.files[idx.TRAIN_IMAGES])
    folder = tiny.write(tmp_path / "given")
    tracemalloc.start()
    try:
        expect_error(
            lambda: idx.load(tiny.entry(), folder), folder / "tiny" / idx.TRAIN_IMAGES, cause
        )
        assert tracemalloc.get_traced_memory()[1] < 3 * 47_040_016
    finally:
        tracemalloc.stop()


def test_every_flipped_bit_is_found(tiny: Any, tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "given")
    path = folder / "tiny" / idx.TEST_LABELS
    good = path.read_bytes()
    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
        expect_error(lambda: idx.load(tiny.entry(), folder), path)


def test_labels_where_images_should_be(tiny: Any, tmp_path: Path) -> None:
    tiny.files[idx.TRAIN_IMAGES] = tiny.files[idx.TRAIN_LABELS]
    folder = tiny.write(tmp_path / "given")
    expect_error(
        lambda: idx.load(tiny.entry(), folder),
        folder / "tiny" / idx.TRAIN_IMAGES,
        "it begins with 00000801, expected 00000803",
    )


def test_counts_differ(make_tiny: Callable[..., Any], tmp_path: Path) -> None:
    tiny = make_tiny({idx.TRAIN_LABELS: np.zeros(6, np.uint8)})
    folder = tiny.write(tmp_path / "given")
    expect_error(
        lambda: idx.load(tiny.entry(), folder),
        folder / "tiny" / idx.TRAIN_LABELS,
        "holds 7 images",
        "holds 6 labels",
    )


def test_file_of_another_set(tiny: Any, make_tiny: Callable[..., Any], tmp_path: Path) -> None:
    other = make_tiny({idx.TRAIN_IMAGES: np.zeros((7, 5, 4), np.uint8)})
    folder = other.write(tmp_path / "given")
    expect_error(
        lambda: idx.load(tiny.entry(), folder),
        folder / "tiny" / idx.TRAIN_IMAGES,
        f"has MD5 sum {other.entry().md5[idx.TRAIN_IMAGES]}",
        f"the official file has {tiny.entry().md5[idx.TRAIN_IMAGES]}",
    )


def test_folder_in_place_of_a_file(tiny: Any, tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "given")
    path = folder / "tiny" / idx.TRAIN_IMAGES
    path.unlink()
    path.mkdir()
    expect_error(lambda: idx.load(tiny.entry(), folder), path, "cannot read")


def test_official_sources() -> None:
    entries = [entry for entry in catalogue.entries().values() if entry.reader == "idx"]
    assert {entry.name for entry in entries} == {"mnist", "fashion-mnist"}
    files = {idx.TRAIN_IMAGES, idx.TRAIN_LABELS, idx.TEST_IMAGES, idx.TEST_LABELS}
    for entry in entries:
        assert set(entry.md5) == files and all(len(value) == 32 for value in entry.md5.values())
        assert entry.url.endswith("/")


@pytest.mark.parametrize(
    ("name", "mean", "std", "first"),
    [
        ("mnist", 0.1307, 0.3081, [5, 0, 4, 1, 9]),
        ("fashion-mnist", 0.2860, 0.3530, [9, 0, 0, 3, 0]),
    ],
)
def test_real_files(data_dir: Path, name: str, mean: float, std: float, first: list[int]) -> None:
    if not (data_dir / name).is_dir():
        pytest.skip(f"no folder {data_dir / name}")
    found = data.load(name, data_dir)
    assert found.train_images.shape == (60000, 1, 28, 28)
    assert found.test_images.shape == (10000, 1, 28, 28)
    assert found.train_labels[:5].tolist() == first
    assert set(found.test_labels.tolist()) == set(range(10))
    counts = found.train_images.flatten().bincount(minlength=256).double() / 47_040_000
    pixels = torch.arange(256, dtype=torch.float64) / 255
    found_mean = float(counts @ pixels)
    assert found_mean == pytest.approx(mean, abs=5e-5)
    assert float(counts @ (pixels - found_mean) ** 2) ** 0.5 == pytest.approx(std, abs=5e-5)


def test_real_file_under_another_name(data_dir: Path, tmp_path: Path) -> None:
    labels = data_dir / "mnist" / idx.TEST_LABELS
    if not labels.is_file():
        pytest.skip(f"no file {labels}")
    folder = tmp_path / "given" / "fashion-mnist"
    folder.mkdir(parents=True)
    (folder / idx.TRAIN_IMAGES).write_bytes(labels.read_bytes())
    (folder / idx.TRAIN_LABELS).write_bytes(labels.read_bytes())
    expect_error(
        lambda: data.load("fashion-mnist", folder.parent),
        folder / idx.TRAIN_IMAGES,
        "has MD5 sum",
        "or of another data set",
    )
