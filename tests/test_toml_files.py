"""Tests of TOML: values given as text, and files."""

from pathlib import Path
from typing import Any

import pytest

from tsslbp import toml_files
from tsslbp.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        (" 1e-3", 0.001),
        ("true", True),
        ("[1, 2]", [1, 2]),
        ('"a b"', "a b"),
        ("{a = 1}", {"a": 1}),
        (" always ", "always"),
        ("True", "True"),
        ("", ""),
    ],
)
def test_values(text: str, value: Any) -> None:
    found = toml_files.parse_value(text)
    assert found == value
    assert type(found) is type(value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shipped").mkdir()
    for name, text in (("b.toml", "x = 1"), ("a.toml", "x = 2"), ("notes.txt", "")):
        (tmp_path / "shipped" / name).write_text(text)
    return tmp_path / "shipped"


def test_files_that_ship(folder: Path) -> None:
    assert toml_files.shipped_names(folder) == ["a", "b"]
    assert toml_files.load("space", "a", folder, dict) == {"x": 2}
    with pytest.raises(InvalidInput) as caught:
        toml_files.load("space", "aa", folder, dict)
    assert str(caught.value) == (
        "unknown space 'aa' (did you mean 'a'?); known spaces: a, b; "
        "you can also give the path of a .toml file"
    )


def test_errors_name_the_file_and_the_line(folder: Path) -> None:
    def refuse(table: dict[str, Any]) -> None:
        raise InvalidInput(f"x must not be {table['x']}")

    with pytest.raises(InvalidInput, match=r"^space b: x must not be 1$"):
        toml_files.load("space", "b", folder, refuse)
    path = folder / "c.toml"
    for content, words in (
        (b"x = 1\ny = [1", "is not valid TOML: .*line 2, the end of the file"),
        (b"x = 1\ny = z\n", "is not valid TOML: .*line 2.*; text must be in quotation marks"),
        (b"x = [0x" + b"f" * 5000 + b"]", "is not valid TOML: a number has thousands of digits"),
        (b"\xff", "it is not UTF-8 text"),
    ):
        path.write_bytes(content)
        with pytest.raises(InvalidInput, match=words) as caught:
            toml_files.load("space", path, folder, dict)
        assert str(path) in str(caught.value)
    with pytest.raises(InvalidInput, match=r"cannot read the space .*none.toml: No such file"):
        toml_files.load("space", folder / "none.toml", folder, dict)
