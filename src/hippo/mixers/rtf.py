"""RTF, rational transfer functions (Parnichkun et al. 2024, arXiv 2405.06147)."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from hippo.kernels import convolution
from hippo.mixers.base import TimeInvariant


class RTF(TimeInvariant):
    """For each feature, H(z) = h + (b_1 z⁻¹ + … + b_N z⁻ᴺ) / (1 + a_1 z⁻¹ + … + a_N z⁻ᴺ), whose kernel is one FFT.

    As in the paper, the spectrum is taken at T = `length` points, so that the kernel repeats with T: with the companion
    matrix A of a, b is C (I − Aᵀ), C the read-out, and sample 0 of the kernel is h + C Aᵀ⁻¹ e_1 rather than h. C is
    made of b where the kernel is not what is wanted: for steps, states, and sequences longer than T. The state is the
    last N values of v = u − a ∗ v, the latest first (B, H, N).

    Args:
        features: H.
        state_size: N, below `length`.
        length: T, samples of the kernel that training sees. Longer sequences are right, but slower.
        constraint: "montel" divides a by Σ|a| + |s| + 1e-6 with an s that is learnt, which keeps all poles within the
            unit circle; "none" leaves a free, as the paper does on its shorter tasks.
        initialization: "xavier" draws a and b within ±1/√N; "zeros" begins with a kernel of one sample, h.

    Raises:
        ValueError: If a size is below 1, N is not below T, or a setting is unknown.
    """

    dynamics = ("a", "b", "h", "slack")
    rate_rule = (
        "RTF has no rule for a rate: its poles would have to be found, and powers of them be made a polynomial again, "
        "which loses all digits from N = 64 on."
    )

    def __init__(
        self,
        features: int,
        state_size: int = 64,
        length: int = 1024,
        constraint: Literal["montel", "none"] = "montel",
        initialization: Literal["xavier", "zeros"] = "xavier",
    ) -> None:
        super().__init__(features)
        if not 1 <= state_size < length:
            raise ValueError(f"state_size={state_size} must be at least 1 and below length={length}")
        for name, value, known in (
            ("constraint", constraint, ("montel", "none")),
            ("initialization", initialization, ("xavier", "zeros")),
        ):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}; choose from {', '.join(known)}")
        self.state_size, self.length, self.constraint = state_size, length, constraint
        reach = 1 / math.sqrt(state_size) if initialization == "xavier" else 0.0
        self.a = nn.Parameter(torch.empty(features, state_size).uniform_(-reach, reach))
        self.b = nn.Parameter(torch.empty(features, state_size).uniform_(-reach, reach))
        self.h = nn.Parameter(torch.ones(features))
        self.slack = nn.Parameter(torch.rand(features), requires_grad=constraint == "montel")

    def denominator(self) -> Tensor:
        """Return a_1, …, a_N, (H, N), as constrained."""
        if self.constraint == "none":
            return self.a
        return self.a / (self.a.abs().sum(-1) + self.slack.abs() + 1e-6).unsqueeze(-1)

    def kernel(self, length: int, rate: float = 1.0) -> Tensor:
        self.check_rate(rate)
        if length <= self.length:
            above = torch.fft.rfft(nn.functional.pad(self.b, (1, 0)), self.length)
            below = torch.fft.rfft(nn.functional.pad(self.denominator(), (1, 0), value=1.0), self.length)
            return torch.fft.irfft(above / below + self.h.unsqueeze(-1), self.length)[:, :length]
        a, C, h = self._system()
        after = _filter(nn.functional.pad(C, (1, 0)), reciprocal(a, length))
        return torch.cat([h.unsqueeze(-1), after[:, 1:]], dim=1)

    def initial_state(self, batch: int, like: Tensor) -> Tensor:
        return like.new_zeros(batch, self.features, self.state_size)

    def forward(
        self, x: Tensor, state: Tensor | None = None, rate: float | Tensor = 1.0
    ) -> tuple[Tensor, Tensor | None]:
        self.check_rate(rate)
        if state is None:
            return convolution.convolve(x, self.kernel(x.shape[1])), None
        a, C, h = self.prepared(None)
        # v after the state's values, of which those before the first sample act on it: v = u − a ∗ v is v = (1/a) ∗ u'.
        past = state.flip(-1).mT  # in the order of time, (B, N, H)
        length, order = x.shape[1], self.state_size
        behind = nn.functional.pad(past, (0, 0, 0, length))
        taps = nn.functional.pad(a, (1, 0))[:, : order + length]
        v = convolution.convolve(x - convolution.convolve(behind, taps)[:, order:], reciprocal(a, length))
        every = torch.cat([past, v], dim=1)
        y = convolution.convolve(every, nn.functional.pad(C, (1, 0))[:, : order + length])[:, order:] + h * x
        return y, every[:, -order:].mT.flip(-1)

    def step(self, x: Tensor, state: Tensor | None = None, rate: float | Tensor = 1.0) -> tuple[Tensor, Tensor]:
        self.check_rate(rate)
        state = self.initial_state(len(x), x) if state is None else state
        a, C, h = self.prepared(None)
        y = (state * C).sum(-1) + h * x
        latest = x - (state * a).sum(-1)
        return y, torch.cat([latest.unsqueeze(-1), state[..., :-1]], dim=-1)

    def prepared(self, rate: float | None) -> tuple[Tensor, Tensor, Tensor]:
        return self.constants("system", self._system)

    def _system(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return a (H, N), C (H, N) and what goes straight to the output (H,), of b = C (I − Aᵀ)."""
        a = self.denominator()
        A = torch.diag_embed(torch.ones_like(a[:, 1:]), offset=-1)
        A = torch.cat([-a.unsqueeze(1), A[:, 1:]], dim=1)
        almost = torch.linalg.matrix_power(A, self.length - 1)
        rest = torch.eye(self.state_size, dtype=a.dtype, device=a.device) - almost @ A
        C = torch.linalg.solve(rest.mT, self.b)
        return a, C, self.h + (C * almost[..., 0]).sum(-1)


