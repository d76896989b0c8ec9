"""Typical mistakes of users, and the messages of the program and the library."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tsslbp
from tsslbp.cli import COMMANDS, SYNONYMS
from tsslbp.errors import InvalidInput
from tsslbp.experiment import Experiment, load_recipe, with_settings
from tsslbp.layers import LIF
from tsslbp.network import network as networks

from .conftest import Program, arrays

pytestmark = pytest.mark.usefixtures("folder")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lr=0.1", "'learning_rate'"),
        ("batch=5", "'batch_size'"),
        ("bs=5", "'batch_size'"),
        ("wd=0", "'weight_decay'"),
        ("optim=sgd", "'optimizer'"),
        ("tau=2", "'tau_m' or 'tau_s'"),
        ("T=5", "'time_steps'"),
        ("steps=5", "'time_steps'"),
        ("cross_entropy=true", "'loss'"),
        ("adam=true", "'optimizer'"),
        ("loss=cross_entropy", "'softmax'"),
        ("optimizer=adam", "'adamw'"),
    ],
)
def test_settings(typed: str, meant: str, refused: Callable[..., str]) -> None:
    error = refused("train", "digits", "--set", typed)
    assert f"(did you mean {meant}?)" in error


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("train digits --lr 0.1", "No such option: --lr; --set learning_rate=0.001 changes"),
        ("train digits --gpu", "No such option: --gpu; --device cuda trains on a GPU"),
        (
            "compare digits --rules NA --format pdf",
            "No such option: --format; tsslbp report FOLDER --format pdf also writes the figures",
        ),
        ("train digits --seeds 5", "--seeds; tsslbp trials RECIPE --seeds 5 trains with several"),
        ("train digits -o runs/x", "No such option: -o; --out PATH sets where the results go"),
        ("train digits --out", "Option '--out' requires an argument; see tsslbp train --help"),
        ("plot runs/x", "No such command 'plot': use tsslbp draw"),
        ("download mnist", "No such command 'download': use tsslbp data fetch"),
        ("eval runs/x", "No such command 'eval': use tsslbp evaluate"),
        ("frobnicate", "No such command 'frobnicate'; see tsslbp --help"),
        ("train digits --device gpu", "device must be 'cpu', 'cuda' or 'cuda:N', got 'gpu'"),
        ("train digits --epochs five", "'--epochs': 'five' is not a whole number; see tsslbp"),
        ("train digits --set std=0", "std must be a number above 0, or a list (not empty) of"),
        ("train digits --bogus", "; see tsslbp train --help"),
        ("sweep mnist --space published --epochs 3", "the space published searches epochs"),
    ],
)
def test_options(typed: str, words: str, refused: Callable[..., str]) -> None:
    assert words in refused(*typed.split())


def test_a_recipe_without_its_ending(refused: Callable[..., str]) -> None:
    Path("digits-mine.toml").write_text("")
    hint = "unknown recipe 'digits-mine'; for your own file, give digits-mine.toml"
    assert hint in refused("train", "digits-mine")


def test_every_hint_names_what_there_is(program: Program) -> None:
    for command in set(SYNONYMS.values()):
        assert program(*command.split(), "--help")[0] == 0
    assert not set(SYNONYMS) & {function.__name__ for function in COMMANDS}


def test_a_number_is_a_list_of_one() -> None:
    assert with_settings(load_recipe("digits"), ["mean=0.13"]).mean == (0.13,)
    assert Experiment("mnist", "300", mean=0.5, std=1).std == (1.0,)


def test_another_network_takes_its_padding_along(program: Program) -> None:
    """Settings of convolutions are left out for a network without any, and the program says so."""
    code, _, error = program("train", "digits", "--set", "network=64", "--epochs", "1")
    assert code == 0
    assert error == "padding = 1 belongs to the recipe's network and is left out\n"
    recipe = load_recipe("digits")
    assert with_settings(recipe, ["network=64", "padding=0"]).padding == 0
    assert recipe.padding == (1, 1)
    assert with_settings(recipe, ["network=8C3-64"]).padding == 1
    neunorm = with_settings(recipe, ["neunorm=true"])
    assert not with_settings(neunorm, ["network=64"]).neunorm
    assert with_settings(recipe, ["network=64", "padding=1"]).padding == 1  # and is refused later
    two = with_settings(recipe, ["network=8C3-8C3-64", "padding=[1, 0]"])
    assert with_settings(two, ["network=8C3-64"]).padding == 0
    assert with_settings(two, ["network=4C3-4C3-64"]).padding == (1, 0)


def test_the_output_layer_is_implied(program: Program) -> None:
    note = (
        "note        the 10 at the end of 16-10 is a hidden layer: the output layer of 10 classes"
    )
    train = ("train", "digits", "--set", "network=16-10", "--epochs", "1")
    assert note in program(*train)[1]
    assert note in program("info", "16-10")[1]
    assert "added automatically" not in program("info", "16-20")[1]


def test_uint8_images() -> None:
    """The message contains the recipe's mean and standard deviation if they are known."""
    net = tsslbp.training.build_network(load_recipe("mnist"), (1, 28, 28), 10)
    images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    with pytest.raises(InvalidInput, match=r"tsslbp\.data\.normalise\(x, 0\.1307, 0\.3081\)"):
        net(images)
    plain = tsslbp.Network("30", (1, 28, 28))
    with pytest.raises(InvalidInput, match=r"normalise\(x, mean, std\) with the recipe's mean and"):
        plain(images)
    colours = tsslbp.training.build_network(load_recipe("cifar10-cnn1"), (3, 32, 32), 10)
    with pytest.raises(InvalidInput, match=r"normalise\(x, \[0\.\d+, 0\.\d+, 0\.\d+\], \["):
        colours(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 8, 8), "make a batch of a single image with x[None]"),
        ((7, 64), "turn rows of pixels into images with x.reshape(-1, 1, 8, 8)"),
        ((9, 5, 1, 8, 8), "which looks like [N, T, ...]: put time first with x.transpose(0, 1)"),
        ((9, 3, 8, 8), "expected images [N, 1, 8, 8] or spike trains [5, N, 1, 8, 8], got shape"),
    ],
)
def test_shapes(shape: tuple[int, ...], words: str) -> None:
    net = tsslbp.Network("8", (1, 8, 8))
    with pytest.raises(InvalidInput) as raised:
        net(torch.zeros(shape))
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_recordings_whose_axes_are_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """If N equals T, swapped axes give one warning, and recordings with time first give none."""
    monkeypatch.setattr(networks, "_told_of_swapped", [])
    net = tsslbp.Network("8", (2, 8, 8), time_steps=5)
    places = torch.rand(5, 1, 2, 8, 8) < 0.2  # each recording has pixels of its own
    recordings = (places & (torch.rand(5, 5, 2, 8, 8) < 0.8)).float()  # [N, T, ...]
    net(recordings.transpose(0, 1))
    with pytest.warns(
        UserWarning, match=r"is interpreted as \[T, N, \.\.\.\] but looks like \[N, T"
    ):
        net(recordings)
    net(recordings)  # no second warning
    monkeypatch.setattr(networks, "_told_of_swapped", [])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net((torch.rand(5, 5, 2, 8, 8) < 0.2).float())
        net(torch.rand(5, 5, 2, 8, 8))
        net(torch.zeros(5, 5, 2, 8, 8))


