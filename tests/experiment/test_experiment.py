"""An experiment: construction, errors, files, settings."""

import pickle
import string
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsslbp.errors import InvalidInput
from tsslbp.experiment import Experiment, load_recipe, save, with_settings
from tsslbp.rules import SLAYER, TSSLBP

MINIMAL = {"data": "mnist", "network": "300"}


def assert_one_line(error: InvalidInput, words: list[str]) -> None:
    message = str(error)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_the_defaults_are_the_revised_settings() -> None:
    experiment = Experiment.from_table(MINIMAL)
    assert (experiment.tau_m, experiment.tau_s, experiment.pool_scale) == (5.0, 3.0, 1.1)
    assert (experiment.conv_init, experiment.rule) == ("uniform", TSSLBP())
    assert (experiment.loss, experiment.target_filters) == ("kernel", 2)
    assert (experiment.epochs, experiment.batch_size) == (100, 50)
    assert (experiment.learning_rate, experiment.weight_decay) == (0.0005, 0.01)
    assert (experiment.gradient_clip, experiment.weight_limit) == (1.0, 4.0)
    assert (experiment.protocol, experiment.validation_images) == ("validated", 5000)
    assert experiment.patience is None


def test_values_are_brought_to_their_types() -> None:
    experiment = Experiment.from_table(
        MINIMAL
        | {"tau_m": 4, "mean": [0, 0.5, 1], "padding": [1, 0]}
        | {"weight_scale": {"conv": 5, "linear": 1.5}, "rule": "TSSLBP.published"}
    )
    assert experiment.tau_m == 4.0
    assert isinstance(experiment.tau_m, float)
    assert experiment.mean == (0.0, 0.5, 1.0)
    assert [type(mean) for mean in experiment.mean] == [float] * 3
    assert experiment.padding == (1, 0)
    assert experiment.weight_scale == {"conv": 5.0, "linear": 1.5}
    assert experiment.rule == TSSLBP.published()


def test_an_experiment_is_frozen_and_can_be_sent_to_another_process() -> None:
    experiment = Experiment.from_table(MINIMAL | {"weight_scale": {"conv": 5, "linear": 1}})
    with pytest.raises(FrozenInstanceError):
        experiment.epochs = 3  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(experiment)) == experiment


def test_an_experiment_does_not_follow_changes_of_the_table_it_was_made_from() -> None:
    scales = {"conv": 5.0, "linear": 1.0}
    experiment = Experiment(data="mnist", network="300", weight_scale=scales)
    scales["conv"] = 1.0
    assert experiment.weight_scale == {"conv": 5.0, "linear": 1.0}


