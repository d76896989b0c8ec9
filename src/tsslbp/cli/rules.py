"""The verb that compares learning rules: compare."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from .. import data, studies, training
from .. import report as reports
from ..errors import Diverged, InvalidInput
from ..storage import hold_folder
from . import options, printing
from .options import JobOptions, RecipeOptions, TrainingOptions, option, with_options
from .trainings import check_failures, engine_of, make, train_arguments

if TYPE_CHECKING:
    from ..data import DataSet
    from ..experiment import Experiment
    from ..studies.compare import RuleResult, RuleStudy
    from ..studies.jobs import Engine
    from ..studies.trials import Trial


@dataclass(frozen=True)
class RuleOptions:
    """Which rules are compared, and at what."""

    rules: Annotated[
        str, option("RULE, RULE, ...", "Learning rules; each is compared with the first.")
    ]
    seeds: Annotated[int, option("N", "Runs at each chosen rate.", min=1)] = 3
    time_steps: Annotated[str | None, option("T,T,...", "Time steps; by default the recipe's.")] = (
        None
    )
    learning_rates: Annotated[
        str | None,
        option(
            "LR,LR,...",
            "Tried for every rule and T; by default the recipe's times 1/4, 1/2, 1, 2, 4.",
        ),
    ] = None

    def study(self, wanted: Experiment) -> RuleStudy:
        from ..rules import split_rules

        return studies.compare.RuleStudy(
            wanted,
            tuple(split_rules(self.rules)),
            options.numbers("--time-steps", self.time_steps, int),
            options.numbers("--learning-rates", self.learning_rates, float),
            self.seeds,
        )


@with_options
def compare(
    what: RecipeOptions,
    *,
    conditions: RuleOptions,
    how: TrainingOptions,
    where: JobOptions,
) -> None:
    """Compare learning rules under equal conditions.

    \b
    Examples:
      tsslbp compare digits --rules "TSSLBP, TSSLBP.published"
      tsslbp compare mnist --rules "TSSLBP, TSSLBP(warm_up=always)" --seeds 5
      tsslbp compare mnist --rules "TSSLBP, TSSLBP.published" --time-steps 1,2,5 --set loss=softmax

    The rules see the same initial weights and images in the same order, with the same optimiser and
    epochs. For each rule and T the learning rate is chosen on validation images, by runs with the
    first seed; the other seeds follow at that rate. The command first estimates what that will cost
    on this machine. Given again after an interruption it goes on; more rules, time steps, rates or
    seeds add runs.
    """  # noqa: D301
    if any(re.match(r"\s*rule\b", setting) for setting in what.settings or ()):
        raise InvalidInput("--set rule has no effect here: name the rules in --rules")
    wanted, arguments = what.experiment(), train_arguments(how)
    study = conditions.study(wanted)
    reports.check_packages()
    data_sets = _data_sets(study, how.data_dir)
    _check_rules(study, data_sets)
    folder = what.folder(where.out, "compare")
    runs = len(study.pairs) * len(study.learning_rates)
    engine = engine_of(runs, where, how.device, folder, study.experiment)
    with hold_folder(folder):
        study = studies.compare.prepare(study, folder)
        if wanted.patience is not None:
            printing.complain("caution", "patience is ignored: all rules train equally many epochs")
        for caution in studies.compare.cautions(study):
            printing.complain("caution", caution)
        found = studies.compare.read_results(study, folder)
        _print_plan(study, found, data_sets, engine, how.device)
        _compare(study, folder, engine, arguments)


def _compare(study: RuleStudy, folder: Path, engine: Engine, options: Sequence[str]) -> None:
    """Make the runs of a comparison, print what the rules have reached, and report on it."""
    tuning = study.tuning(folder)
    failures = _make(tuning, engine, options)
    finals = studies.compare.finals(study, folder)
    failures |= _make(finals, engine, options)
    results = studies.compare.read_results(study, folder)
    printing.say()
    printing.print_rules(results, studies.compare.against_first(results))
    for caution in studies.compare.cautions(study, results):
        printing.complain("caution", caution)
    if any(trial.result() for trial in tuning):
        reports.write([folder], folder / "report.html")
        printing.say(f"report in {folder / 'report.html'} and {folder / 'report.md'}")
    check_failures(failures, len({trial.name for trial in (*tuning, *finals)}))


def _make(trials: Sequence[Trial], engine: Engine, options: Sequence[str]) -> dict[str, str]:
    """Make the runs that are neither finished nor diverged; returns why others failed, by name."""
    left = [trial for trial in trials if not trial.divergence()]
    failures = make(left, engine, options) if left else {}
    diverged = {trial.name for trial in left if trial.divergence()}
    return {name: reason for name, reason in failures.items() if name not in diverged}


def _data_sets(study: RuleStudy, data_dir: Path | None) -> dict[int, DataSet]:
    """The data for each T: images are the same for all, recordings are binned for each."""
    rule, rate = study.rules[0], study.learning_rates[0]
    if not data.holds_events(study.experiment.data):
        return dict.fromkeys(study.time_steps, options.load_checked(study.experiment, data_dir))
    return {
        steps: options.load_checked(study.variant(rule, steps, rate), data_dir)
        for steps in study.time_steps
    }


def _check_rules(study: RuleStudy, data_sets: Mapping[int, DataSet]) -> None:
    """Raise `InvalidInput` where a network of one's own takes not every rule, or not every T."""
    for rule, steps in study.pairs:
        variant = study.variant(rule, steps, study.learning_rates[0])
        net = training.check_network(variant, data_sets[steps], trust_code=True)
        if net is not None:
            training.check_rule(net, variant)


def _print_plan(
    study: RuleStudy,
    results: Sequence[RuleResult],
    data_sets: Mapping[int, DataSet],
    engine: Engine,
    device: str,
) -> None:
    """Which runs there are, and what those to be made will cost."""
    rates, seeds = len(study.learning_rates), study.seeds
    left = sum(one.missing for one in results)
    printing.say(
        f"{len(study.rules)} rules x {len(study.time_steps)} T x ({rates} learning rates with the "
        f"first seed + {seeds - 1} more seeds at the chosen one) = "
        f"{len(results) * (rates + seeds - 1)} runs, {left} of them to make"
    )
    with printing.working("estimating the cost"):
        costs = {
            one.name: [_seconds(study, one, data_sets[one.time_steps], engine.threads, device)]
            * one.missing
            for one in results
        }
    printing.print_costs(costs, engine.workers, "rule")


def _seconds(
    study: RuleStudy, one: RuleResult, data_set: DataSet, threads: int, device: str
) -> float:
    """Estimate of a run; 0 where nothing is to be made, or the rule diverges at once."""
    if not one.missing:
        return 0.0
    variant = study.variant(one.rule, one.time_steps, study.learning_rates[0])
    try:
        return training.cost.estimate(variant, data_set, threads, device, trust_code=True)
    except Diverged as error:
        printing.complain("caution", f"{one.name}: no estimate, {error}")
        return 0.0
