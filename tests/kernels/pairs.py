"""What every kernel is compared with its reference by."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def output_and_gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor | None], upstream: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    """Return function(*inputs), and the gradient of every input that requires one, from that of the output."""
    output = function(*inputs)
    wanted = [value for value in inputs if value is not None and value.requires_grad]
    return [output, *torch.autograd.grad(output, wanted, upstream(output))]


def assert_pair(
    kernel: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    inputs: Sequence[Tensor | None],
    bound: float,
    upstream: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Assert that two functions have the same output and gradients, to `bound` times the largest number of each."""

    def random(output: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)

    results = (output_and_gradients(function, inputs, upstream or random) for function in (kernel, reference))
    for number, (actual, expected) in enumerate(zip(*results, strict=True)):
        assert actual.shape == expected.shape
        assert actual.dtype == expected.dtype
        error, scale = (actual - expected).abs().max().item(), expected.abs().max().item()
        name = "the output" if number == 0 else f"gradient {number}"
        assert error <= bound * scale, f"{name} differs by {error / scale:.1e} of its largest number"
