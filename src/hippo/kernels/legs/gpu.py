"""The LegS step of `hippo.kernels.legs.naive.legs_step` and its adjoint as scans over the orders, for GPUs, by Triton.

Like `hippo.kernels.legs.cpu.Sweep` for the CPU: each sample may have a step of its own, and nothing is kept for the
gradient. Coefficients are (N, B) with any strides; threads read memory best where those of a sample are contiguous.
"""

import functools
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from hippo.kernels.legs.cpu import Sweeps


class Scan(NamedTuple):
    """One LegS step, as an operator of `hippo.kernels.gated`.

    Attributes:
        order: Number of coefficients N.
        step: Relative steps dt/t (B,), float32 or float64. A step of 0 leaves the coefficients exactly as they are.
        alpha: Weight of the implicit side.
    """

    order: int
    step: Tensor
    alpha: float

    @property
    def packed(self) -> bool:
        return False

    @property
    def width(self) -> int:
        return 1

    def forward(self, c: Tensor, entering: Tensor, target: Tensor) -> None:
        """Write the next coefficients (N, B) to `target`; the last row of `entering` is u."""
        self._check(c, entering, target)
        _fused().advance(c, self.step, entering[-1], self.alpha, target)

    def backward(self, grad: Tensor, entering: Tensor, target: Tensor) -> None:
        """Write the gradient of c to `target`, from that of the next coefficients, and that of u to the last row."""
        self._check(grad, entering, target)
        _fused().retreat(grad, self.step, entering[-1], self.alpha, target)

    def _check(self, given: Tensor, entering: Tensor, target: Tensor) -> None:
        arrays, batch = (given, target, self.step, entering[-1]), (given.shape[-1],)
        shapes = ((self.order, *batch), (self.order, *batch), batch, batch)
        if not all(
            array.shape == shape and (array.dtype, array.device) == (given.dtype, given.device)
            for array, shape in zip(arrays, shapes, strict=True)
        ):
            raise ValueError("a scan needs (N, B) coefficients, (B,) steps and input, of one dtype and device")


class Scans(Sweeps):
    """The LegS steps of a sequence as scans."""

    kind = Scan


def kernels(tensor: Tensor) -> ModuleType | None:
    """Return `hippo.kernels.gated.gpu` where its kernels can be had for tensors like this one, else None."""
    plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.dtype in (torch.float32, torch.float64)
    return _working(tensor.device) if plain and tensor.is_cuda else None


@functools.cache
def _working(device: torch.device) -> ModuleType | None:
    try:
        fused = _fused()
    except Exception:  # triton is missing, or at odds with the machine it meets
        return None
    return fused if fused.works(device) else None


def _fused() -> ModuleType:
    from hippo.kernels.gated import gpu as fused  # it imports triton, which takes time that the CPU need not spend

    return fused
