"""Estimates of what a training will need, measured on a few of its steps."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from ..data import DataSet, normalise
from ..experiment import Experiment
from .build import Split, build_for, build_loss, build_optimizer, splits
from .step import evaluate, train_step

MEASURED_STEPS, MEASURED_SECONDS = 5, 10.0  # at most, for an estimate
MEASURED_IMAGES = 200  # for the evaluation
STEP_BYTES, EPOCH_BYTES = 40, 1000


def estimate(
    experiment: Experiment,
    data: DataSet,
    threads: int,
    device: str = "cpu",
    *,
    trust_code: bool = False,
) -> float:
    """Estimate the seconds that one run will take on this machine, from a few training steps.

    The estimate is rough: trained networks have other firing rates than fresh ones, and processes
    that run at the same time share the memory bandwidth. `trust_code` is as for `build_network`.
    """
    train, validation, test = splits(experiment, data)
    net = build_for(experiment, data, trust_code=trust_code).to(device)
    optimizer = build_optimizer(experiment, net)
    images, labels = train.images[: experiment.batch_size], train.labels[: experiment.batch_size]
    batch = normalise(images, experiment.mean, experiment.std).to(device), labels.to(device)
    few = Split(test.images[:MEASURED_IMAGES], test.labels[:MEASURED_IMAGES]).to(device)
    loss = build_loss(experiment)
    before, times = torch.get_num_threads(), list[float]()
    torch.set_num_threads(threads)
    try:
        train_step(net, optimizer, loss, *batch)  # the first step compiles kernels
        while len(times) < MEASURED_STEPS and sum(times) < MEASURED_SECONDS:
            times.append(_seconds(lambda: train_step(net, optimizer, loss, *batch)))
        evaluation = _seconds(lambda: evaluate(net, few, experiment.mean, experiment.std))
    finally:
        torch.set_num_threads(before)
    steps = -(-len(train.labels) // experiment.batch_size)
    tested = len(test.labels) + (len(validation.labels) if validation else 0)
    evaluations = tested * evaluation / len(few.labels)
    evaluations *= 1 if experiment.average_weights is None else 2
    return experiment.epochs * (steps * statistics.median(times) + evaluations)


def disk(experiment: Experiment, data: DataSet) -> int:
    """Estimate the bytes that one run folder will take with its checkpoints and records.

    The checkpoint ``last`` holds weights, the optimiser's moments and averaged weights; the other
    checkpoints hold weights. A step takes `STEP_BYTES`, an epoch's record `EPOCH_BYTES`.
    """
    net = build_for(experiment, data, trust_code=True)
    weights = sum(4 * int(one.numel()) for one in net.state_dict().values())
    moments = 1 if experiment.optimizer == "sgd" else 2
    averaged = 0 if experiment.average_weights is None else 2
    chosen = 2 if experiment.protocol == "validated" else 1  # best-test, best-validation
    train, _, _ = splits(experiment, data)
    steps = experiment.epochs * -(-len(train.labels) // experiment.batch_size)
    records = experiment.epochs * EPOCH_BYTES + 2 * steps * STEP_BYTES
    return (1 + moments + averaged + chosen) * weights + records


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
