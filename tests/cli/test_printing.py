"""Tests of what the program prints, line by line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("scipy")

from tsslbp.analysis.microscope import Cosine, LayerCosines
from tsslbp.cli import printing
from tsslbp.data import catalogue
from tsslbp.experiment import load_recipe
from tsslbp.run.results import Result
from tsslbp.stats import Interval
from tsslbp.studies import compare
from tsslbp.studies.compare import RuleResult

Printed = pytest.CaptureFixture[str]
RATES = (0.001, 0.002)


def run(seed: int, accuracy: float, **keys: Any) -> Result:
    experiment = replace(load_recipe("digits"), seed=seed)
    epoch = {"epoch": 1, "test_accuracy": accuracy, "validation_accuracy": 0.5, "seconds": 60.0}
    return Result(Path(f"{seed}"), experiment, {}, [epoch | {"spikes_per_image": 1234.5} | keys])


def rule(name: str, *accuracies: float, **keys: Any) -> RuleResult:
    results = tuple(run(seed, accuracy) for seed, accuracy in enumerate(accuracies))
    tried = dict.fromkeys(RATES, 0.5)
    return RuleResult(name, 5, RATES, tried, {}, 0.002 if results else None, results, **keys)


def test_rules_and_their_differences(capsys: Printed) -> None:
    results = [rule("A", 0.90, 0.91, 0.92), rule("B", 0.95, 0.96, 0.971), rule("C", 0.5), rule("D")]
    printing.print_rules(results, compare.against_first(results))
    head, first, second, third, fourth, empty, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["rule", "T", "rate", "seeds"]
    assert " ".join(first.split()) == (
        "A 5 0.002 (edge) 3 91.00 ± 1.00 % 88.52 to 93.48 1,234 1 min 0 s"
    )
    assert " ".join(third.split()) == "C 5 0.002 (edge) 1 50.00 % - 1,234 1 min 0 s"
    assert fourth.split() == ["D", "5", "-", "0", "-", "-", "-", "-"]
    assert len(first) == len(second) and not empty
    assert lines == [
        "B, T = 5, compared with A: +5.03 points (95 % interval +4.89 to +5.18), p < 0.001: higher",
        "C, T = 5, compared with A: undecided, a test needs two seeds of each",
        "D, T = 5, compared with A: undecided, a test needs two seeds of each",
    ]


def test_a_run_that_diverged_is_said(capsys: Printed) -> None:
    first = rule("A", 0.90, 0.91, 0.92)
    (pair,) = compare.against_first([first, rule("B", 0.90, 0.93, 0.91, diverged_seeds=(3,))])
    words = printing.describe_comparison(pair)
    assert words.startswith("+0.33 points (95 % interval ")
    assert ", p = 0." in words and words.endswith(": undecided, a run diverged")


def test_trials(capsys: Printed) -> None:
    printing.print_trials([run(0, 0.90), run(1, 0.92, note="a caveat")])
    output = capsys.readouterr().out
    assert "\ndigits, seeds 0, 1\n" in output
    assert output.count("91.00 ± 1.41 %, best 92.00 %\n") == 3
    assert output.endswith("note        a caveat\n")
    printing.print_trials([run(0, 0.90)])
    assert "90.00 %, best 90.00 %\n" in capsys.readouterr().out


def test_costs(capsys: Printed) -> None:
    printing.print_costs({"digits": [10.0, 10.0], "mnist": []}, workers=2)
    head, digits, mnist, total, _ = capsys.readouterr().out.splitlines()
    assert digits.split() == ["digits", "2", "10.0", "s", "10.0", "s"]
    assert mnist.split() == ["mnist", "0", "-", "0.0", "s"]
    assert total == (
        "about 10.0 s in total, 2 at a time, estimated from a few training steps; each run also "
        "takes some seconds to start"
    )
    assert len(head) == len(digits)


def test_accuracies_are_always_three(capsys: Printed) -> None:
    printing.print_accuracies({"last": {"epoch": 3, "test_accuracy": 0.5, "note": "a caveat"}})
    head, last, validation, test, note = capsys.readouterr().out.splitlines()
    assert head.split() == ["accuracy", "epoch", "validation", "test"]
    assert last.split() == ["last", "epoch", "3", "-", "50.00", "%"]
    assert validation.split()[-3:] == test.split()[-3:] == ["-", "-", "-"]
    assert note == "note        a caveat"


def test_microscope_and_its_control(capsys: Printed) -> None:
    good, bad = (Cosine(one, Interval(one - 0.01, one + 0.01)) for one in (0.995, 0.9))
    noise = Cosine(None, None, "noise")
    layer = LayerCosines("conv1", 1000, 0.25, {"A": [good, noise]}, np.eye(1), good)
    printing.print_microscope([layer], (0.1, 0.3))
    said = capsys.readouterr()
    assert "conv1  1,000 weights, 0.250 spikes per neuron and step" in said.out
    assert "0.995 ± 0.010" in said.out and "noise\n" in said.out and not said.err
    worse = LayerCosines("conv1", 1000, 0.25, {"A": [good, good]}, np.eye(1), bad)
    printing.print_microscope([worse], (0.1, 0.3))
    assert "caution: the control of conv1 is 0.9000 ± 0.0100" in capsys.readouterr().err


def test_data_sets(capsys: Printed) -> None:
    mnist = catalogue.find("mnist")
    printing.print_data_sets([(mnist, "none")])
    printing.print_data_set(mnist)
    output = capsys.readouterr().out
    assert "60,000 + 10,000" in output and "1 x 28 x 28" in output
    assert "to download 11.6 MB\n" in output


def test_complaints_are_one_line_on_the_error_stream(capsys: Printed) -> None:
    printing.complain("caution", "a line\nanother")
    assert capsys.readouterr() == ("", "caution: a line another\n")
