"""Search a recipe's settings by Bayesian optimisation, then print the trials, the best first.

Run it with ``python examples/sweep.py [FOLDER]``. It needs ``pip install 'tsslbp[study]'``, takes
about a minute and downloads nothing. ``tsslbp sweep`` does the same from the command line.
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tsslbp import experiment, training
from tsslbp.studies import driver, jobs, space, sweep
from tsslbp.studies.trials import Trial

SPACE = {
    "learning_rate": {"low": 0.0005, "high": 0.02, "log": True},
    "time_steps": {"low": 2, "high": 6},
}


class Print:
    """Prints the outcome of each trial."""

    def running(self, trials: Sequence[Trial]) -> None:
        """Called several times a second with the trials that are being trained."""

    def ended(self, outcome: sweep.Outcome) -> None:
        """Called after each trial."""
        print(f"trial {outcome.number} {outcome.state}: {dict(outcome.values)}")


def main(folder: Path, trials: int = 5, epochs: int = 3) -> list[sweep.Outcome]:
    """Return the outcomes of all trials, the best first; `folder` keeps the runs and the search."""
    recipe = replace(experiment.load_recipe("digits"), epochs=epochs)
    searched = space.Space.from_table({"parameters": SPACE})
    digits = training.load_data(recipe)
    search = sweep.Search(sweep.Sweep(recipe, searched, trials, folder))

    def check(wanted: experiment.Experiment) -> None:
        training.check_data(wanted, digits)

    driver.Driver(search, jobs.Local(workers=1), Print(), check).work()
    for outcome in search.outcomes():
        print(f"{outcome.accuracy or 0:.1%}  {dict(outcome.values)}")
    return search.outcomes()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else temporary))
