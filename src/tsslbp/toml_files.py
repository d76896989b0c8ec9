"""TOML: values as text, and files, either shipped with the package or the user's own."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from .errors import InvalidInput, nearest
from .reading import TOO_DEEP, check_depth, read_whole

MOST = 1 << 20  # bytes of a file
_MOST_PARTS = 32  # of a dotted key
_STRING = re.compile(  # each alternative consumes an unclosed string, so matching is linear
    r'"{3}(?:[^\\]|\\.)*?(?:"{3}|\Z)'
    r"|'{3}.*?(?:'{3}|\Z)"
    r'|"(?:[^"\\\n]|\\.)*+"?'
    r"|'[^'\n]*+'?",
    re.DOTALL,
)
_COMMENT = re.compile("#[^\n]*")
_LONG_NUMBER = re.compile(r"0[xob][\da-fA-F_]{1000}")  # Python itself limits decimal numbers
_APART = re.compile(r"[=,\[\]{}\n]")  # separators between keys

T = TypeVar("T")


def parse(text: str) -> dict[str, Any]:
    """Parse a TOML document.

    Raises:
        ValueError: it is not TOML, is nested too deeply, or has a number of thousands of digits.
    """
    # `tomllib` takes time that grows with the square of the number of a key's parts.
    if any(line.count(".") > _MOST_PARTS for line in text.split("\n")):
        plain = _COMMENT.sub("", _STRING.sub("", text))
        if max(part.count(".") for part in _APART.split(plain)) > _MOST_PARTS:
            raise ValueError(TOO_DEEP)
    if _LONG_NUMBER.search(text) and _LONG_NUMBER.search(_COMMENT.sub("", _STRING.sub("", text))):
        raise ValueError("a number has thousands of digits")
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    check_depth(table)
    return table


def parse_value(text: str) -> Any:
    """Return the TOML value that a text represents, or the text itself if it is not TOML."""
    try:
        return parse(f"value = {text}")["value"]
    except ValueError:
        return text.strip()


def flat(table: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a table: the keys of nested tables become ``"table.key"``."""
    result: dict[str, Any] = {}
    for key, value in table.items():
        inner = value.items() if isinstance(value, Mapping) else ()
        result |= {f"{key}.{part}": item for part, item in inner} or {key: value}
    return result


def shipped_names(folder: Path) -> list[str]:
    """Return the sorted names of the TOML files in a folder of the package."""
    names = (file.name for file in folder.iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def load(
    kind: str, name_or_path: str | Path, folder: Path, make: Callable[[dict[str, Any]], T]
) -> T:
    """Read a TOML file that ships with the package, or one whose path ends in ``.toml``.

    Args:
        kind: kind of the file in messages, such as ``"recipe"``.
        name_or_path: the name of a shipped file, or a path.
        folder: folder of the shipped files.
        make: makes the result from the file's table.

    Raises:
        InvalidInput: there is no such file, it cannot be read, or `make` raises this error; the
            message names the file, and the line or the key.
    """
    name = str(name_or_path)
    if name.endswith(".toml"):
        text, source = _read(kind, name), name
    elif name in (names := shipped_names(folder)):
        text, source = (folder / f"{name}.toml").read_text(encoding="utf-8"), f"{kind} {name}"
    elif os.path.isfile(f"{name}.toml"):
        raise InvalidInput(f"unknown {kind} {name!r}; for your own file, give {name}.toml")
    else:
        raise InvalidInput(
            f"unknown {kind} {name!r}{nearest(name, names)}; known {kind}s: {', '.join(names)}; "
            "you can also give the path of a .toml file"
        )
    try:
        table = parse(text)
    except ValueError as error:
        last = f"line {text.count(chr(10)) + 1}, the end of the file"
        reason = str(error).replace("end of document", last)
        reason += "; text must be in quotation marks" if reason.startswith("Invalid value") else ""
        raise InvalidInput(f"{source} is not valid TOML: {reason}") from None
    try:
        return make(table)
    except InvalidInput as error:
        raise InvalidInput(f"{source}: {error}") from None


def _read(kind: str, name: str) -> str:
    try:
        return read_whole(Path(name), MOST).decode("utf-8-sig")
    except OSError as error:
        raise InvalidInput(f"cannot read the {kind} {name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"cannot read the {kind} {name}: it is not UTF-8 text") from None