WRONG: list[tuple[str, Any, list[str]]] = [
    ("data", 3, ["text", "got 3"]),
    ("network", "", ["text", "not empty", "got ''"]),
    ("network", 300, ["text", "got 300"]),
    ("description", ["a"], ["text", "got ['a']"]),
    ("mean", 0.5, ["list", "number", "got 0.5"]),
    ("mean", [], ["list (not empty)", "got []"]),
    ("mean", "0.5", ["list", "got '0.5'"]),
    ("mean", [float("nan")], ["finite number", "got [nan]"]),
    ("mean", [10**400], ["finite number"]),
    ("std", [0.3, 0.0], ["number above 0", "got [0.3, 0.0]"]),
    ("crop_padding", -1, ["whole number of at least 0", "got -1"]),
    ("crop_padding", 1.5, ["whole number of at least 0", "got 1.5"]),
    ("horizontal_flip", 1, ["true or false", "got 1"]),
    ("horizontal_flip", "yes", ["true or false", "got 'yes'"]),
    ("protocol", "publishd", ["one of published, validated", "did you mean 'published'?"]),
    ("protocol", 1, ["one of published, validated", "got 1"]),
    ("train_images", 0, ["whole number of at least 1", "got 0"]),
    ("validation_images", 0, ["whole number of at least 1", "got 0"]),
    ("padding", -1, ["whole number of at least 0", "got -1"]),
    ("padding", [0, -1], ["whole number of at least 0", "got [0, -1]"]),
    ("padding", 0.5, ["whole number", "list", "got 0.5"]),
    ("time_steps", 0, ["whole number of at least 1", "got 0"]),
    ("time_steps", 5.0, ["whole number of at least 1", "got 5.0"]),
    ("time_steps", True, ["whole number of at least 1", "got True"]),
    ("tau_m", 0.99, ["number of at least 1", "got 0.99"]),
    ("tau_s", 0, ["number of at least 1", "got 0"]),
    ("tau_s", float("inf"), ["number of at least 1", "got inf"]),
    ("threshold", 0.0, ["number above 0", "got 0.0"]),
    ("weight_scale", 0.0, ["number above 0", "table", "conv", "linear", "got 0.0"]),
    ("weight_scale", {"conv": 5.0}, ["conv and linear", "got {'conv': 5.0}"]),
    ("weight_scale", {"conv": 5.0, "linear": "1"}, ["conv and linear", "'1'"]),
    ("conv_init", "keiming", ["one of uniform, kaiming", "did you mean 'kaiming'?"]),
    ("pool_scale", 0, ["number above 0", "got 0"]),
    ("neunorm", 1, ["true or false", "got 1"]),
    ("dropout", 1.0, ["at least 0 and below 1", "got 1.0"]),
    ("dropout", -0.1, ["at least 0 and below 1", "got -0.1"]),
    ("dropout", False, ["at least 0 and below 1", "got False"]),
    ("dropout_kind", "neuron", ["one of rows, neurons", "did you mean 'neurons'?"]),
    ("rule", 3, ["a rule's name or table", "got 3"]),
    ("rule", "TSLBP", ["'TSLBP'", "did you mean 'TSSLBP'?"]),
    ("loss", "kernal", ["one of kernel, count, softmax", "did you mean 'kernel'?"]),
    ("target_filters", 0, ["whole number of at least 1", "got 0"]),
    ("desired_train", [0, 2, 1], ["0 or 1", "got [0, 2, 1]"]),
    ("desired_train", [0, True], ["0 or 1", "got [0, True]"]),
    ("desired_train", "01011", ["list", "0 or 1", "got '01011'"]),
    ("desired_train", [0, 0, 0], ["spike within time_steps = 5", "got [0, 0, 0]"]),
    ("desired_train", [0, 0, 0, 0, 0, 1], ["spike within time_steps = 5"]),
    ("desired_count", -1, ["number of at least 0", "got -1"]),
    ("epochs", 0, ["whole number of at least 1", "got 0"]),
    ("epochs", "fifty", ["whole number of at least 1", "got 'fifty'"]),
    ("batch_size", 0, ["whole number of at least 1", "got 0"]),
    ("learning_rate", 0, ["number above 0", "got 0"]),
    ("learning_rate", "fast", ["number above 0", "got 'fast'"]),
    ("weight_decay", -0.01, ["number of at least 0", "got -0.01"]),
    ("betas", [0.9], ["two numbers", "got [0.9]"]),
    ("betas", [0.9, 1], ["at least 0 and below 1", "got [0.9, 1]"]),
    ("gradient_clip", 0, ["number above 0", "got 0"]),
    ("weight_limit", -4, ["number above 0", "got -4"]),
    ("patience", 0, ["whole number of at least 1", "got 0"]),
    ("seed", -1, ["whole number from 0", "got -1"]),
    ("seed", 2**63, ["2^63"]),
]


