"""The command that compares learning rules: compare."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from .. import data, studies, training, wording
from .. import report as reports
from ..errors import Diverged, InvalidInput
from ..storage import hold_folder
from . import options, printing
from .options import (
    DryRun,
    JobOptions,
    RecipeOptions,
    TableOptions,
    TrainingOptions,
    option,
    with_options,
)
from .trainings import check_failures, engine_of, make, say_plan, train_arguments

if TYPE_CHECKING:
    from ..data import DataSet
    from ..experiment import Experiment
    from ..run.comparison import Comparison
    from ..studies.compare import RuleResult, RuleStudy
    from ..studies.jobs import Engine
    from ..studies.trials import Trial


@dataclass(frozen=True)
class RuleOptions:
    """Which rules are compared, and with what settings."""

    rules: Annotated[
        str, option("RULE, RULE, ...", "Learning rules; each is compared with the first.")
    ]
    seeds: Annotated[int, option("N", "Number of runs at each chosen rate.", min=1)] = 3
    time_steps: Annotated[
        str | None, option("T,T,...", "Numbers of time steps; default: the recipe's.")
    ] = None
    learning_rates: Annotated[
        str | None,
        option(
            "LR,LR,...",
            "Rates tried for every rule and T; default: the recipe's times 1/4, 1/2, 1, 2, 4.",
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
    dry_run: DryRun = False,
    form: TableOptions,
    how: TrainingOptions,
    where: JobOptions,
) -> None:
    """Compare learning rules under equal conditions.

    \b
    Examples:
      tsslbp compare digits --rules "TSSLBP, TSSLBP.published"
      tsslbp compare mnist --rules "TSSLBP, TSSLBP(warm_up=always)" --seeds 5
      tsslbp compare mnist --rules "TSSLBP, TSSLBP.published" --time-steps 1,2,5 --set loss=softmax

    All rules train with the same initial weights, order of images, optimiser and epochs. For each
    rule and T the learning rate is chosen on validation images, by runs with the first seed; the
    other seeds then use that rate. The command first estimates the time on this machine. After an
    interruption, the same command continues; more rules, time steps, rates or seeds add runs.
    """  # noqa: D301
    if any(re.match(r"\s*rule\b", setting) for setting in what.settings or ()):
        raise InvalidInput("--set rule has no effect here: name the rules in --rules")
    with form.alone():
        _compare(what, conditions, dry_run, form, how, where)


def _compare(
    what: RecipeOptions,
    conditions: RuleOptions,
    dry_run: bool,
    form: TableOptions,
    how: TrainingOptions,
    where: JobOptions,
) -> None:
    wanted, arguments = what.experiment(), train_arguments(how)
    study = conditions.study(wanted)
    reports.check_packages()
    data_sets = _data_sets(study, how.data_dir)
    _check_rules(study, data_sets)
    folder = what.folder(where.out, "compare")
    runs = len(study.pairs) * len(study.learning_rates)
    engine = engine_of(runs, where, how.device, folder, study.experiment)
    with nullcontext() if dry_run else hold_folder(folder):
        if not dry_run:
            study = studies.compare.prepare(study, folder)
        if wanted.patience is not None:
            printing.complain("caution", "patience is ignored: all rules train equally many epochs")
        for caution in studies.compare.cautions(study):
            printing.complain("caution", caution)
        found = studies.compare.read_results(study, folder)
        _print_plan(study, found, data_sets, engine, how.device, dry_run)
        if dry_run:
            _print_runs(study, found, folder)
            return
        _run_comparison(study, folder, engine, arguments, form)


def _print_runs(study: RuleStudy, results: Sequence[RuleResult], folder: Path) -> None:
    """Print the runs to make; those at rates that are not chosen yet have no names."""
    known = [*study.tuning(folder), *studies.compare.finals(study, folder)]
    named = [one for one in studies.trials.missing(known) if not one.divergence()]
    printing.print_plan([one.name for one in named])
    if others := sum(one.missing for one in results) - len(named):
        runs = wording.count(others, "run")
        printing.say(f"then {runs} with other seeds, at the learning rates chosen by these")


def _run_comparison(
    study: RuleStudy, folder: Path, engine: Engine, options: Sequence[str], form: TableOptions
) -> None:
    """Make the runs of a comparison, print the results of the rules, and write a report."""
    tuning = study.tuning(folder)
    failures = _make(tuning, engine, options)
    finals = studies.compare.finals(study, folder)
    failures |= _make(finals, engine, options)
    results = studies.compare.read_results(study, folder)
    comparisons = studies.compare.against_first(results)
    if form.kind:
        form.show(*printing.rules_table(results), _records(results, comparisons), text=(0,))
    else:
        printing.say()
        printing.print_rules(results, comparisons)
    for caution in studies.compare.cautions(study, results):
        printing.complain("caution", caution)
    if any(trial.result() for trial in tuning):
        reports.write([folder], folder / "report.html")
        printing.say(f"report saved in {folder / 'report.html'} and {folder / 'report.md'}")
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
    """Raise `InvalidInput` if a custom network does not accept every rule and every T."""
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
    dry_run: bool,
) -> None:
    """Print the number of runs, and the estimated time of those to be made."""
    rates, seeds = len(study.learning_rates), study.seeds
    left = sum(one.missing for one in results)
    counts = wording.count(len(study.rules), "rule"), wording.count(rates, "learning rate")
    runs = wording.count(len(results) * (rates + seeds - 1), "run")
    printing.say(
        f"{counts[0]} x {len(study.time_steps)} T x ({counts[1]} with the first seed + "
        f"{wording.count(seeds - 1, 'more seed')} at the chosen rate) = {runs}, "
        f"{left} of them to make"
    )
    with printing.working("estimating the cost"):
        costs = {
            one.name: [_seconds(study, one, data_sets[one.time_steps], engine.threads, device)]
            * one.missing
            for one in results
        }
    printing.print_costs(costs, engine.workers, "rule")
    first = study.variant(study.rules[0], study.time_steps[0], study.learning_rates[0])
    disk = left * training.cost.disk(first, data_sets[study.time_steps[0]])
    seconds = [one for each in costs.values() for one in each]
    say_plan(studies.trials.wall_clock(seconds, engine.workers), disk, dry_run)


def _records(
    results: Sequence[RuleResult], comparisons: Sequence[Comparison[RuleResult]]
) -> list[dict[str, Any]]:
    """The results of each rule as values: accuracies from 0 to 1, differences in points."""
    from .. import stats

    compared = {(pair.first.rule, pair.first.time_steps): pair for pair in comparisons}
    records = []
    for one in results:
        reached = stats.summary(one.accuracies) if one.results else None
        low, high = (reached.interval if reached else None) or (None, None)
        pair = compared.get((one.rule, one.time_steps))
        difference = pair.difference if pair else None
        records.append(
            {
                "rule": one.rule,
                "time_steps": one.time_steps,
                "learning_rate": one.rate,
                "seeds": len(one.results),
                "test_accuracy": reached.mean if reached else None,
                "sd": reached.sd if reached else None,
                "low": low,
                "high": high,
                "spikes_per_image": float(one.spikes.mean()) if len(one.spikes) else None,
                "seconds": float(one.seconds.mean()) if len(one.seconds) else None,
                "difference": difference.mean if difference else None,
                "difference_low": difference.interval.low if difference else None,
                "difference_high": difference.interval.high if difference else None,
                "p": pair.p if pair else None,
                "verdict": pair.verdict if pair else None,
            }
        )
    return records


def _seconds(
    study: RuleStudy, one: RuleResult, data_set: DataSet, threads: int, device: str
) -> float:
    """Estimated time of a run; 0 if none is to be made, or if the rule diverges at once."""
    if not one.missing:
        return 0.0
    variant = study.variant(one.rule, one.time_steps, study.learning_rates[0])
    try:
        return training.cost.estimate(variant, data_set, threads, device, trust_code=True)
    except Diverged as error:
        printing.complain("caution", f"{one.name}: no estimate, {error}")
        return 0.0
