"""Tests of the figures of a report and of their names."""

from collections.abc import Callable
from pathlib import Path

from tsslbp.report import figures
from tsslbp.run import Run, results

from .conftest import cost


def names(found: list[figures.Figure]) -> list[str]:
    return [figure.name for figure in found]


def test_hyperparameters_are_the_settings_that_differ(groups: Callable) -> None:
    rates = ("digits", {"learning_rate": 0.1}, [90.0]), ("digits", {"learning_rate": 0.2}, [90.0])
    runs = [run for group in groups(*rates) for run in group.results]
    assert figures.hyperparameters(runs) == [{"learning_rate": 0.1}, {"learning_rate": 0.2}]


def test_seeds_alone_are_no_search(groups: Callable) -> None:
    found = figures.draw("d", groups(("digits", {"epochs": 3}, [90.0, 91.0])), [], "last")
    assert names(found) == ["d-training", "d-latency", "d-spikes", "d-layers-1"]
    assert all(figure.svg.startswith(f'<svg id="{figure.name}"') for figure in found)
    assert [bool(figure.interactive) for figure in found] == [True, False, False, False]


def test_three_settings_are_a_search(groups: Callable) -> None:
    wanted = [("digits", {"epochs": 3, "learning_rate": rate}, [90.0]) for rate in (0.1, 0.2, 0.3)]
    found = figures.draw("d", groups(*wanted), [], "last")
    assert names(found)[:3] == ["d-search", "d-rates", "d-training"]
    assert [figure.webgl for figure in found[:3]] == [True, False, False]


def test_of_many_settings_the_best_are_shown(groups: Callable) -> None:
    wanted = [("digits", {"epochs": 2, "learning_rate": n / 100}, [80.0 + n]) for n in range(1, 11)]
    found = {figure.name: figure for figure in figures.draw("d", groups(*wanted), [], "last")}
    assert "Only the 8 of 10 settings" in found["d-latency"].caption
    assert "learning_rate = 0.1:" in found["d-latency"].svg
    assert "learning_rate = 0.02:" not in found["d-latency"].svg
    assert "d-layers-4" in found and "d-layers-5" not in found


def test_unfinished_runs_are_in_the_curves_alone(
    tmp_path: Path, make_run: Callable, recipe: Callable
) -> None:
    make_run(tmp_path / "run", recipe("digits"), 0.5, epochs=2, drops=[{"step": 30}])
    unfinished = results.read_all([tmp_path])[0]
    (curves,) = figures.draw("d", [], unfinished, "last")
    assert curves.interactive
    line, drop = curves.interactive["data"]
    assert line["name"] == "seed 0"
    assert line["x"] == [26, 52]  # training steps at the end of each epoch
    assert drop["x"] == [30]


def test_own_figures_of_the_best_run(groups: Callable) -> None:
    (group,) = groups(("digits", {"epochs": 2}, [90.0, 95.0]))
    for run in group.results:
        (run.folder / "figures").mkdir()
        for name in ("confusion", "image-0", "image-1", "image-2", "image-3", "training"):
            (run.folder / "figures" / f"{name}.svg").write_text(f"<svg id='{run.folder.name}'/>")
    found = [figure for figure in figures.draw("d", [group], [], "last") if figure.image]
    assert {figure.image.decode() for figure in found} == {"<svg id='0-1'/>"}
    assert names(found) == ["d-run-1-confusion", *(f"d-run-1-image-{n}" for n in range(3))]


def test_a_figure_that_lies_elsewhere_is_not_shown(groups: Callable, tmp_path: Path) -> None:
    """A figure behind a link is left out, since the link could point to a private file."""
    (tmp_path / "secret.svg").write_text("<svg/>")
    (group,) = groups(("digits", {"epochs": 2}, [90.0]))
    folder = group.results[0].folder / "figures"
    folder.mkdir()
    for name, target in (
        ("confusion", tmp_path / "secret.svg"),
        ("image-0", "../../secret.svg"),
        ("image-1", "image-1.svg"),
        ("histograms", "/dev/zero"),
    ):
        (folder / f"{name}.svg").symlink_to(target)
    assert not [one for one in figures.draw("d", [group], [], "last") if one.image]
    (folder / "confusion.svg").unlink()
    with (folder / "confusion.svg").open("wb") as file:
        file.truncate(1 << 40)  # a sparse file of 1 TiB
    assert not [one for one in figures.draw("d", [group], [], "last") if one.image]
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "confusion.svg").write_text("<svg/>")
    folder.symlink_to(tmp_path / "elsewhere")
    assert not [one for one in figures.draw("d", [group], [], "last") if one.image]
    linked = tmp_path / "linked"
    linked.symlink_to(group.results[0].folder)
    folder.unlink()
    folder.mkdir()
    (folder / "confusion.svg").write_text("<svg/>")
    assert figures._image(linked / "figures" / "confusion.svg", linked) == b"<svg/>"


def test_accuracy_against_energy_and_time_steps(groups: Callable) -> None:
    """Settings that differ only in T share a line, and energies need records of cost."""
    found = groups(
        *(("digits", {"epochs": 2, "time_steps": steps}, [90.0 + steps]) for steps in (2, 5, 8)),
        ("digits", {"epochs": 2, "learning_rate": 0.1}, [80.0, 81.0]),
    )
    drawn = {one.name: one for one in figures.draw("d", found, [], "best-test")}
    assert "d-time-steps" in drawn and "d-energy" not in drawn
    assert "digits, epochs = 2" in drawn["d-time-steps"].svg
    assert "learning_rate" not in drawn["d-time-steps"].svg  # at one T only
    assert "time_steps" not in drawn["d-time-steps"].svg
    runs = [run for group in found for run in group.results]
    for number, run in enumerate(runs[:1]):
        Run.open(run.folder).record_cost(cost(2, 1000.0 * number + 500))
    again = results.group(results.read_all([runs[0].folder.parent])[0])
    assert "d-energy" not in names(figures.draw("d", again, [], "last"))  # one setting
    for number, run in enumerate(runs):
        Run.open(run.folder).record_cost(cost(2, 1000.0 * number + 500))
    again = results.group(results.read_all([runs[0].folder.parent])[0])
    (energy,) = [one for one in figures.draw("d", again, [], "last") if one.name == "d-energy"]
    for words in ("energy per image (nJ)", "learning_rate = 0.1", "T = 2", "T = 8"):
        assert words in energy.svg


def test_settings_of_one_number_of_time_steps_have_no_figure_of_it(groups: Callable) -> None:
    found = groups(("digits", {"epochs": 2}, [90.0]), ("digits", {"epochs": 3}, [91.0]))
    assert "d-time-steps" not in names(figures.draw("d", found, [], "last"))
