"""Tests of CIFAR-10: small sets in its format, damaged files, the other edition, real files."""

from __future__ import annotations

import gzip
import hashlib
import io
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tsslbp import data
from tsslbp.data import catalogue
from tsslbp.data import files as data_files
from tsslbp.data.catalogue import Entry
from tsslbp.data.files import VARIABLE
from tsslbp.data.images import cifar10
from tsslbp.data.images.cifar10 import ARCHIVE, FILES, FOLDER, TEST, TRAIN
from tsslbp.errors import DataError

Files = dict[str, bytes]
URL = "http://127.0.0.1/"


def make_files(seed: int = 0) -> Files:
    """Return six files of 2 or 3 records each, with random bytes and labels below 10."""
    rng = np.random.default_rng(seed)
    files = {}
    for number, name in enumerate(FILES):
        records = rng.integers(0, 256, (2 + number % 2, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        files[name] = records.tobytes()
    return files


def pack(files: Files) -> bytes:
    """Return the archive: the six files in a folder, among others that are ignored."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, part in (files | {"readme.html": b"<html>"}).items():
            member = tarfile.TarInfo(f"{FOLDER}/{name}")
            member.size = len(part)
            archive.addfile(member, io.BytesIO(part))
    return gzip.compress(content.getvalue(), mtime=0)


GOOD = make_files()


def sums(files: Files) -> dict[str, str]:
    return {name: hashlib.sha1(part).hexdigest() for name, part in files.items()}


def edition(url: str = URL) -> Entry:
    md5 = {ARCHIVE: hashlib.md5(pack(GOOD)).hexdigest()}
    return replace(catalogue.find("cifar10"), name="tiny", url=url, md5=md5, sha1=sums(GOOD))


def write(folder: Path, files: Files) -> Path:
    (folder / "cifar10" / FOLDER).mkdir(parents=True)
    for name, part in files.items():
        (folder / "cifar10" / FOLDER / name).write_bytes(part)
    return folder


def write_archive(folder: Path, packed: bytes) -> Path:
    (folder / "cifar10").mkdir(parents=True)
    (folder / "cifar10" / ARCHIVE).write_bytes(packed)
    return folder


def expect_error(make: Callable[[], object], path: Path, *parts: str) -> None:
    with pytest.raises(DataError) as error:
        make()
    message = str(error.value)
    assert str(path) in message and "\n" not in message
    for part in parts:
        assert part in message


def assert_holds(found: data.DataSet, files: Files) -> None:
    """Assert the format's layout: the label, then red, green and blue planes by rows."""
    assert found.classes == 10
    for names, images, labels in (
        (TRAIN, found.train_images, found.train_labels),
        ((TEST,), found.test_images, found.test_labels),
    ):
        content = b"".join(files[name] for name in names)
        assert images.shape == (len(content) // 3073, 3, 32, 32) and images.dtype == torch.uint8
        assert images.is_contiguous() and labels.dtype == torch.int64
        for index in range(len(images)):
            record = content[index * 3073 :]
            assert labels[index] == record[0]
            for channel, row, column in ((0, 0, 0), (0, 0, 1), (1, 0, 31), (2, 31, 30)):
                place = 1 + 1024 * channel + 32 * row + column
                assert images[index, channel, row, column] == record[place]


def test_values_of_the_archive(tmp_path: Path) -> None:
    found = cifar10.load(edition(), write_archive(tmp_path, pack(GOOD)))
    assert_holds(found, GOOD)
    assert (found.name, found.note) == ("tiny", "")


def test_values_of_the_unpacked_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path, GOOD)
    assert_holds(cifar10.load(edition(), folder), GOOD)
    monkeypatch.setenv(VARIABLE, str(folder))
    assert_holds(cifar10.load(edition()), GOOD)


def test_unpacked_files_come_before_the_archive(tmp_path: Path) -> None:
    folder = write(tmp_path, GOOD)
    (folder / "cifar10" / ARCHIVE).write_bytes(b"not looked at")
    assert_holds(cifar10.load(edition(), folder), GOOD)


def test_download(server, cache: Path) -> None:
    server.files[ARCHIVE] = pack(GOOD)
    for _ in range(2):
        assert_holds(cifar10.load(edition(server.url)), GOOD)
    assert server.requests == [ARCHIVE]
    assert [path.name for path in (cache / "cifar10").iterdir()] == [ARCHIVE]


def test_load_finds_the_sets_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path, GOOD)
    for name in ("cifar10", "cifar10-reencoded"):
        known = catalogue.find(name)
        assert data.known_shape(name, None) == ((3, 32, 32), 10)
        monkeypatch.setitem(catalogue.entries(), name, replace(known, sha1=sums(GOOD)))
        found = data.load(name, folder)
        assert (found.name, len(found.train_labels)) == (name, 12)


def test_missing_files(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    archive = tmp_path / "empty" / "cifar10" / ARCHIVE
    expect_error(
        lambda: cifar10.load(edition(), tmp_path / "empty"), archive, "is missing", URL + ARCHIVE
    )
    folder = write(tmp_path / "given", GOOD)
    path = folder / "cifar10" / FOLDER / "data_batch_4.bin"
    path.unlink()
    expect_error(lambda: cifar10.load(edition(), folder), path, "cannot read", "No such file")


def damaged(**changed: bytes) -> bytes:
    return pack(GOOD | {f"{name}.bin": part for name, part in changed.items()})


def archive_of(**changed: object) -> bytes:
    """Return the archive with changes in the header of `data_batch_1.bin`."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, part in GOOD.items():
            member = tarfile.TarInfo(f"{FOLDER}/{name}")
            member.size = len(part)
            for key, value in changed.items() if name == "data_batch_1.bin" else ():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(part) if member.isreg() else None)
    return gzip.compress(content.getvalue(), mtime=0)


def sparse() -> bytes:
    """Return an archive of a few bytes with a file that has a hole of 2 GB."""
    hole = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "2147483648"}
    name = f"{FOLDER}/data_batch_1.bin"
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo(name)
        member.pax_headers = hole | {"GNU.sparse.name": name}
        member.size = 512
        archive.addfile(member, io.BytesIO(b"1\n2147483648\n0\n".ljust(512, b"\0")))
    return gzip.compress(content.getvalue(), mtime=0)


PLACE = f"instead of {FOLDER}/data_batch_1.bin"
ARCHIVES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda packed: b"", "(0 bytes) is not compressed with gzip"),
    "error page": (lambda packed: b"<html>404</html>", "is not compressed with gzip"),
    "unpacked": (gzip.decompress, "is not compressed with gzip"),
    "truncated": (lambda packed: packed[:-20], "has MD5 sum"),
    "other level": (lambda p: gzip.compress(gzip.decompress(p), 1, mtime=7), "has MD5 sum"),
}
WITHIN: dict[str, tuple[Callable[[], bytes], str]] = {  # damage under the right checksum
    "unsound stream": (lambda: pack(GOOD)[:10] + b"\xff" * 30, "is damaged"),
    "no archive": (lambda: gzip.compress(b"hello" * 500), "contains no tar archive"),
    "cut within": (
        lambda: gzip.compress(gzip.decompress(pack(GOOD))[:2000]),
        "contains no tar archive, or a damaged one (unexpected end of data)",
    ),
    "a file missing": (
        lambda: pack({name: GOOD[name] for name in TRAIN}),
        f"contains no {FOLDER}/test_batch.bin, so it is another archive",
    ),
    "half a record": (
        lambda: damaged(data_batch_2=GOOD["data_batch_2.bin"][:-3]),
        "contains a damaged data_batch_2.bin, which holds 9216 bytes, expected a multiple of 3073",
    ),
    "a file empty": (lambda: damaged(test_batch=b""), "test_batch.bin, which holds 0 bytes"),
    "hundred classes": (
        lambda: damaged(test_batch=b"\x63" + GOOD[TEST][1:]),
        "which holds the label 99 at record 0",
    ),
    "a folder": (lambda: archive_of(type=tarfile.DIRTYPE), PLACE),
    "a device": (lambda: archive_of(type=tarfile.CHRTYPE), PLACE),
    "a link out": (lambda: archive_of(type=tarfile.SYMTYPE, linkname="/etc/passwd"), PLACE),
    "a link to itself": (
        lambda: archive_of(type=tarfile.LNKTYPE, linkname=f"{FOLDER}/data_batch_1.bin"),
        PLACE,
    ),
    "a hole": (sparse, PLACE),
    "too large a file": (
        lambda: damaged(data_batch_1=bytes(40_000_000)),
        "data_batch_1.bin of 40,000,000 bytes",
    ),
    "a bomb": (lambda: gzip.compress(bytes(250_000_000), 1), "unpacks to more than 185,428,"),
}


@pytest.mark.parametrize("damage", ARCHIVES)
def test_damaged_archive_is_not_unpacked(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, cause = ARCHIVES[damage]
    folder = write_archive(tmp_path / "given", change(pack(GOOD)))
    path = folder / "cifar10" / ARCHIVE
    monkeypatch.setattr(data_files, "unpack", lambda *_: pytest.fail("it was unpacked"))
    again = f"download it again from {URL}{ARCHIVE}"
    expect_error(lambda: cifar10.load(edition(), folder), path, cause, again)


@pytest.mark.parametrize("damage", WITHIN)
def test_what_is_wrong_within_an_archive_of_the_right_checksum(tmp_path: Path, damage: str) -> None:
    make, cause = WITHIN[damage]
    folder = write_archive(tmp_path / "given", packed := make())
    known = replace(edition(), md5={ARCHIVE: hashlib.md5(packed).hexdigest()})
    path = folder / "cifar10" / ARCHIVE
    expect_error(lambda: cifar10.load(known, folder), path, cause)


def test_a_file_with_a_hole_is_not_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "given", GOOD)
    path = folder / "cifar10" / FOLDER / "data_batch_3.bin"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    expect_error(lambda: cifar10.load(edition(), folder), path, "has 1,099,511,627,776 bytes")


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda part: part[:-1], "holds 6145 bytes, expected a multiple of 3073: it is cut short"),
        (lambda part: part[:3073], "has SHA1 sum"),
        (lambda part: bytes([part[0] ^ 1]) + part[1:], "has SHA1 sum"),
        (lambda part: b"\x0a" + part[1:], "holds the label 10 at record 0"),
    ],
    ids=["cut", "cut between records", "flipped bit", "label"],
)
def test_damaged_file(tmp_path: Path, change: Callable[[bytes], bytes], cause: str) -> None:
    name = "data_batch_3.bin"
    folder = write(tmp_path / "given", GOOD | {name: change(GOOD[name])})
    path = folder / "cifar10" / FOLDER / name
    again = f"unpack {URL}{ARCHIVE} again"
    expect_error(lambda: cifar10.load(edition(), folder), path, cause, again)


def test_the_re_encoded_copy_must_be_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each edition refuses the other's files, and says which setting would take them."""
    other = make_files(seed=1)
    for name, files in (("cifar10", GOOD), ("cifar10-reencoded", other)):
        known = catalogue.find(name)
        monkeypatch.setitem(catalogue.entries(), name, replace(known, sha1=sums(files)))
    path = write(tmp_path / "copy", other) / "cifar10" / FOLDER / "data_batch_1.bin"
    expect_error(
        lambda: data.load("cifar10", tmp_path / "copy"),
        path,
        "is a file of cifar10-reencoded: use --set data=cifar10-reencoded",
        "every result will then say: measured on CIFAR-10 (111 of 60,000 images re-encoded)",
    )
    found = data.load("cifar10-reencoded", tmp_path / "copy")
    assert_holds(found, other)
    assert found.note == "measured on CIFAR-10 (111 of 60,000 images re-encoded)"
    path = write(tmp_path / "official", GOOD) / "cifar10" / FOLDER / "data_batch_1.bin"
    expect_error(
        lambda: data.load("cifar10-reencoded", tmp_path / "official"),
        path,
        "is a file of cifar10: use --set data=cifar10",
    )
    assert data.load("cifar10", tmp_path / "official").note == ""
    mixed = write(tmp_path / "mixed", other | {TEST: GOOD[TEST]}) / "cifar10" / FOLDER / TEST
    expect_error(lambda: data.load("cifar10-reencoded", tmp_path / "mixed"), mixed)


def test_the_copy_is_not_downloaded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"DIR/cifar10/{FOLDER}/data_.* set TSSLBP_DATA or"):
        data.load("cifar10-reencoded")
    expect_error(
        lambda: data.load("cifar10-reencoded", tmp_path), tmp_path, "data_batch_1.bin", TEST
    )


def test_editions() -> None:
    editions = [entry for entry in catalogue.entries().values() if entry.reader == "cifar10"]
    assert {one.name for one in editions} == {"cifar10", "cifar10-reencoded"}
    for one in editions:
        assert set(one.sha1) == set(FILES) and all(len(value) == 40 for value in one.sha1.values())
        assert bool(one.note) == (one.name == "cifar10-reencoded")  # only the copy has a caveat
    assert len({value for one in editions for value in one.sha1.values()}) == 12
    assert list(catalogue.find("cifar10").md5) == [ARCHIVE]


@pytest.fixture(scope="module")
def real(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Return the name and folder of a real data set, from `data_dir` or unpacked from mosaics."""
    given = data_dir / "cifar10"
    if (given / ARCHIVE).is_file() or (given / FOLDER).is_dir():
        return "cifar10", data_dir
    script = data_dir / "unpack_cifar10.py"
    if not script.is_file() or not any(given.glob("*.webp")):
        pytest.skip(f"no CIFAR-10 in {given}")
    pytest.importorskip("PIL", reason="Pillow unpacks the mosaics")
    folder = tmp_path_factory.mktemp("data")
    subprocess.run([sys.executable, script, folder / "cifar10"], check=True, capture_output=True)
    return "cifar10-reencoded", folder


@pytest.mark.slow
def test_real_files(real: tuple[str, Path]) -> None:
    """The real files have the known first labels, class balance, means and deviations."""
    name, folder = real
    found = data.load(name, folder)
    assert found.train_images.shape == (50000, 3, 32, 32)
    assert found.test_images.shape == (10000, 3, 32, 32)
    assert found.train_labels[:5].tolist() == [6, 9, 9, 4, 1]
    assert found.test_labels[:5].tolist() == [3, 8, 8, 0, 6]
    assert found.train_labels.bincount().tolist() == [5000] * 10
    assert found.test_labels.bincount().tolist() == [1000] * 10
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, stds = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    for channel, (mean, std) in enumerate(zip(means, stds, strict=True)):
        counts = found.train_images[:, channel].flatten().bincount(minlength=256).double()
        found_mean = float(counts @ levels / counts.sum())
        found_std = float(counts @ (levels - found_mean) ** 2 / counts.sum()) ** 0.5
        assert (found_mean, found_std) == pytest.approx((mean, std), abs=1e-4)
