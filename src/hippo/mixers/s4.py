"""S4, structured state spaces (Gu, Goel and Ré 2022, arXiv 2111.00396)."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hippo.discretize import bilinear
from hippo.kernels import convolution, stepwise
from hippo.measures import Measure
from hippo.mixers.base import TimeInvariant, uniform
from hippo.mixers.gaps import Rule, through_gaps
from hippo.mixers.s4d import with_skip
from hippo.mixers.spectra import spectrum
from hippo.mixers.steps import check_settings, log_uniform

_LEAST_DECAY = 1e-4  # of eigenvalues on the imaginary axis, as LegT's and FouT's normal parts have


class S4(TimeInvariant):
    """For each feature, dx/dt = A x + B u and y = C x + D u with A = Λ − P P*, by the bilinear rule.

    A and B begin as a measure's and are shared by the features, which have steps and C of their own. What is learnt is
    C̃ = C (I − Ā^T) with T = `length`, as in the paper: the spectrum of a kernel of T samples then takes no power of Ā
    (Theorem 3). C itself is made of it where the kernel is not what is wanted: for steps, states, other rates, and
    sequences longer than T. The state is x in the basis of eigenvectors, one of each pair of conjugates, (B, H, N/2).

    Args:
        features: H.
        state_size: N, even.
        measure: "legs", "legt" or "fout", with a window of 1, or an object of `hippo.measures`.
        length: T, samples of the kernel that training sees. Longer sequences are right, but slower.
        steps: Range of the step sizes, which are drawn log-uniformly, one for each feature.

    Raises:
        ValueError: If a size is below 1 or odd, the measure has no such form, or `steps` is no range above 0.
    """

    dynamics = ("log_decay", "frequency", "P", "B", "log_step")
    takes_rate = takes_gaps = True
    rate_rule = "A rate multiplies the step sizes, as `rate` of the paper's code."

    def __init__(
        self,
        features: int,
        state_size: int = 64,
        measure: Literal["legs", "legt", "fout"] | Measure = "legs",
        length: int = 1024,
        steps: tuple[float, float] = (1e-3, 1e-1),
    ) -> None:
        super().__init__(features)
        check_settings(steps, "bilinear")
        if length < 1:
            raise ValueError(f"length must be at least 1, not {length}")
        self.state_size, self.length = state_size, length
        eigenvalues, _, P, B = spectrum(measure, state_size)
        dtype = torch.get_default_dtype()
        self.log_decay = nn.Parameter(torch.log((-eigenvalues.real).clamp(min=_LEAST_DECAY)).to(dtype))
        self.frequency = nn.Parameter(eigenvalues.imag.to(dtype))
        self.P = nn.Parameter(torch.view_as_real(P).to(dtype))
        self.B = nn.Parameter(torch.view_as_real(B).to(dtype))
        self.C = nn.Parameter(torch.randn(features, state_size // 2, 2) / math.sqrt(2))
        self.log_step = nn.Parameter(log_uniform(steps, features))
        self.D = nn.Parameter(torch.randn(features))

    def kernel(self, length: int, rate: float = 1.0) -> Tensor:
        if rate == 1 and length <= self.length:
            return with_skip(self._from_spectrum()[:, :length], self.D)
        A, B, C = self._dense(rate)
        return with_skip((rows(C, A, length) @ B.unsqueeze(-1)).squeeze(-1), self.D)

    def initial_state(self, batch: int, like: Tensor) -> Tensor:
        shape = (batch, self.features, self.state_size // 2)
        return torch.zeros(shape, dtype=like.dtype.to_complex(), device=like.device)

    def forward(
        self, x: Tensor, state: Tensor | None = None, rate: float | Tensor = 1.0
    ) -> tuple[Tensor, Tensor | None]:
        self.check_rate(rate)
        rate = uniform(rate)
        if isinstance(rate, Tensor):
            before = self.initial_state(len(x), x) if state is None else state
            rule = Rule(self._tables, torch.view_as_complex(self.P), self._readout(), less=True)
            y, after = through_gaps(rule, x, before, rate)
            return y + self.D * x, after
        y = convolution.convolve(x, self.kernel(x.shape[1], rate))
        if state is None:
            return y, None
        dense = self.constants(("dense", rate), lambda: self._dense(rate))
        of_state, after = carried(*dense, x, torch.cat([state.real, state.imag], dim=-1))
        return y + of_state, torch.complex(*after.chunk(2, dim=-1))

    def step(self, x: Tensor, state: Tensor | None = None, rate: float | Tensor = 1.0) -> tuple[Tensor, Tensor]:
        self.check_rate(rate)
        state = self.initial_state(len(x), x) if state is None else state
        if isinstance(rate, Tensor):
            fixed, tables = self.prepared(None), self._tables(rate)
        else:
            fixed, tables = self.prepared(rate)
        y, state = stepwise.step(x, state, *tables, *fixed, less=True)
        return torch.addcmul(y, self.D, x), state

    def prepared(self, rate: float | None) -> tuple[Any, ...]:
        if rate is None:
            return self.constants(rate, self._fixed)
        return self.constants(rate, lambda: (self._fixed(), self._tables(torch.as_tensor(rate))))

    def _from_spectrum(self) -> Tensor:
        """Return the kernel of T samples, (H, T), from its values at the roots of unity e^(−2iθ).

        With the node z = 2i tan θ multiplied out, the resolvent of the normal part is that of 2i sin θ − ΔΛ cos θ,
        which is finite everywhere, and with R_XY = Σ_n X_n Δ Y_n / (2i sin θ − ΔΛ_n cos θ) the spectrum is

            e^(iθ) (R_CB − cos θ R_CP (I + cos θ R_QP)⁻¹ R_QB).

        Conjugate pairs are summed in real arithmetic, half as many divisions: 35 ms forward and backward at H = 128,
        N = 64 and T = 1024 on one core, where complex sums over all N, whose tensors outgrow the allocator's, take 240.
        """
        angle = torch.arange(self.length // 2 + 1, dtype=torch.float64, device=self.D.device) * (math.pi / self.length)
        sine, cosine = (wave(angle).to(self.D).unsqueeze(-1) for wave in (torch.sin, torch.cos))  # (K, 1)
        step = torch.exp(self.log_step)[:, None, None]
        decay = torch.exp(self.log_decay)
        modulus = decay.square() + self.frequency.square()
        real = (step * cosine).square() * modulus - 4 * sine.square()  # of the product of a pair's denominators
        imaginary = 4 * step * cosine * sine * decay
        size = real.square() + imaginary.square()
        inverse = torch.stack([real / size, -imaginary / size], dim=1).flatten(1, 2)  # (H, 2K, M)

        B, C, P = (torch.view_as_complex(part) for part in (self.B, self.C, self.P))
        rank = len(P)
        weights = torch.cat(
            [(C * B).unsqueeze(1), C.unsqueeze(1) * P]
            + [
                of_all.expand(self.features, -1, -1) for of_all in (P.conj() * B, (P.conj()[:, None] * P).flatten(0, 1))
            ],
            dim=1,
        )  # X_n Y_n of R_CB, R_CP, R_QB and R_QP, (H, 1 + r + r + r², M)
        both = torch.cat([weights.real, decay * weights.real - self.frequency * weights.imag], dim=1)
        sums = (inverse @ both.mT).unflatten(1, (2, -1)).unflatten(-1, (2, -1))  # (H, 2, K, 2, ·)
        on_sine, on_cosine = (torch.complex(part[:, 0], part[:, 1]) for part in sums.unbind(3))
        R = step * (4j * sine * on_sine + 2 * step * cosine * on_cosine)

        R_CB, R_CP, R_QB, R_QP = R.split([1, rank, rank, rank**2], dim=-1)
        inner = torch.eye(rank, dtype=R.dtype, device=R.device) + cosine.unsqueeze(-1) * R_QP.unflatten(
            -1, (rank, rank)
        )
        through = R_QB / inner.squeeze(-1) if rank == 1 else torch.linalg.solve(inner, R_QB)
        turn = torch.polar(torch.ones_like(angle), angle).to(R.dtype)
        values = turn * (R_CB.squeeze(-1) - cosine.squeeze(-1) * (R_CP * through).sum(-1))
        return torch.fft.irfft(values, self.length)

    def _dense(self, rate: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return Ā (H, N, N), B̄ (H, N) and C (H, N) for a rate, of the real and then the imaginary parts of x."""
        A, B = self._continuous()
        return *bilinear(A, B, rate * torch.exp(self.log_step)), _halves(self._readout())

    def _continuous(self) -> tuple[Tensor, Tensor]:
        """Return A (N, N) and B (N,) of the real and then the imaginary parts of x."""
        decay, frequency = torch.diag(torch.exp(self.log_decay)), torch.diag(self.frequency)
        A = torch.cat([torch.cat([-decay, -frequency], dim=1), torch.cat([frequency, -decay], dim=1)], dim=0)
        P = torch.cat([self.P[..., 0], self.P[..., 1]], dim=-1)
        return A - 2 * P.mT @ P, torch.cat([self.B[..., 0], self.B[..., 1]])

    def _readout(self) -> Tensor:
        """Return C (H, N/2) of C̃ = C (I − Ā^T), whose Ā is that of rate 1."""
        A, _ = bilinear(*self._continuous(), torch.exp(self.log_step))
        rest = torch.eye(self.state_size, dtype=A.dtype, device=A.device) - torch.linalg.matrix_power(A, self.length)
        C = torch.linalg.solve(rest.mT, _halves(torch.view_as_complex(self.C)))
        return torch.complex(*(C / 2).chunk(2, dim=-1)).conj()

    def _fixed(self) -> tuple[Tensor, Tensor]:
        """Return P and C as `hippo.kernels.stepwise.step` wants them."""
        return stepwise.turned(torch.view_as_complex(self.P), False), stepwise.turned(self._readout(), True)

    def _tables(self, rate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what a step of each rate (...) needs, with δ half its size, for x ← 2 (I − δA)⁻¹ (x + δB u) − x.

        By Woodbury's identity: with R = 2 (I − δΛ)⁻¹, R and R δB, (..., H, N/2), and what P* of their sum is multiplied
        by, ½ δ R P (I + ½ δ P* R P)⁻¹, (..., H, r, N/2).
        """
        half = (rate[..., None, None].to(self.log_step) * torch.exp(self.log_step).unsqueeze(-1)) / 2
        P, B = torch.view_as_complex(self.P), torch.view_as_complex(self.B)
        resolvent = 1 / (1 - half * torch.complex(-torch.exp(self.log_decay), self.frequency))
        forward = (half * resolvent).unsqueeze(-2) * P
        inner = 2 * (forward @ P.mH).real + torch.eye(len(P), dtype=half.dtype, device=half.device)  # P* of all pairs
        return 2 * resolvent, 2 * resolvent * half * B, torch.linalg.inv(inner).to(P) @ forward


def _halves(C: Tensor) -> Tensor:
    """Return 2 Re(C ·) as a real map (..., N) of the real and then the imaginary parts."""
    return 2 * torch.cat([C.real, -C.imag], dim=-1)


def carried(A: Tensor, B: Tensor, C: Tensor, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Return what outputs owe to a state (B, H, N) before x (B, L, H), (B, L, H), and the state after x.

    Args:
        A: Ā (H, N, N).
        B: B̄ (H, N).
        C: (H, N).
        x: (B, L, H).
        state: (B, H, N).
    """
    length, before = x.shape[1], state.permute(1, 2, 0)
    y = (rows(C, A, length) @ (A @ before)).permute(2, 1, 0)
    driven = rows(B, A.mT, length).flip(1).mT @ x.permute(2, 1, 0)  # Ā^(L−1) B̄, …, B̄
    return y, (torch.linalg.matrix_power(A, length) @ before + driven).permute(2, 0, 1)


def rows(C: Tensor, A: Tensor, count: int) -> Tensor:
    """Return C, C A, …, C A^(count−1), (H, count, N), in log₂ count products."""
    rows = C.unsqueeze(1)
    while rows.shape[1] < count:
        rows = torch.cat([rows, rows @ A], dim=1)
        A = A @ A
    return rows[:, :count]
