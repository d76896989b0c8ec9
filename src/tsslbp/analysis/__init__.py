"""What a trained network does: confusions, gradients beside the truth, conversion from ReLU."""