@pytest.mark.parametrize("shape", [784, (28, 28), (1, 28, 28, 1), "1x28x28", (1, 0, 3)])
def test_input_shape(shape: object) -> None:
    with pytest.raises(InvalidInput, match=r"input_shape must be \(C, H, W\)"):
        tsslbp.Network("300", input_shape=shape)  # type: ignore[arg-type]


def test_input_shape_of_a_row() -> None:
    with pytest.raises(InvalidInput, match=r"such as \(1, 1, 784\), got 784"):
        tsslbp.Network("300", input_shape=784)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (torch.zeros(5, 10), "takes a network's output [T, N, classes], got shape [5, 10]"),
        (torch.zeros(5, 1, 8, 8), "seem to be images: predict(net(images))"),
        ([1, 2], "got list"),
    ],
)
def test_predict(output: object, words: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        tsslbp.predict(output)  # type: ignore[arg-type]
    assert words in str(raised.value)


def test_a_rule_by_its_name() -> None:
    """Python accepts the names and settings of rules that recipes accept."""
    current = torch.rand(3, 4)
    assert torch.equal(
        tsslbp.spikes(current, rule="SLAYER"),  # type: ignore[arg-type]
        tsslbp.spikes(current, rule=tsslbp.SLAYER()),
    )
    net = tsslbp.Network("8", (1, 4, 4), rule="TSSLBP(warm_up=always)")  # type: ignore[arg-type]
    assert net.spiking_layers[0].neurons.rule == tsslbp.TSSLBP(warm_up="always")
    assert LIF(rule="SLAYER").start.rule == tsslbp.SLAYER()  # type: ignore[arg-type]
    with pytest.raises(
        InvalidInput, match=r"unknown learning rule 'SLAYR' \(did you mean 'SLAYER'"
    ):
        tsslbp.spikes(current, rule="SLAYR")  # type: ignore[arg-type]


def test_data_to_be_got_by_hand_are_no_error(program: Program) -> None:
    code, output, error = program("data", "fetch", "dvs-gesture", "--data-dir", ".")
    assert (code, error) == (0, "")
    assert "dvs-gesture must be downloaded manually: put it into a folder DIR" in output


def test_plurals(program: Program, jobs_here: None) -> None:
    trials = ("trials", "mine.toml", "--seeds", "1", "--epochs", "1", "--workers", "2")
    output = program(*trials)[1]
    assert "1 run, 0 of them finished; 2 at a time, 1 thread each" in output


def test_help_is_not_cut(program: Program) -> None:
    commands = program("--help")[1].split("Commands:")[1].splitlines()
    assert not [line for line in commands if line.rstrip().endswith("...")]


def test_class_names_of_a_file(program: Program) -> None:
    """The class names in a file are used wherever classes are shown."""
    np.savez("mine.npz", **arrays(), class_names=["left", "right"])
    assert "left" in program("data", "show", "mine.npz", "0")[1]
    data = tsslbp.data.load("mine.npz")
    assert data.class_names == tsslbp.data.class_names("mine.npz") == ("left", "right")
    assert tsslbp.data.class_names("gone.npz") == ()
    figure = tsslbp.figures.run.raster({"output": np.ones((3, 2))}, data.class_names)
    assert {"left", "right"} <= {text.get_text() for text in figure.axes[0].texts}
    np.savez("few.npz", **arrays(), class_names=["left"])
    with pytest.raises(tsslbp.data.npz.DataError, match="holds 1 names, but labels go up to 1"):
        tsslbp.data.load("few.npz")
    np.savez("odd.npz", **arrays(), class_names=[1, 2])
    with pytest.raises(tsslbp.data.npz.DataError, match="'class_names' must be"):
        tsslbp.data.load("odd.npz")


def test_class_names_of_the_catalogue() -> None:
    entries = tsslbp.data.catalogue.entries()
    named = {name: one for name, one in entries.items() if one.class_names}
    assert {"fashion-mnist", "cifar10", "cifar10-dvs", "dvs-gesture"} <= named.keys()
    assert all(len(set(one.class_names)) == one.classes for one in named.values())


@pytest.mark.parametrize(
    "call",
    [
        lambda x: tsslbp.spikes(x),
        lambda x: tsslbp.lif(x),
        lambda x: tsslbp.psc(x),
        lambda x: tsslbp.predict(x),
        lambda x: tsslbp.losses.van_rossum(x, torch.zeros(2, dtype=torch.int64)),
        lambda x: tsslbp.losses.tet(x, torch.zeros(2, dtype=torch.int64)),
        lambda x: tsslbp.data.normalise(x, 0, 1),
        lambda x: tsslbp.Network("6", (1, 8, 8), classes=10, time_steps=3)(x),
        lambda x: tsslbp.Network("6", (1, 8, 8), classes=10, time_steps=3).trace(x),
        lambda x: tsslbp.layers.Conv(1, 2, 3)(x),
        lambda x: tsslbp.layers.Linear(8, 2)(x),
        lambda x: tsslbp.layers.BatchNorm(1)(x),
        lambda x: tsslbp.layers.MaxPool(2)(x),
        lambda x: tsslbp.layers.Residual(LIF())(x),
        lambda x: LIF()(x),
    ],
)
@pytest.mark.parametrize("of", [np.asarray, np.ndarray.tolist])
def test_something_else_in_the_place_of_a_tensor(call: Any, of: Any) -> None:
    with pytest.raises(InvalidInput, match=r"got (ndarray|list)"):
        call(of(np.zeros((3, 2, 1, 8, 8), dtype=np.float32)))


def test_a_kernel_that_is_larger_than_its_input() -> None:
    with pytest.raises(InvalidInput, match=r"spans 9 x 9 values and does not fit into 8 x 8 with"):
        tsslbp.layers.Conv(1, 2, 5, dilation=2)(torch.zeros(3, 2, 1, 8, 8))
    assert tsslbp.layers.Conv(1, 2, 9, padding=1)(torch.zeros(3, 2, 1, 8, 8)).shape[-1] == 2


def test_learnable_that_names_nothing() -> None:
    with pytest.raises(InvalidInput, match=r"learnable must contain names among tau_m.*got True"):
        LIF(learnable=True)  # type: ignore[arg-type]


def test_fit_of_a_described_network() -> None:
    net = tsslbp.Network("6", (1, 8, 8), classes=10, time_steps=3)
    with pytest.raises(
        InvalidInput, match=r"not a tsslbp\.Network: write network = '6' into a rec"
    ):
        tsslbp.fit(net, "digits")


def test_figures_of_nothing_and_of_an_unknown_format(tmp_path: Path) -> None:
    run, svg = tsslbp.figures.run, tsslbp.figures.svg
    figure = run.raster({"conv1": torch.ones(3, 4)})
    with pytest.raises(
        InvalidInput, match=r"must end in one of \.svg, \.pdf, \.png, got .*x\.jpg'"
    ):
        svg.save(figure, tmp_path / "x.jpg")
    with pytest.raises(InvalidInput, match="by the name of their layer, got no layer"):
        run.raster({})
    with pytest.raises(InvalidInput, match="by the name of their layer, got Tensor"):
        run.raster(torch.ones(3, 4))  # type: ignore[arg-type]
