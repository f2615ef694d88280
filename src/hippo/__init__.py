"""Recurrent memory by optimal polynomial projection (HiPPO, arXiv 2008.07669)."""

import importlib
from typing import TYPE_CHECKING, Any

# For type checkers, to whom `__getattr__` says Any. A stub `__init__.pyi` would need as many lines in a second file;
# plain imports load PyTorch, and `import hippo` would take seconds instead of 0.02 s.
if TYPE_CHECKING:
    from hippo.memory import HiPPO, State
    from hippo.training.trained import load

__all__ = ["HiPPO", "State", "load"]

_WHERE = {"HiPPO": "hippo.memory", "State": "hippo.memory", "load": "hippo.training.trained"}


def __getattr__(name: str) -> Any:
    """Import what is asked for: a program that prints its help does without PyTorch, and a memory without Lightning."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)
