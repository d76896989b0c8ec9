"""Tests of the spaces that a sweep searches: their files, types and bounds."""

from dataclasses import replace
from pathlib import Path

import pytest

from tsslbp.errors import InvalidInput
from tsslbp.experiment import Experiment, load_recipe, with_settings
from tsslbp.rules import Surrogate
from tsslbp.studies.space import Choice, Range, Space, apply, load_space, settings, space_names

DIGITS = load_recipe("digits")


def read(folder: Path, parameters: str, head: str = "") -> Space:
    path = folder / "space.toml"
    path.write_text(f"{head}\n[parameters]\n{parameters}\n")
    return load_space(path)


def test_the_published_space_is_that_of_the_study() -> None:
    space = load_space("published")
    assert space.trials == 12
    assert space.parameters == {
        "epochs": Choice((50, 100, 150, 200)),
        "learning_rate": Choice((0.0001, 0.0005, 0.001, 0.005, 0.01)),
        "time_steps": Choice((5, 10, 20)),
    }


def test_keys_of_a_function_that_makes_the_network(tmp_path: Path) -> None:
    """These keys keep the types that the space gives them, and text stays text."""
    base = with_settings(DIGITS, ["network=vgg"])
    space = read(
        tmp_path,
        "network_settings.dropout = { low = 0, high = 0.5 }\n"
        "network_settings.hidden = [[16], [32, 16]]\n"
        "network_settings.kind = ['3', 'true', 'plain']\n"
        "network_settings.width = { low = 2, high = 8, step = 2 }\n",
    ).fitted(base)
    dropout, hidden, kind, width = (space.parameters[key] for key in sorted(space.parameters))
    assert (dropout.low, dropout.high) == (0.0, 0.5) and type(dropout.low) is float
    assert type(width.low) is int and hidden.values == ([16], [32, 16])
    for value in kind.values:
        changed = apply(base, {"network_settings.kind": value, "network_settings.width": 4})
        assert changed.network_settings == {"kind": value, "width": 4}
    assert apply(base, {"network_settings.hidden": [32, 16]}).network_settings == {
        "hidden": (32, 16)
    }
    with pytest.raises(
        InvalidInput, match="does not fit the recipe: network_settings applies only to a function"
    ):
        space.fitted(DIGITS)


@pytest.mark.parametrize("name", space_names())
def test_shipped_spaces_fit_and_promise(name: str) -> None:
    space = load_space(name)
    assert space.trials
    for word in ("Command:", f"--space {name}", "Hardware and time:"):
        assert word in space.description
    for recipe in ("digits", "mnist"):
        base = load_recipe(recipe)
        fitted = space.fitted(base)
        assert fitted.parameters.keys() == space.parameters.keys()
        assert all(type(one) is Experiment for one in fitted.variants(base))


