"""Tests of recipes: their files, and the settings given on the command line."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from tsslbp.errors import InvalidInput
from tsslbp.experiment import Experiment, load_recipe, save, with_settings
from tsslbp.rules import SLAYER, TSSLBP

from .experiments import EXPERIMENTS, MINIMAL, assert_one_line


@given(EXPERIMENTS)
def test_an_experiment_survives_its_file(
    tmp_path_factory: pytest.TempPathFactory, experiment: Experiment
) -> None:
    path = tmp_path_factory.mktemp("recipe") / "config.toml"
    save(experiment, path)
    assert load_recipe(path) == experiment


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

    def test_a_link_to_images_has_its_own_name(self, tmp_path: Path) -> None:
        """A link is followed only if its target has the suffix too, which says what a file is."""
        (tmp_path / "store").mkdir()
        for name, target in (("mine", "store/1f3a"), ("second", "store/a.npz")):
            (tmp_path / f"{name}.npz").symlink_to(tmp_path / target)
            path = self.write(tmp_path, f'data = "{name}.npz"\nnetwork = "300"\n')
            expected = target if target.endswith(".npz") else f"{name}.npz"
            assert load_recipe(path).data == str(tmp_path / expected)

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

    def test_a_folder_of_images_starts_from_the_recipe(self, tmp_path: Path) -> None:
        for name in ("flowers/", "./flowers", "below/flowers"):
            path = self.write(tmp_path, f'data = "{name}"\nnetwork = "300"\n')
            assert load_recipe(path).data == str((tmp_path / name).resolve())
        path = self.write(tmp_path, 'data = "flowers"\nnetwork = "300"\n')
        assert load_recipe(path).data == "flowers"  # a folder may have the name of a set
        (tmp_path / "flowers").mkdir()
        with pytest.raises(InvalidInput) as caught:
            load_recipe(f"{tmp_path}/flowers/")
        words = ["contains data and is not a recipe", 'data = "flowers/"']
        assert_one_line(caught.value, words)

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
        assert with_settings(self.base, ["data=mine/"]).data == str(tmp_path / "mine")

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
            ("rule.warm=always", ["unknown key 'warm'", "did you mean 'warm_up'?"]),
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
