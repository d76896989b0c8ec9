"""Training: what is built from an experiment, steps, the loop over epochs, and checkpoints."""

from .build import Split as Split
from .build import build_loss as build_loss
from .build import build_network as build_network
from .build import build_optimizer as build_optimizer
from .build import check_data as check_data
from .build import load_data as load_data
from .build import splits as splits
from .checkpoint import Progress as Progress
from .checkpoint import default_checkpoint as default_checkpoint
from .checkpoint import load as load
from .checkpoint import load_weights as load_weights
from .loop import Observer as Observer
from .loop import Training as Training
from .loop import fit as fit
from .step import evaluate as evaluate
from .step import evaluation_batches as evaluation_batches
from .step import keep_freed_memory as keep_freed_memory
from .step import train_step as train_step
