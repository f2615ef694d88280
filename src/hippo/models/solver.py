"""Vector fields for the solvers of torchdiffeq: counted, and stopped where a solver does not come to an end."""

import contextlib
from collections.abc import Callable, Iterator

import torch
import torchdiffeq
from torch import Tensor

from hippo.errors import UserError

MOST = 1000  # evaluations in a gap between two samples, forward and back: rk4 with a hundred steps takes 400
MOST_STEPS = MOST // 4


class SolverFailed(UserError, RuntimeError):
    """A solver gave up, or did not come to an end."""

    def __init__(self, method: str, reason: str) -> None:
        super().__init__(
            f"the solver {method} {reason}. An adaptive solver's steps shrink where the field has grown too steep: "
            "lower optimizer.lr, set trainer.gradient_clip_val=1, or choose a solver of fixed steps, model.method=rk4"
        )


class Counted:
    """A vector field f(t, z) that counts how often it is evaluated.

    Args:
        field: f, of z alone.
        method: The solver's name, for errors.
        gaps: Gaps between samples that it is solved over.

    Raises:
        SolverFailed: When it is called, if that has become too often.
    """

    def __init__(self, field: Callable[[Tensor], Tensor], method: str, gaps: int = 1) -> None:
        self.field, self.method, self.most = field, method, MOST * gaps
        self.calls = 0

    def __call__(self, t: Tensor, z: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > self.most:
            raise SolverFailed(self.method, f"has evaluated its field {self.most} times without an end")
        return self.field(z)


@contextlib.contextmanager
def told(method: str) -> Iterator[None]:
    """Turn a solver's bare assertion, as that its step has become 0, into SolverFailed."""
    try:
        yield
    except AssertionError as error:
        raise SolverFailed(method, f"gave up ({' '.join(str(error).split()) or 'an assertion of its own'})") from error


def refuse_export() -> None:
    """Raise ValueError under `torch.export`."""
    if torch.compiler.is_exporting():
        raise ValueError("torch.export cannot follow torchdiffeq and torchcde, which look at values as they go")


def check_method(method: str, steps: int) -> None:
    """Raise ValueError unless torchdiffeq has this solver, and gradients through it, and its steps come to an end."""
    if steps > MOST_STEPS:
        raise ValueError(f"steps must be at most {MOST_STEPS}, not {steps}")
    try:
        if method == "scipy_solver":
            raise ValueError("It has no gradients.")
        torchdiffeq.odeint(lambda _, h: h, torch.zeros(1), torch.tensor([0.0, 1.0]), method=method)
    except ValueError as error:
        raise ValueError(f"unknown method {method!r}; choose from the solvers of torchdiffeq. {error}") from error
