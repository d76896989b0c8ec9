"""Tests of imports: each points to a lower floor, and private names stay in their own room.

A room is a folder or a file directly in the package; docs/design.md shows the same floors. Further
tests show that the program loads no package that a command does not need.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tsslbp

PACKAGE = Path(tsslbp.__file__).parent
RESULTS = Path(__file__).parents[1] / "results"
FLOORS = [  # lowest first; a room may import only from floors below its own
    {"errors", "wording", "_version"},
    {"storage", "reading"},
    {"checked", "toml_files", "stats", "kernels", "figures"},
    {"rules"},
    {"neuron", "experiment"},
    {"layers", "losses"},
    {"network", "models", "data", "run"},
    {"training", "studies", "export"},
    {"analysis", "report"},
    {"__init__"},
    {"cli"},
    {"__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS, 1) for room in rooms}
# Packages that every command may load.
LIGHT = {"annotated_doc", "click", "lazy_loader", "rich", "shellingham", "tsslbp", "typer"}
EXPERIMENTS = LIGHT | {"tomli_w"}  # for commands that read recipes
LOADED = """
import sys
known = sys.stdlib_module_names | {name.partition(".")[0] for name in sys.modules}
chains = {}
class Witness:
    def find_spec(name, path=None, target=None):
        chain, frame = [], sys._getframe(1)
        while frame:  # module traceback would itself import
            chain.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
            frame = frame.f_back
        chain = [line for line in reversed(chain) if not line.startswith("<frozen")]
        chains.setdefault(name.partition(".")[0], chain)
sys.meta_path.insert(0, Witness)
from tsslbp.cli import main
try:
    main()
finally:
    loaded = {name.partition(".")[0] for name in sys.modules} - known
    for name in sorted(loaded - set(sys.stdin.read().split())):
        if not name.startswith("_"):
            print(name, "is loaded by", *chains.get(name, ()), sep="\\n  ", file=sys.stderr)
"""
MODULES = sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi")])


def room(path: Path) -> str:
    first, *_ = path.relative_to(PACKAGE).with_suffix("").parts
    return first


def imported(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield room, module and name of everything that a module imports from the package."""
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
    """No chain of imports leads from a module back to itself."""
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


def loaded_beyond(allowed: set[str], arguments: str, **environment: str) -> str:
    """Return what a command loads beyond the allowed packages, each with the chain of imports."""
    result = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments.split()],
        input=" ".join(allowed),
        env={"PYTHONPATH": str(PACKAGE.parent), **os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in result.stderr
    return result.stderr if " is loaded by" in result.stderr else ""


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        ("--help", LIGHT),
        ("--version", LIGHT),
        ("trian", LIGHT),
        ("train", LIGHT),
        ("train digits --bogus", LIGHT),
        ("train --help", LIGHT),
        ("sweep --help", LIGHT),
        ("microscope --help", LIGHT),
        ("convert --help", LIGHT),
        ("cost --help", LIGHT),
        ("predict --help", LIGHT),
        ("export --help", LIGHT),
        ("export runs --to nri -o x.nir", LIGHT),
        ("data show --help", LIGHT),
        ("train mnits", EXPERIMENTS),
        ("recipes", EXPERIMENTS),
        ("recipes mnist", EXPERIMENTS),
        ("info mnist", EXPERIMENTS),
        ("info 15C5-P2-300", EXPERIMENTS),
        ("data list", LIGHT | {"platformdirs"}),
        (f"runs {RESULTS}", EXPERIMENTS | {"safetensors", "xxhash"}),
    ],
)
def test_light_commands_load_little(arguments: str, allowed: set[str]) -> None:
    assert not loaded_beyond(allowed, arguments)


def test_completion_loads_little() -> None:
    typed = {"COMP_WORDS": "tsslbp train mn", "COMP_CWORD": "2"}
    assert not loaded_beyond(EXPERIMENTS, "", _TSSLBP_COMPLETE="complete_bash", **typed)


def test_importing_the_package_loads_nothing() -> None:
    """`import tsslbp` loads no submodule; names are listed, but loaded only when they are used."""
    program = (
        "import sys; import tsslbp; print(*sorted(m for m in sys.modules if m[:6] == 'tsslbp'));"
        "print(*dir(tsslbp)); from tsslbp import *; print(TSSLBP, load.__module__, data.load)"
    )
    command = [sys.executable, "-c", program]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    modules, names, used = output.splitlines()
    assert modules == "tsslbp"
    assert {"Network", "TSSLBP", "__version__", "data", "load", "losses"} <= set(names.split())
    assert used.startswith("<class 'tsslbp.rules.TSSLBP'> tsslbp.training.checkpoint <function")


def test_training_runs_without_pytorchs_compiler(tmp_path: Path) -> None:
    """Its import takes as long as PyTorch's, so only what compiles a network waits for it."""
    program = (
        "import sys\n"
        "from tsslbp import cli\n"
        "code = cli.main(['train', 'digits', '--epochs', '1', '--out', sys.argv[1]])\n"
        "print(code, 'numba' in sys.modules, 'torch._dynamo' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "run")]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "0 True False"
