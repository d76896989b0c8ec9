"""The house stands: every import points to a lower floor, and private names stay in their room.

A room is a folder or a file directly in the package; docs/design.md draws the same floors.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import tsslbp

PACKAGE = Path(tsslbp.__file__).parent
FLOORS = [  # from the ground up; a room may import from the floors below its own
    {"errors", "wording", "_version", "figures"},
    {"checked", "toml_files", "losses", "stats", "storage", "kernels"},
    {"rules"},
    {"neuron", "experiment"},
    {"network", "data", "run"},
    {"training", "studies"},
    {"analysis", "report", "__init__"},
    {"cli"},
    {"__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS, 1) for room in rooms}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    first, *_ = path.relative_to(PACKAGE).with_suffix("").parts
    return first


def imported(path: Path) -> Iterator[tuple[str, str, str]]:
    """Room, module and name of everything that a module imports from the package."""
    place = path.relative_to(PACKAGE).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not any(one.name.split(".")[0] == "tsslbp" for one in node.names), path
        if not isinstance(node, ast.ImportFrom):
            continue
        assert (node.module or "").split(".")[0] != "tsslbp", f"{path}: imports are relative"
        if not node.level:
            continue
        parts = [*place[: len(place) - node.level + 1], *(node.module or "").split(".")]
        parts = [part for part in parts if part]
        for one in node.names:
            whole = parts or [one.name if is_room(one.name) else "__init__"]
            yield whole[0], ".".join(parts), one.name


def is_room(name: str) -> bool:
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()


def test_every_room_has_a_floor() -> None:
    assert {room(path) for path in MODULES} == set(FLOOR)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    here = room(path)
    for there, module, name in imported(path):
        if there != here:
            assert FLOOR[there] < FLOOR[here], f"{here} imports {module}.{name}"
            public = name == "__version__" or module == "" or not name.startswith("_")
            assert public, f"{module}.{name} is private"


def test_no_circle_within_a_room() -> None:
    """Modules of one room import each other in one direction, at run time."""
    arrows: dict[str, set[str]] = {}
    for path in MODULES:
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found = arrows.setdefault(name.removesuffix(".__init__"), set())
        for _, module, one in imported(path):
            full = (
                f"{module}.{one}"
                if (PACKAGE / module.replace(".", "/") / f"{one}.py").is_file()
                else module
            )
            found.add(full)
    done: set[str] = set()

    def visit(name: str, on_way: tuple[str, ...]) -> None:
        assert name not in on_way, " -> ".join([*on_way, name])
        if name in done:
            return
        for other in arrows.get(name, ()):
            if other != name:
                visit(other, (*on_way, name))
        done.add(name)

    for name in arrows:
        visit(name, ())