@pytest.mark.parametrize(("key", "value", "words"), WRONG)
def test_a_wrong_value_is_one_clear_line(key: str, value: Any, words: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        Experiment.from_table(MINIMAL | {key: value})
    named = [] if key == "rule" and isinstance(value, str) else [key]
    assert_one_line(caught.value, named + words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mean": [0.1, 0.2], "std": [1.0, 1.0, 1.0]}, ["mean and std", "channel", "2 and 3"]),
        ({"time_steps": 1}, ["desired_train", "time_steps = 1", "default"]),
        ({"loss": "count"}, ["'desired_count'", "loss = 'count'"]),
        ({"loss": "count", "desired_count": 4}, ["'undesired_count'", "loss = 'count'"]),
        (
            {"loss": "count", "desired_count": 1, "undesired_count": 4},
            ["desired_count must be above undesired_count", "1.0 and 4.0"],
        ),
        ({"learning_rat": 0.1}, ["unknown key 'learning_rat'", "did you mean 'learning_rate'?"]),
        ({"Epochs": 3}, ["unknown key 'Epochs'", "did you mean 'epochs'?"]),
        ({"rule": {"name": "TSSLBP", "warmup": 1}}, ["'warmup'", "did you mean 'warm_up'?"]),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        Experiment.from_table(MINIMAL | changes)
    assert_one_line(caught.value, words)


@pytest.mark.parametrize("key", MINIMAL)
def test_a_missing_key_is_named(key: str) -> None:
    table = {name: value for name, value in MINIMAL.items() if name != key}
    with pytest.raises(InvalidInput, match=f"missing key '{key}'"):
        Experiment.from_table(table)


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": [0.4914, 0.4822, 0.4465], "std": [0.25]},
        {"time_steps": 1, "loss": "softmax"},
        {"time_steps": 1, "desired_train": [1]},
        {"time_steps": 2},
        {"desired_train": [0, 0, 0], "loss": "softmax"},
        {"loss": "count", "desired_count": 4, "undesired_count": 0},
        {"tau_m": 1, "tau_s": 1, "dropout": 0, "weight_decay": 0, "betas": [0, 0]},
    ],
)
def test_limits_are_allowed(changes: dict[str, Any]) -> None:
    assert Experiment.from_table(Experiment.from_table(MINIMAL | changes).to_table())


POSITIVE = st.floats(min_value=1e-6, max_value=1e6)
TEXTS = st.text(string.printable.replace("\r", ""), max_size=30) | st.text("äλ\"'\\ \n", max_size=9)
EXPERIMENTS = st.builds(
    Experiment,
    data=st.sampled_from(["mnist", "digits"]),
    network=TEXTS.filter(lambda text: text.strip() != ""),
    description=TEXTS,
    mean=st.lists(st.floats(-10, 10), min_size=3, max_size=3).map(tuple),
    std=POSITIVE.map(lambda std: (std,)),
    padding=st.integers(0, 3) | st.lists(st.integers(0, 3), min_size=1).map(tuple),
    time_steps=st.integers(2, 100),
    weight_scale=POSITIVE | st.fixed_dictionaries({"conv": POSITIVE, "linear": POSITIVE}),
    crop_padding=st.integers(0, 9),
    horizontal_flip=st.booleans(),
    neunorm=st.booleans(),
    dropout=st.floats(0, 1, exclude_max=True),
    dropout_kind=st.sampled_from(["rows", "neurons"]),
    rule=st.builds(TSSLBP, warm_up=st.sampled_from(["neuron", "always"]), warm_up_psp=POSITIVE),
    desired_train=st.none() | st.lists(st.integers(0, 1)).map(lambda train: (1, *train)),
    learning_rate=POSITIVE,
    patience=st.none() | st.integers(1, 100),
    seed=st.integers(0, 2**63 - 1),
)


@given(EXPERIMENTS)
def test_an_experiment_survives_its_table(experiment: Experiment) -> None:
    assert Experiment.from_table(experiment.to_table()) == experiment


@given(EXPERIMENTS)
def test_an_experiment_survives_its_file(
    tmp_path_factory: pytest.TempPathFactory, experiment: Experiment
) -> None:
    path = tmp_path_factory.mktemp("recipe") / "config.toml"
    save(experiment, path)
    assert load_recipe(path) == experiment


def test_what_is_not_set_is_not_in_the_table() -> None:
    table = Experiment.from_table(MINIMAL).to_table()
    assert not {"patience", "desired_train", "desired_count", "undesired_count"} & set(table)
    assert table["mean"] == [0.0]
    assert table["rule"]["name"] == "TSSLBP"


