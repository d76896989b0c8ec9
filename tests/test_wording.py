"""Tests of the wording of numbers, which is the same everywhere."""

import pytest

from tsslbp import wording


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.34, "9.3 s"),
        (59.94, "59.9 s"),
        (60, "1 min 0 s"),
        (725, "12 min 5 s"),
        (3599.6, "1 h 0 min"),
        (3780, "1 h 3 min"),
        (48 * 3600 - 60, "47 h 59 min"),
        (53 * 3600, "2 d 5 h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert wording.duration(seconds) == text


def test_energy() -> None:
    given = (0.0, 4.6, 9.996, 99.96, 999.4, 999.5, 12_345, 4.81e6, 2e9, 3e15)
    assert [wording.energy(one) for one in given] == [
        *("0.00 pJ", "4.60 pJ", "10.0 pJ", "100 pJ", "999 pJ"),
        *("1.00 nJ", "12.3 nJ", "4.81 µJ", "2.00 mJ", "3000 J"),
    ]


def test_percent() -> None:
    assert [wording.percent(share) for share in (0.98765, 1, None)] == ["98.77 %", "100.00 %", "-"]


def test_size() -> None:
    assert wording.size(11_600_000) == "11.6 MB"


def test_count_and_joined() -> None:
    counts = [wording.count(number, "run") for number in (0, 1, 2, 1200)]
    assert counts == ["0 runs", "1 run", "2 runs", "1,200 runs"]
    assert [wording.joined(list(words)) for words in ("a", "ab", "abc")] == [
        "a",
        "a and b",
        "a, b and c",
    ]


def test_means_intervals_and_differences() -> None:
    assert wording.mean_and_deviation(99.4, 0.044) == "99.40 ± 0.04"
    assert wording.mean_and_deviation(99.4, None) == "99.40"
    assert wording.interval((88.516, 93.484)) == "88.52 to 93.48"
    assert wording.interval((-0.02, 0.22), "+") == "-0.02 to +0.22"
    assert wording.difference(0.1, (-0.02, 0.22)) == "+0.10 points (95 % interval -0.02 to +0.22)"


def test_p_value() -> None:
    texts = [wording.p_value(p) for p in (0.0005, 0.001, 0.0126, 1.0, None)]
    assert texts == ["< 0.001", "0.001", "0.013", "1.000", "-"]
