"""Learning order under large and small initial learning rates (Li, Wei and Ma 2019), in JAX."""

__version__ = "0.1.0"
