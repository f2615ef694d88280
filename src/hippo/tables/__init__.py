"""Tables: records side by side, beside what was published."""

from hippo.extras import require

require("train", __name__)
