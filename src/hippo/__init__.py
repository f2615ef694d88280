"""Recurrent memory by optimal polynomial projection (HiPPO, arXiv 2008.07669)."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hippo.memory import HiPPO, State

__all__ = ["HiPPO", "State"]

_WHERE = {"HiPPO": "hippo.memory", "State": "hippo.memory"}


def __getattr__(name: str) -> Any:
    """Import what is asked for: a program that prints its help does without PyTorch."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)
