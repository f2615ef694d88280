"""What the tests of tables share with those of training."""

from tests.training.conftest import compose

__all__ = ["compose"]
