"""Tests that tables agree with the records."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tsslbp import stats
from tsslbp.report import published, tables, verdicts
from tsslbp.report.verdicts import Judgement
from tsslbp.run import Run, results
from tsslbp.run.comparison import Comparison
from tsslbp.run.results import Result
from tsslbp.stats import Difference, Interval

from .conftest import cost


def test_what_runs_have_reached() -> None:
    assert tables.reached(stats.summary([99.4])) == "99.40"
    assert tables.reached(stats.summary([99.40, 99.41, 99.42])) == "99.41 ± 0.01\n99.39 to 99.43"
    # No accuracy is -62.84 or 124.23 %: two seeds have no interval, and intervals are bounded.
    assert tables.reached(stats.summary([23.0, 38.4])) == "30.70 ± 10.89"
    assert tables.reached(stats.summary([60.0, 99.0, 99.0])).endswith("to 100.00")
    assert tables.reached(stats.summary([1.0, 1.0, 40.0])).endswith("\n0.00 to 69.93")


def test_difference_cells(groups: Callable) -> None:
    (group,) = groups(("digits", {}, [90.0, 91.0]))
    difference = Difference(-0.5, Interval(-1.0, 0.0), 0.0004)
    found = Comparison(group, group, 3, difference, difference.p)
    assert tables.difference_cells(found) == ("3", "-0.50\n-1.00 to +0.00", "< 0.001")
    few = Comparison(group, group, 2, difference, difference.p)
    assert tables.difference_cells(few) == ("2", "-0.50", "< 0.001")
    assert tables.difference_cells(Comparison(group, group, 1, None, None)) == ("1", "-", "-")


def test_published_tables_have_our_runs_beside_them(groups: Callable) -> None:
    found = groups(("mnist", {}, [99.4, 99.5]), ("digits", {}, [95.0]))
    (table,) = tables.published_tables(found, published.tables())
    assert table.caption.startswith("MNIST: test accuracy (%).")
    names = [row[0] for row in table.rows]
    assert names[1:] == ["published", "reproduction study", "ours: mnist"]
    assert table.rows[3][1] == "2" and table.rows[3][5] == "99.50"


def test_a_published_table_stands_without_our_runs(groups: Callable) -> None:
    table = tables.published_table(groups(("mnist", {}, [99.4])), "cifar10")
    assert [row[0] for row in table.rows if len(row) > 1] == [
        *("published", "reproduction study") * 2
    ]
    assert tables.published_tables([], published.tables()) == []


def test_other_runs_are_sorted_and_many_are_folded(groups: Callable) -> None:
    wanted = [("digits", {"learning_rate": 0.001 * n}, [80.0 + n / 2]) for n in range(2, 32)]
    first, rest = tables.other_tables(groups(*wanted), "last")
    assert (len(first.rows), first.folded, len(rest.rows), rest.folded) == (10, False, 20, True)
    assert [row[0] for row in first.rows[:2]] == [
        "digits, learning_rate = 0.031",
        "digits, learning_rate = 0.03",
    ]


def test_few_other_runs_are_one_table_without_those_of_published_rows(groups: Callable) -> None:
    found = groups(("mnist", {"tau_s": 2.5}, [99.0]), ("mnist", {}, [99.0]))
    (table,) = tables.other_tables(found, "last")
    assert [row[0] for row in table.rows] == ["mnist, tau_s = 2.5"] and not table.folded


def test_averaged_weights_have_a_line_of_their_own(
    tmp_path: Path, make_run: Callable, recipe: Callable
) -> None:
    for name, seeds in (("all", 2), ("some", 1)):
        for seed in range(2):
            experiment = recipe("digits", seed, learning_rate=0.01, average_weights=0.9)
            experiment = replace(experiment, learning_rate=0.01 if name == "all" else 0.02)
            more = {"averaged_test_accuracy": 0.96 + 0.02 * seed} if seed < seeds else {}
            make_run(tmp_path / f"{name}-{seed}", experiment, 0.9, **more)
    found, _ = results.read_all([tmp_path])
    (table,) = tables.other_tables(results.group(found), "last")
    averaged = [row for row in table.rows if row[0].endswith("averaged weights, last epoch")]
    assert len(averaged) == 1 and "learning_rate = 0.01" in averaged[0][0]
    assert averaged[0][1:3] == ("2", "97.00 ± 1.41")
    assert averaged[0][3:] == ("-", "-", "98.00", "-")


def test_claims_are_in_the_order_of_their_verdicts() -> None:
    judgements = [
        Judgement("a", "undecided", "one run"),
        Judgement("b", "not supported", "lower", 0.01),
        Judgement("c", "supported", "higher", 0.0001),
        Judgement("d", "undecided", "no run", seen=False),
    ]
    table, open_table = tables.claims_tables(judgements)
    assert [(row[0], row[3]) for row in table.rows] == [
        ("c", "< 0.001"),
        ("b", "0.010"),
        ("a", "-"),
    ]
    assert open_table.rows == (("d", "no run"),) and open_table.folded
    assert tables.claims_tables(judgements[3:]) == [open_table]
    assert tables.claims_tables(judgements[:3]) == [table]


def test_comparisons_name_both_groups(groups: Callable) -> None:
    found = groups(("digits", {}, [95.0, 96.0]), ("digits", {"tau_s": 2.0}, [94.0, 95.0]))
    (row,) = tables.comparison_table(verdicts.compare_groups(found)[0]).rows
    assert row == (
        "digits\nvs. digits, tau_s = 2.0",
        "undecided",
        "2",
        "+1.00",
        "1.000",
    )


def test_compute(groups: Callable) -> None:
    found = groups(("digits", {"epochs": 3}, [95.0, 96.0]), ("digits", {"epochs": 5}, [95.0]))
    table = tables.compute_table(found)
    first, second, total = table.rows
    assert first[0].endswith("\nTest CPU, 2 of 4 cores")
    assert first[1:] == ("2", "3", "2.0 s", "0.5 s", "650", "6.0 s", "12.0 s", "1.0 GiB")
    assert second[2] == "5"
    assert (total[1], total[7]) == ("3", "22.0 s")
    without = [replace(one, results=[_unevaluated(x) for x in one.results]) for one in found]
    assert tables.compute_table(without).rows[0][4] == "-"


def _unevaluated(one: Result) -> Result:
    """Return a run as earlier versions recorded it, without the time of evaluations."""
    return replace(one, epochs=[{**epoch, "evaluation_seconds": None} for epoch in one.epochs])


def test_every_run_has_a_row(groups: Callable) -> None:
    (group,) = groups(("digits", {"epochs": 3}, [95.0, 96.0]))
    names = {run.folder: f"run {run.experiment.seed}" for run in group.results}
    row, second = tables.run_table([group], names).rows
    assert second[0] == "run 1"
    assert row == (
        *("run 0", group.label, "finished", "0", "3/3"),
        *("94.90", "95.00", "95.00", "6.0 s", "0"),
    )


def test_environments_and_what_differs_in_them(
    tmp_path: Path, make_run: Callable, recipe: Callable
) -> None:
    for seed in range(3):
        make_run(tmp_path / str(seed), recipe("digits", seed), 0.9)
    path = tmp_path / "2" / "environment.json"
    path.write_text(path.read_text().replace("Test CPU", "Other CPU"))
    table = tables.environment_table(results.read_all([tmp_path])[0])
    assert table.caption == "Environments of the runs, which differ in cpu."
    assert table.rows[0] == ("runs", "2", "1")
    assert ("cpu", "Test CPU", "Other CPU") in table.rows
    assert not any(row[0] == "command" for row in table.rows)


def test_notes_name_the_runs_that_they_concern(
    tmp_path: Path, make_run: Callable, recipe: Callable
) -> None:
    make_run(tmp_path / "0", recipe("digits", 0), 0.9)
    runs = results.read_all([tmp_path])[0]
    assert tables.notes(runs) == []
    for seed in (1, 2):
        make_run(tmp_path / str(seed), recipe("digits", seed), 0.9, note="a caveat")
    notes = tables.notes(results.read_all([tmp_path])[0])
    assert notes == ["a caveat: all accuracies of 2 runs (digits)"]


def test_costs_are_means_of_the_runs_that_have_a_record(groups: Callable) -> None:
    found = groups(("digits", {"epochs": 2}, [90.0, 91.0, 92.0]), ("digits", {"epochs": 3}, [90.0]))
    assert tables.cost_tables(found) == []
    folders = [run.folder for group in found for run in group.results]
    for folder, energy in zip(folders[:2], (500.0, 700.0), strict=True):
        Run.open(folder).record_cost(cost(2, energy))
    (table,) = tables.cost_tables(results.group(results.read_all([folders[0].parent])[0]))
    (row,) = table.rows
    label, runs, *numbers = row
    energies = ["600 pJ\n450 pJ", "1.00 nJ", "0.60\n0.45"]  # second lines: connections only
    assert label == "digits, epochs = 2" and runs == "2"
    assert numbers == ["10", "1,234", "500", "100", "2,000", "50", *energies]
    assert len(table.head) == len(row)
