"""Training: what is built from an experiment, steps, the loop over epochs, and checkpoints."""

from .build import (
    Split,
    build_loss,
    build_network,
    build_optimizer,
    check_data,
    load_data,
    loss_per_image,
    splits,
)
from .checkpoint import Progress, default_checkpoint, load, load_weights
from .loop import Observer, Steps, Training, fit
from .step import batch_images, evaluate, evaluation_batches, keep_freed_memory, train_step

__all__ = [
    "Observer",
    "Progress",
    "Split",
    "Steps",
    "Training",
    "batch_images",
    "build_loss",
    "build_network",
    "build_optimizer",
    "check_data",
    "default_checkpoint",
    "evaluate",
    "evaluation_batches",
    "fit",
    "keep_freed_memory",
    "load",
    "load_data",
    "load_weights",
    "loss_per_image",
    "splits",
    "train_step",
]