def test_all_forms(tmp_path: Path) -> None:
    space = read(
        tmp_path,
        """
        learning_rate = { low = 1e-4, high = 1, log = true }
        time_steps = { low = 2, high = 8, step = 3 }
        tau_m = { low = 2, high = 8 }
        tau_s = [2, 3]
        desired_train = [[1], [0, 1]]
        rule.warm_up = ["never", "always"]
        weight_scale = { conv = [1, 5], linear = { low = 0.5, high = 2 } }
        """,
        "trials = 7",
    ).fitted(DIGITS)
    assert space.trials == 7
    assert space.parameters == {
        "learning_rate": Range(1e-4, 1.0, log=True),
        "time_steps": Range(2, 8, step=3),
        "tau_m": Range(2.0, 8.0),
        "tau_s": Choice((2.0, 3.0)),
        "desired_train": Choice(([1], [0, 1])),
        "rule.warm_up": Choice(("never", "always")),
        "weight_scale.conv": Choice((1.0, 5.0)),
        "weight_scale.linear": Range(0.5, 2.0),
    }
    numbers = [space.parameters[key] for key in ("tau_m", "tau_s", "weight_scale.linear")]
    assert {type(value) for one in numbers for value in one.inside()} == {float}
    assert type(space.parameters["time_steps"].inside()[0]) is int
    assert len(list(space.variants(DIGITS))) == 16


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ("learning_rat = [0.1]", "unknown key 'learning_rat' (did you mean 'learning_rate'?)"),
        ("rule.warmup = ['never']", "unknown key 'warmup' (did you mean 'warm_up'?)"),
        ("rule.warm_up = ['nevr']", "got 'nevr' (did you mean 'never'?)"),
        ("learning_rate = [0.1, -1]", "learning_rate must be a number above 0, got -1"),
        ("learning_rate = [0.1, 'x']", "got 'x'"),
        ("epochs = { low = 0, high = 5 }", "epochs must be a whole number of at least 1, got 0"),
        ("epochs = { low = 1, high = 5.5 }", "epochs must be a whole number"),
        ("epochs = { low = 5, high = 5 }", "low must be below high, got 5 and 5"),
        ("epochs = { low = 1, hihg = 5 }", "unknown key 'hihg' (did you mean 'high'?)"),
        ("epochs = { low = 1 }", "epochs: missing key 'high', a finite number"),
        ("epochs = { low = 1, high = 6, step = 2 }", "high must be low plus a multiple of step"),
        ("epochs = { low = 1, high = 5, step = 2, log = true }", "no step"),
        ("epochs = { low = 1, high = 5, log = 1 }", "log must be true or false, got 1"),
        ("tau_m = { low = 1, high = 5, step = 2 }", "only whole numbers can have a step"),
        ("dropout = { low = 0, high = 0.5, log = true }", "low above 0"),
        ("horizontal_flip = { low = 0, high = 1 }", "true or false, got 0"),
        ("epochs = 5", "epochs must be a list of values, or a table such as"),
        ("epochs = []", "epochs must be a list of values"),
        ("epochs = [5, 5]", "a value occurs twice in [5, 5]"),
        ("time_steps = [1, 5]", "desired_train must have a spike within time_steps = 1"),
        ("seed = [1, 2]", "seed cannot be searched"),
        ('"binning.window" = [1.0, 2.0]', "binning.window cannot be searched"),
        ("protocol = ['published', 'validated']", "protocol cannot be searched"),
        ("", "the space needs a table [parameters] with at least one key"),
        ("epochs = [1", "is not valid TOML"),
    ],
)
def test_mistakes_are_one_line(parameters: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(tmp_path, parameters).fitted(DIGITS)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mistakes_around_the_parameters(tmp_path: Path) -> None:
    for head, words in (
        ("trails = 3", r"unknown key 'trails' \(did you mean 'trials'\?\)"),
        ("trials = 0", "trials must be a whole number of at least 1, got 0"),
        ("epochs = [1, 2]", r"keys of a recipe belong below \[parameters\]"),
    ):
        with pytest.raises(InvalidInput, match=words):
            read(tmp_path, "epochs = [1, 2]", head)
    with pytest.raises(InvalidInput, match=r"unknown space 'digitz' \(did you mean 'digits'\?\)"):
        load_space("digitz")
    with pytest.raises(InvalidInput, match=r"cannot read the space .*none\.toml: No such file"):
        load_space(tmp_path / "none.toml")


def test_values_are_settings_of_the_program() -> None:
    """The settings that a sweep prints give exactly the experiment that the trial trained."""
    values = {
        "rule.warm_up": "always",
        "rule": "TSSLBP.published",
        "learning_rate": 1 / 3 * 1e-5,
        "horizontal_flip": True,
        "padding": [1, 0],
        "network": "300",
    }
    applied = apply(DIGITS, values)
    assert with_settings(DIGITS, settings(values)) == applied
    assert applied.rule.warm_up == "always"  # type: ignore[attr-defined]
    assert applied.learning_rate == values["learning_rate"]
    assert (applied.horizontal_flip, applied.padding, applied.network) == (True, (1, 0), "300")
    whole = with_settings(DIGITS, ["rule=TSSLBP.published"]).rule
    assert applied.rule == replace(whole, warm_up="always")  # the part changes the whole


def test_a_rule_may_be_a_table(tmp_path: Path) -> None:
    table = '{ name = "TSSLBP", warm_up = "always" }'
    space = read(tmp_path, f'rule = ["TSSLBP.published", {table}]').fitted(DIGITS)
    first, second = space.variants(DIGITS)
    assert first == with_settings(DIGITS, ["rule=TSSLBP.published"])
    assert second == with_settings(DIGITS, ["rule.warm_up=always"])


@pytest.mark.parametrize(
    ("values", "ordered"),
    [
        ((1, 2, 5), True),
        ((0.1, 1.0), True),
        ((2, 1), False),
        ((True, False), False),
        (("a",), False),
    ],
)
def test_rising_numbers_are_ordered(values: tuple[object, ...], ordered: bool) -> None:
    assert Choice(values).ordered == ordered


def test_a_derivative_is_searched_at_its_own_width() -> None:
    """Each derivative has its own default width, and the search also covers default widths."""
    surrogate = with_settings(DIGITS, ["rule=Surrogate"])
    parameters = {
        "rule.derivative": Choice(("rectangle", "fast-sigmoid")),
        "rule.width": Choice((0.5, 1.0)),
    }
    rules = [one.rule for one in Space(parameters).fitted(surrogate).variants(surrogate)]
    assert rules == [
        Surrogate("rectangle"),
        Surrogate("fast-sigmoid", 1.0, 0.1),
        Surrogate("rectangle", width=0.5),
        Surrogate("rectangle", width=1.0),
    ]


def test_keys_of_newer_recipes(tmp_path: Path) -> None:
    """Keys with numbers may have ranges, and a key that the loss does not read is refused."""
    text = """
        momentum = { low = 0.5, high = 0.99 }
        warm_up_epochs = { low = 0, high = 3 }
        label_smoothing = { low = 0, high = 0.2 }
        average_weights = [0.99, 0.999]
        cutout = { low = 0, high = 4, step = 2 }
        mixup = { low = 0.1, high = 1, log = true }
        rotate = { low = 0, high = 20 }
        accumulate = [1, 2]
        schedule = ["constant", "cosine"]
        """
    base = with_settings(DIGITS, ["loss=tet", "optimizer=sgd"])
    space = read(tmp_path, text).fitted(base)
    assert space.parameters["momentum"] == Range(0.5, 0.99)
    assert space.parameters["warm_up_epochs"] == Range(0.0, 3.0)
    assert space.parameters["cutout"] == Range(0, 4, 2)
    assert space.parameters["average_weights"] == Choice((0.99, 0.999))
    found = apply(base, {"warm_up_epochs": 1.5, "cutout": 4, "mixup": 0.3})
    assert (found.warm_up_epochs, found.cutout, found.mixup) == (1.5, 4, 0.3)
    with pytest.raises(
        InvalidInput,
        match="does not fit the recipe: label_smoothing applies only with loss = 'softmax'",
    ):
        read(tmp_path, "label_smoothing = [0.1, 0.2]").fitted(DIGITS)
