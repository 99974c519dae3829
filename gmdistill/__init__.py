"""Gradient-matching dataset distillation of text in JAX."""

__version__ = "0.1.0"
