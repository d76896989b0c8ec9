"""Random experiments and a check of messages, for the tests of this folder."""

import string

from hypothesis import strategies as st

from tsslbp.errors import InvalidInput
from tsslbp.experiment import Experiment
from tsslbp.rules import TSSLBP

MINIMAL = {"data": "mnist", "network": "300"}


def assert_one_line(error: InvalidInput, words: list[str]) -> None:
    message = str(error)
    assert "\n" not in message
    for word in words:
        assert word in message, message


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
    rule=st.builds(TSSLBP, warm_up=st.sampled_from(["neuron", "always"]), warm_up_psc=POSITIVE),
    desired_train=st.none() | st.lists(st.integers(0, 1)).map(lambda train: (1, *train)),
    learning_rate=POSITIVE,
    warm_up_epochs=st.floats(0, 9),
    average_weights=st.none() | st.floats(0, 1, exclude_max=True),
    rotate=st.floats(0, 180),
    patience=st.none() | st.integers(1, 100),
    seed=st.integers(0, 2**63 - 1),
)
