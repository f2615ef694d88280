"""Errors that people cause and can mend, in one sentence each instead of a traceback."""

import errno

from hydra.errors import ConfigCompositionException, InstantiationException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from hippo.data import DataError
from hippo.training.classifier import Divergence
from hippo.training.config import ConfigError, did_you_mean


def explain(error: Exception) -> str | None:
    """Return what to tell the user of an error, with the nearest valid word for a misspelt one; None if it is a bug."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, option = (error.missing_cfg_file or "").rpartition("/")
        choices = ", ".join(sorted(error.options))
        return f"{group}={option} does not exist{did_you_mean(option, error.options)}; choose from: {choices}"
    cause = error.__cause__
    if isinstance(error, ConfigCompositionException) and isinstance(cause, OmegaConfBaseException):
        siblings = list(cause.parent_node or ()) if isinstance(cause.parent_node, DictConfig) else []
        hint = did_you_mean(str(cause.key), map(str, siblings))
        if not hint and siblings:
            hint = f"; valid here: {', '.join(map(str, siblings))}"
        return f"{cause.full_key}: there is no such key{hint}"
    if isinstance(error, InstantiationException) and isinstance(cause, ValueError):
        return str(cause)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return (
            f"the disk is full ({error.filename or 'while writing'}). Free some space and type the same command again"
        )
    if isinstance(error, ConfigError | ConfigCompositionException | DataError | Divergence):
        return str(error)
    return None
