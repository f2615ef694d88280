"""Running experiments: configuration, training, records, tracking; all that needs Hydra, Lightning and W&B."""

import torch

# Denormal numbers slow long backward passes on a CPU down many times over. Threads inherit the setting from the one
# that starts them, so it has to precede the first parallel operation of the process.
torch.set_flush_denormal(True)
