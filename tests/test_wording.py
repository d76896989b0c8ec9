"""Shares and durations in words."""

import pytest

from tsslbp.wording import duration, percent


@pytest.mark.parametrize(
    ("seconds", "words"),
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
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_shares_in_percent() -> None:
    assert [percent(share) for share in (None, 0.0, 0.98765, 1.0)] == [
        *("-", "0.00 %", "98.77 %", "100.00 %")
    ]
