"""How the learning rate changes from step to step: functions (optimizer, total_steps, …) -> scheduler.

What a configuration's `scheduler` names is called with the optimizer and the number of steps of the whole training, and
what it returns is stepped after each of them. Every group of parameters has its own highest rate: the one that the
optimizer has for it.
"""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR


def one_cycle(
    optimizer: Optimizer,
    total_steps: int,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    cycle_momentum: bool = False,
) -> OneCycleLR:
    """The one-cycle policy (Smith and Topin 2017, arXiv 1708.07120): torch's, its `max_lr` the optimizer's rates.

    Args:
        optimizer: Its rates are the highest ones.
        total_steps: Steps of the whole training.
        pct_start: Share of the steps in which the rate rises.
        div_factor: The first rate is the highest one divided by this.
        final_div_factor: The last rate is the first one divided by this.
        cycle_momentum: Whether momentum (of Adam: β₁) falls from 0.95 to 0.85 while the rate rises, and comes back.

    Raises:
        ValueError: If a setting is beyond its range.
    """
    if not 0 <= pct_start < 1:
        raise ValueError(f"pct_start must be at least 0 and below 1, not {pct_start}")
    if not (div_factor > 0 and final_div_factor > 0):
        raise ValueError(f"div_factor and final_div_factor must be above 0, not {div_factor} and {final_div_factor}")
    if pct_start * total_steps == 1:
        pct_start = 0.0  # a rise of one step, whose length torch would divide by: 0
    return OneCycleLR(
        optimizer,
        [group["lr"] for group in optimizer.param_groups],
        total_steps=total_steps,
        pct_start=float(pct_start),
        div_factor=div_factor,
        final_div_factor=final_div_factor,
        cycle_momentum=cycle_momentum,
    )


def cosine(optimizer: Optimizer, total_steps: int, warmup: float = 0.1, final: float = 0.0) -> LambdaLR:
    """A linear warm-up, then half a cosine down (Loshchilov and Hutter 2017, arXiv 1608.03983, without restarts).

    Args:
        optimizer: Its rates are the highest ones.
        total_steps: Steps of the whole training.
        warmup: Share of the steps in which the rate rises, in equal parts.
        final: What is left of the highest rate at the end, as a factor.

    Raises:
        ValueError: If a setting is beyond its range.
    """
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup must be at least 0 and below 1, not {warmup}")
    if not 0 <= final <= 1:
        raise ValueError(f"final must lie between 0 and 1, not {final}")
    rising = round(warmup * total_steps)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        share = min(1.0, (step - rising) / max(1, total_steps - rising))
        return final + (1 - final) * (1 + math.cos(math.pi * share)) / 2

    return LambdaLR(optimizer, factor)
