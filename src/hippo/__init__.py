"""Recurrent memory by optimal polynomial projection (HiPPO, arXiv 2008.07669)."""

from hippo.memory import HiPPO, State

__all__ = ["HiPPO", "State"]
