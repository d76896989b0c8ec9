"""Every implementation compared with recordings of the original code."""

from pathlib import Path

import numpy as np
import pytest
import torch

import tsslbp
from tsslbp import losses

REVISED = [f"neuron_{i}.npz" for i in range(6)]
PUBLISHED = [f"neuron_2020-09_{i}.npz" for i in range(4)]
NETWORKS = ["count_T30", "kernel_T10", "kernel_T5", "mlp_T5", "softmax_T5"]

GOLDEN = Path(__file__).parents[1] / "golden"
DEVICE = "cpu"  # of the inputs; conftest.py changes it to that of the implementation

# Relative to the largest magnitude. In float64, a few dozen rounding errors, and a margin; in
# float32 the same, and a gradient may be a sum whose parts cancel.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def assert_close(actual: torch.Tensor, expected: np.ndarray, tolerance: float) -> None:
    error = np.abs(actual.detach().cpu().numpy() - expected).max()
    assert error <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", REVISED + PUBLISHED)
def test_neuron(name: str, dtype: torch.dtype, impl: str) -> None:
    data = np.load(GOLDEN / name)
    rule = tsslbp.TSSLBP() if name in REVISED else tsslbp.TSSLBP.published()
    settings = {
        "tau_m": float(data["tau_m"]),
        "tau_s": float(data["tau_s"]),
        "threshold": float(data["threshold"]),
        "rule": rule,
        "impl": impl,
    }
    current = torch.tensor(data["current"], dtype=dtype, device=DEVICE, requires_grad=True)
    psc = tsslbp.lif(current, **settings)
    psc.backward(torch.tensor(data["grad_psp"], dtype=dtype, device=DEVICE))
    spikes = tsslbp.spikes(current, **settings)
    assert torch.equal(spikes.cpu(), torch.tensor(data["spikes"], dtype=dtype))
    assert_close(psc, data["psp"], TOLERANCE[dtype])
    assert current.grad is not None
    assert_close(current.grad, data["grad_current"], TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("name", ["na_0.npz", "na_1.npz"])
def test_neighbourhood_aggregation(
    name: str, normalise: bool, dtype: torch.dtype, impl: str
) -> None:
    data = np.load(GOLDEN / name)
    constants = {key: float(data[key]) for key in ("tau_m", "tau_s", "threshold")}
    current = torch.tensor(data["current"], dtype=dtype, device=DEVICE, requires_grad=True)
    psc = tsslbp.lif(current, **constants, rule=tsslbp.NA(normalise), impl=impl)
    psc.backward(torch.tensor(data["grad_psp"], dtype=dtype, device=DEVICE))
    assert_close(psc, data["psp"], TOLERANCE[dtype])
    assert current.grad is not None
    kind = "normalised" if normalise else "raw"
    assert_close(current.grad, data[f"grad_current_{kind}"], TOLERANCE[dtype])


@pytest.mark.parametrize("name", NETWORKS)
def test_network(name: str, impl: str) -> None:
    """A network reproduces the recorded outputs, gradients and three optimisation steps."""
    data = np.load(GOLDEN / f"network_{name}.npz")
    images, labels = (torch.tensor(data[name]).to(DEVICE) for name in ("images", "labels"))
    images, labels = images.double(), labels.long()
    tau_s, time_steps = float(data["tau_s"]), int(data["T"])
    net = tsslbp.Network(
        str(data["spec"]),
        tuple(images.shape[-3:]),
        time_steps=time_steps,
        neuron=tsslbp.Neuron(float(data["tau_m"]), tau_s),
        impl=impl,
    )
    net.to(DEVICE, torch.float64)
    weights = list(net.parameters())
    with torch.no_grad():
        for index, weight in enumerate(weights):
            weight.copy_(torch.tensor(data[f"weight_{index}"]))
    optimizer = torch.optim.AdamW(weights, lr=float(data["lr"]))
    for step in range(3):
        psc = net(images)
        loss = {
            "kernel": lambda psc: losses.van_rossum(psc, labels, tau_s=tau_s),
            "count": lambda psc: losses.count(
                psc,
                labels,
                desired=float(data["desired_count"]),
                undesired=float(data["undesired_count"]),
            ),
            "softmax": lambda psc: losses.softmax(psc, labels),
        }[str(data["loss_name"])](psc)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            assert_close(psc, data["psp_out"], 1e-8)
            for index, weight in enumerate(weights):
                assert_close(weight.grad, data[f"grad_{index}"], 1e-8)
        assert loss.item() == pytest.approx(data["losses"][step], rel=1e-8)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        with torch.no_grad():
            for weight in weights:
                weight.clamp_(-4, 4)
    for index, weight in enumerate(weights):
        assert_close(weight, data[f"weight_after_{index}"], 1e-8)
