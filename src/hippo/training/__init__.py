"""Running experiments: configuration, training, records, tracking; all that needs Hydra, Lightning and W&B."""

from hippo.extras import require

require("train", __name__)