class TestLoadRecipe:
    def write(self, folder: Path, text: str) -> Path:
        path = folder / "mine.toml"
        path.write_text(text, encoding="utf-8")
        return path

    def test_a_file_of_the_users_own(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, 'data = "mnist"\nnetwork = "300"\n[rule]\nname = "TSSLBP"\n')
        assert load_recipe(path) == Experiment.from_table(MINIMAL)
        assert load_recipe(str(path)) == Experiment.from_table(MINIMAL)

    def test_a_file_with_a_byte_order_mark(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, '\ufeffdata = "mnist"\nnetwork = "300"\n')
        assert load_recipe(path) == Experiment.from_table(MINIMAL)

    def test_the_users_images_lie_beside_the_recipe(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, 'data = "mine.npz"\nnetwork = "300"\n')
        assert load_recipe(path).data == str(tmp_path / "mine.npz")

    def test_an_absolute_path_stays(self, tmp_path: Path) -> None:
        elsewhere = tmp_path / "elsewhere" / "mine.npz"
        path = self.write(tmp_path, f"data = '{elsewhere}'\nnetwork = '300'\n")
        assert load_recipe(path).data == str(elsewhere)

    def test_a_saved_recipe_still_finds_the_images(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "run").mkdir()
        save(Experiment(data="mine.npz", network="300"), Path("run/config.toml"))
        assert load_recipe("run/config.toml").data == str(tmp_path / "mine.npz")

    def test_an_unknown_recipe(self) -> None:
        with pytest.raises(InvalidInput) as caught:
            load_recipe("mnits")
        assert_one_line(caught.value, ["'mnits'", "did you mean 'mnist'?", "digits", ".toml"])

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput) as caught:
            load_recipe(tmp_path / "none.toml")
        assert_one_line(caught.value, ["none.toml", "No such file"])

    def test_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "folder.toml").mkdir()
        with pytest.raises(InvalidInput) as caught:
            load_recipe(tmp_path / "folder.toml")
        assert_one_line(caught.value, ["folder.toml", "cannot read"])

    def test_a_file_that_is_no_text(self, tmp_path: Path) -> None:
        (tmp_path / "mine.toml").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(InvalidInput) as caught:
            load_recipe(tmp_path / "mine.toml")
        assert_one_line(caught.value, ["mine.toml", "UTF-8"])

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ('data = "mnist"\nnetwork = 15C5-P2\n', "line 2"),
            ('data = "mnist"\nnetwork\n', "line 2"),
            ('data = "mnist"\ndata = "mnist"\n', "line 2"),
            ('data = "mnist"\n\nmean = [0.1', "line 3"),
        ],
    )
    def test_a_syntax_error(self, tmp_path: Path, text: str, line: str) -> None:
        path = self.write(tmp_path, text)
        with pytest.raises(InvalidInput) as caught:
            load_recipe(path)
        assert_one_line(caught.value, [str(path), "not valid TOML", line])

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ('data = "mnist"\n', ["missing key 'network'"]),
            ('data = "mnist"\nnetwork = "300"\nepochs = 0\n', ["epochs", "got 0"]),
            ('data = "mnist"\nnetwrk = "300"\n', ["'netwrk'", "did you mean 'network'?"]),
        ],
    )
    def test_an_error_in_a_file_names_it(self, tmp_path: Path, text: str, words: list[str]) -> None:
        path = self.write(tmp_path, text)
        with pytest.raises(InvalidInput) as caught:
            load_recipe(path)
        assert_one_line(caught.value, [str(path), *words])


