"""The program: one function per command. An error is one line; `--traceback` shows its origin.

`tsslbp.cli.printing` and `tsslbp.cli.progress` do the printing.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from ..errors import Error
from ..storage import cause
from ..studies.jobs import tell_parent, terminated_as_interrupted
from . import (
    conversion,
    data,
    exchange,
    microscope,
    options,
    output,
    prediction,
    printing,
    rules,
    runs,
    studies,
    tables,
)

app = typer.Typer(
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

# The base of the errors in the command line; typer does not export it itself.
UsageError: Any = typer.BadParameter.__base__

# Options that users of other programs may try, and what to type here instead.
OPTIONS = {
    "--lr": "--set learning_rate=0.001 changes the learning rate",
    "--learning-rate": "--set learning_rate=0.001 changes the learning rate",
    "--batch-size": "--set batch_size=100 changes the batch size",
    "--weight-decay": "--set weight_decay=0.01 changes the weight decay",
    "--optimizer": "--set optimizer=sgd changes the optimiser",
    "--network": "--set network=15C5-P2-300 changes the network",
    "--time-steps": "--set time_steps=10 changes the number of time steps",
    "--rule": "--set rule=SLAYER changes the learning rule",
    "--data": "--set data=mine.npz uses other data",
    "--gpu": "--device cuda trains on a GPU",
    "--cuda": "--device cuda trains on a GPU",
    "--seeds": "tsslbp trials RECIPE --seeds 5 trains with several seeds",
    "--format": "tsslbp report FOLDER --format pdf also writes the figures as PDF",
    "-o": "--out PATH sets where the results go",
}

# The same for commands.
SYNONYMS = {
    **dict.fromkeys(("plot", "show", "figures", "visualize", "visualise"), "draw"),
    **dict.fromkeys(("test", "eval", "validate", "accuracy"), "evaluate"),
    **dict.fromkeys(("infer", "inference", "classify"), "predict"),
    **dict.fromkeys(("list", "ls", "results", "status"), "runs"),
    **dict.fromkeys(("search", "tune", "optimize", "optimise"), "sweep"),
    **dict.fromkeys(("continue", "restart"), "resume"),
    **dict.fromkeys(("fit", "run"), "train"),
    **dict.fromkeys(("download", "fetch"), "data fetch"),
}

COMMANDS = (
    runs.train,
    runs.resume,
    studies.trials,
    studies.reproduce,
    studies.sweep,
    rules.compare,
    studies.report,
    microscope.microscope,
    tables.runs,
    tables.diff,
    runs.evaluate,
    runs.draw,
    runs.cost,
    prediction.predict,
    conversion.convert,
    exchange.export,
    runs.recipes,
    runs.info,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code: 2 for what the user can correct, in one line.

    Args:
        arguments: of the command line, by default those of this process.
    """
    output.begin()
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    return printing.finished(_run(given))


def _run(given: list[str]) -> int:
    """Run a command; returns its exit status."""
    arguments = [argument for argument in given if argument != "--traceback"]
    with warnings.catch_warnings(), terminated_as_interrupted(), printing.logging_shown():
        warnings.showwarning = printing.show_warning
        try:
            command = typer.main.get_command(app)
            return command.main(arguments, "tsslbp", standalone_mode=False) or 0
        except UsageError as error:
            reason = _correction(error, arguments)
            printing.complain("error", reason)
            tell_parent(reason)
        except (Error, OSError, MemoryError) as error:
            if arguments != given:
                raise
            printing.complain("error", reason := _reason(error))
            tell_parent(reason)
        except (KeyboardInterrupt, typer.Abort):
            return 130
        except Exception as error:  # which nobody has foreseen
            tell_parent(f"{type(error).__name__}: {error}")
            raise
    return 2


def _correction(error: Any, arguments: Sequence[str]) -> str:
    """What is wrong with the arguments, and what to type instead or where to read about it."""
    if (option := getattr(error, "option_name", "")) in OPTIONS:
        return f"No such option: {option}; {OPTIONS[option]}"
    wrong, first = error.format_message().rstrip("."), next(iter(arguments), "")
    wrong = re.sub(r"is not a valid int(eger)?( range)?$", "is not a whole number", wrong)
    if first in SYNONYMS and wrong.startswith("No such command"):
        return f"No such command {first!r}: use tsslbp {SYNONYMS[first]}"
    names = [function.__name__ for function in COMMANDS]  # click does not always tell which it is
    where = f"tsslbp {first}" if first in names else "tsslbp"
    return f"{wrong}; see {error.ctx.command_path if error.ctx else where} --help"


def _reason(error: Error | OSError | MemoryError) -> str:
    """Why a command has failed, in one line."""
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return str(Error(f"{where}{cause(error)}"))
    if isinstance(error, MemoryError):
        return f"there is not enough memory{f': {error}' if str(error) else ''}"
    return str(error)


@app.callback(invoke_without_command=True)
def program(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Train deep spiking neural networks that need only a few time steps, with TSSL-BP.

    Start with: tsslbp train digits

    Add --traceback to any command to see where an error comes from.
    """
    if version:
        from .._version import __version__

        printing.say(f"tsslbp {__version__}")
        raise typer.Exit


for function in COMMANDS:
    app.command()(options.interruptible("the command was interrupted before its end")(function))
app.add_typer(data.app, name="data")
