"""Networks: initial weights and forward passes, without loss, data or training."""