class TestWithSettings:
    base = Experiment.from_table(MINIMAL)

    @pytest.mark.parametrize(
        ("setting", "key", "value"),
        [
            ("epochs=5", "epochs", 5),
            ("epochs = 5", "epochs", 5),
            ("learning_rate=1e-3", "learning_rate", 0.001),
            ("loss=softmax", "loss", "softmax"),
            ('loss="softmax"', "loss", "softmax"),
            ("mean=[0.1, 0.2]", "mean", (0.1, 0.2)),
            ("padding=2", "padding", 2),
            ("crop_padding=4", "crop_padding", 4),
            ("horizontal_flip=true", "horizontal_flip", True),
            ("dropout_kind=neurons", "dropout_kind", "neurons"),
            ("desired_train=[0, 1, 0, 1, 1]", "desired_train", (0, 1, 0, 1, 1)),
            ("network=15C5-P2-300", "network", "15C5-P2-300"),
            ("network=400", "network", "400"),
            ("description=a = b", "description", "a = b"),
            ("description=true", "description", "true"),
            ("weight_scale=2", "weight_scale", 2.0),
            ("weight_scale={conv=5, linear=2}", "weight_scale", {"conv": 5.0, "linear": 2.0}),
            ("weight_scale.conv=5", "weight_scale", {"conv": 5.0, "linear": 1.0}),
            ("rule=TSSLBP.published", "rule", TSSLBP.published()),
            ("rule.warm_up=always", "rule", TSSLBP(warm_up="always")),
            ("rule.timing_max=4", "rule", TSSLBP(timing_max=4.0)),
            ("rule.name=SLAYER", "rule", SLAYER()),
        ],
    )
    def test_a_setting(self, setting: str, key: str, value: Any) -> None:
        assert with_settings(self.base, [setting]) == replace(self.base, **{key: value})

    def test_several_settings_apply_in_order(self) -> None:
        changed = with_settings(
            self.base,
            [
                *("loss=count", "desired_count=4", "undesired_count=1", "epochs=3", "epochs=4"),
                *("rule=TSSLBP.published", "rule.rate_threshold=0.05"),
                *("weight_scale.conv=5", "weight_scale.linear=2"),
            ],
        )
        assert changed == replace(
            self.base,
            loss="count",
            desired_count=4.0,
            undesired_count=1.0,
            epochs=4,
            rule=TSSLBP.published(rate_threshold=0.05),
            weight_scale={"conv": 5.0, "linear": 2.0},
        )

    def test_a_part_of_a_rule_that_was_given_as_text(self) -> None:
        changed = with_settings(self.base, ["rule=SLAYER(height=2)", "rule.width=0.5"])
        assert changed.rule == SLAYER(height=2, width=0.5)

    def test_the_users_images_lie_in_the_current_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert with_settings(self.base, ["data=mine.npz"]).data == str(tmp_path / "mine.npz")

    def test_the_experiment_itself_stays(self) -> None:
        scaled = replace(self.base, weight_scale={"conv": 5.0, "linear": 1.0})
        with_settings(scaled, ["weight_scale.conv=2", "epochs=1"])
        assert scaled == replace(self.base, weight_scale={"conv": 5.0, "linear": 1.0})

    @pytest.mark.parametrize(
        ("setting", "words"),
        [
            ("epochs", ["key=value", "'epochs'"]),
            ("epoch=5", ["unknown key 'epoch'", "did you mean 'epochs'?"]),
            ("epochs=", ["epochs", "got ''"]),
            ("epochs=0", ["epochs", "at least 1", "got 0"]),
            ("epochs.first=3", ["epochs is not a table"]),
            ("rle.warm_up=always", ["unknown key 'rle'", "did you mean 'rule'?"]),
            ("rule.warm=always", ["no field 'warm'", "did you mean 'warm_up'?"]),
            ("rule.warm_up=alwys", ["warm_up", "'alwys'", "did you mean 'always'?"]),
            ("weight_scale.cov=5", ["weight_scale", "conv and linear", "'cov'"]),
            ("mean=[0.1", ["mean", "list", "'[0.1'"]),
            ("horizontal_flip=True", ["horizontal_flip", "true or false", "got 'True'"]),
            ("desired_train=0,1", ["desired_train", "list", "'0,1'"]),
        ],
    )
    def test_a_wrong_setting_is_one_clear_line(self, setting: str, words: list[str]) -> None:
        with pytest.raises(InvalidInput) as caught:
            with_settings(self.base, [setting])
        assert_one_line(caught.value, words)
