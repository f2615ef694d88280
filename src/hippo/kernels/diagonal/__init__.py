"""Diagonal linear recurrences x_t = a_t ⊙ x_{t−1} + b_t, real or complex."""

from hippo.kernels.diagonal.naive import scan

__all__ = ["scan"]
