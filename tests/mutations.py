"""Damaged and malicious files: bytes, JSON and TOML with random changes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import tomli_w

NUMBERS = [0, 1, 7, 8, 127, 128, 0x7FFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 30, (1 << 40) - 1]
DEEP = 100_000
_HOLE = "@@hole@@"  # placeholder for a value until the table has become text

TEXTS = [
    "",
    "\0",
    "\x1b[31m",
    "$\\bad$",
    "x" * 300,
    "../../x",
    "/",
    "NaN",
    "\u202e",
    "a\nb",
    "`" * 5,
]
# Unusual and invalid values, in the syntax of JSON and of TOML.
ODD_JSON = [
    *("null", "true", "-1", "0", "1", "1.5", "-0.0", "1e308", "-1e308", "1e999", "NaN", "Infinity"),
    *("2147483648", "9223372036854775807", "9223372036854775808", "1" + "0" * 300, "1" + "0" * 400),
    *("9" * 5000, "-" + "9" * 5000, "[]", "{}", "[[]]", '{"a":{}}', "[null]", '["a"]', "[1e300]"),
    *("[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP, "[" * 40 + "]" * 40),
    *map(json.dumps, TEXTS),
    "[" + ",".join(["0.5"] * 3000) + "]",
    '"\\ud800"',
]
ODD_TOML = [
    *("true", "-1", "0", "1", "1.5", "-0.0", "1e308", "-1e308", "inf", "nan", "1979-05-27"),
    *("9223372036854775807", "9223372036854775808", "1" + "0" * 300, "1" + "0" * 400, "9" * 5000),
    *("[]", "{}", "[[]]", "{a = {}}", '["a"]', "[1, 2]", "[true]", "[1e300]"),
    *("[" * DEEP + "]" * DEEP, "[" * 40 + "]" * 40),
    *(json.dumps(text) for text in TEXTS if text.isprintable()),
    *('"\\u0000"', '"\\u001b[31m"', '"a\\nb"', "[" + ",".join(["1"] * 3000) + "]"),
]


def mutated_bytes(content: bytes, draw: random.Random) -> bytes:
    """Make one to three changes: replace, flip, remove, insert or repeat bytes, or truncate."""
    for _ in range(draw.randint(1, 3)):
        at, length = draw.randint(0, len(content)), draw.randint(1, 8)
        some = draw.randbytes(length)
        size = draw.choice((4, 8))
        number = draw.choice(NUMBERS).to_bytes(8, draw.choice(("little", "big")))[-size:]
        content = draw.choice(
            [
                content[:at] + some + content[at + length :],
                content[:at]
                + bytes([b ^ 1 << draw.randrange(8) for b in content[at : at + 1]])
                + content[at + 1 :],
                content[:at] + content[at + length :],
                content[:at] + some + content[at:],
                content[:at] + content[max(0, at - length) :],
                content[:at] + number + content[at + size :],
                content[:at],
            ]
        )
    return content


def mutated_json(content: bytes, draw: random.Random) -> bytes:
    """Replace values, or delete or rename keys; in a fifth of all cases, change bytes instead."""
    if draw.random() < 0.2:
        return mutated_bytes(content, draw)
    return mutated_values(json.loads(content), draw).encode(errors="surrogatepass")


def mutated_values(value: Any, draw: random.Random, odd: list[str] = ODD_JSON) -> str:
    """Return a value as JSON with some keys deleted or renamed, or values replaced from `odd`."""
    return _mutated(value, draw, json.dumps, odd)


def mutated_lines(content: bytes, draw: random.Random) -> bytes:
    """Apply `mutated_json` to one of several lines."""
    lines = content.splitlines(keepends=True)
    at = draw.randrange(len(lines))
    return b"".join([*lines[:at], mutated_json(lines[at].strip(), draw) + b"\n", *lines[at + 1 :]])


def mutated_toml(content: bytes, draw: random.Random) -> bytes:
    """Change TOML as `mutated_json` changes JSON, or prepend a key with 100,000 parts."""
    import tomllib

    kind = draw.random()
    if kind < 0.2:
        return mutated_bytes(content, draw)
    if kind < 0.25:
        return b".".join([b"a"] * DEEP) + b" = 1\n" + content
    return _mutated(tomllib.loads(content.decode()), draw, tomli_w.dumps, ODD_TOML).encode()


def _mutated(table: Any, draw: random.Random, write: Callable[[Any], str], odd: list[str]) -> str:
    places = list(_places(table))
    for _ in range(draw.randint(1, 2)):
        inside, key = draw.choice(places)
        kind = draw.random()
        if isinstance(inside, dict) and key in inside and kind < 0.15:
            del inside[key]
        elif isinstance(inside, dict) and key in inside and kind < 0.25:
            inside[draw.choice([f"{key}x", *filter(str.isprintable, TEXTS)])] = inside.pop(key)
        elif isinstance(inside, dict) or key < len(inside):
            inside[key] = _HOLE
    text = write(table)
    while f'"{_HOLE}"' in text:
        text = text.replace(f'"{_HOLE}"', draw.choice(odd), 1)
    return text


def _places(value: Any) -> Any:
    """Yield the container of every value inside a value, and its key or index there."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items):
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from _places(inner)
