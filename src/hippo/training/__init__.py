"""Running experiments: configuration, training, records, tracking; all that needs Hydra, Lightning and W&B."""

import contextlib
import ctypes

import torch

from hippo.extras import require

require("train", __name__)

# Denormal numbers slow long backward passes on a CPU down many times over. Threads inherit the setting from the one
# that starts them, so it has to precede the first parallel operation of the process.
torch.set_flush_denormal(True)

# glibc gives large blocks back to the system when they are freed, and a training step that asks for them again pays for
# every page anew, up to a third of its time. Keep them: M_MMAP_MAX = 0, M_TRIM_THRESHOLD = 2^31 − 1.
with contextlib.suppress(AttributeError, OSError, TypeError):
    ctypes.CDLL(None).mallopt(-4, 0)
    ctypes.CDLL(None).mallopt(-1, 2**31 - 1)