def reciprocal(a: Tensor, length: int) -> Tensor:
    """Return the first L coefficients of 1 / (1 + a_1 z⁻¹ + …), (H, L), by Newton's iteration, which doubles them."""
    below = nn.functional.pad(a, (1, 0), value=1.0)
    found = torch.ones_like(below[:, :1])
    while found.shape[1] < length:
        count = min(2 * found.shape[1], length)
        error = _filter(below[:, :count], found, count)
        error = torch.cat([2 - error[:, :1], -error[:, 1:]], dim=1)
        found = _filter(found, error, count)
    return found


def from_state_space(A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a (N,), the untruncated b (N,) and h of the transfer function D + C (zI − A)⁻¹ B.

    From characteristic polynomials: right to rounding at a few states; from some tens on, digits are lost.

    Args:
        A: (N, N).
        B: (N,).
        C: (N,).
        D: A number, as a tensor.
    """
    a = characteristic(A)
    return a[1:], (characteristic(A - B.unsqueeze(-1) * C) - a)[1:], D


def characteristic(A: Tensor) -> Tensor:
    """Return the coefficients of det(zI − A), the highest power's first, (N + 1,)."""
    coefficients = torch.ones(1, dtype=A.dtype.to_complex(), device=A.device)
    for root in torch.linalg.eigvals(A):
        coefficients = nn.functional.pad(coefficients, (0, 1)) - root * nn.functional.pad(coefficients, (1, 0))
    return coefficients.real


def _filter(x: Tensor, kernel: Tensor, length: int | None = None) -> Tensor:
    """Return the first L entries of the product of two power series, (H, L), L that of the second where None."""
    length = kernel.shape[1] if length is None else length
    size = 2 * length
    product = torch.fft.rfft(x[:, :length], size) * torch.fft.rfft(kernel[:, :length], size)
    return torch.fft.irfft(product, size)[:, :length]
