"""Errors that people cause and can mend, in one sentence each instead of a traceback."""

import contextlib
import errno
import inspect
import io
import re
import traceback

import torch
import wandb
import yaml
from hydra.errors import (
    ConfigCompositionException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.utils import get_object
from omegaconf import DictConfig
from omegaconf.errors import GrammarParseError, OmegaConfBaseException
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from hippo.errors import UserError
from hippo.training import arguments
from hippo.training.config import did_you_mean


def explain(error: Exception) -> str | None:
    """Return what to tell the user of an error, with the nearest valid word for a misspelt one; None if it is a bug."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, option = (error.missing_cfg_file or "").rpartition("/")
        choices = ", ".join(sorted(error.options))
        return f"{group}={option} does not exist{did_you_mean(option, error.options)}; choose from: {choices}"
    if isinstance(error, ValueError) and "Config group override" in str(error):  # Hydra's answer to logger=null
        return "a group cannot be null: choose one of its options (of logger and scheduler, none: logger=none)"
    if isinstance(error, yaml.YAMLError | UnicodeDecodeError | RecursionError):
        return _of_a_file(error)
    if isinstance(error, ValueError) and str(error).startswith("Invalid defaults list"):  # Hydra's, without a class
        return str(error)
    cause = error.__cause__
    if isinstance(error, ConfigCompositionException) and isinstance(cause, GrammarParseError):
        return f"{cause.full_key}: {str(cause.msg).splitlines()[0]}"
    if isinstance(error, ConfigCompositionException) and isinstance(cause, OmegaConfBaseException):
        hint = _instead_of(cause, re.search(r"use (\+.*)$", str(error), re.MULTILINE))
        return f"{cause.full_key}: there is no such key{hint}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        where = f"{error.strerror}: {error.filename or 'while writing'}"
        return f"the disk is full, or what you may use of it ({where}). Free some space and type the same command again"
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        said = " ".join(str(error).split())
        return f"the memory does not suffice ({said}). Make batches, sequences or hidden_size smaller"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, OverrideParseException):
        return f"{' '.join(str(error).split())}. Quote what has spaces, brackets or ~ in it: 'key=\"value\"'"
    if isinstance(error, wandb.errors.Error):
        return f"W&B: {error}. Run offline with logger.mode=offline, or without W&B with logger=none"
    if isinstance(error, UserError | ConfigCompositionException | MisconfigurationException):
        return str(error)
    return None


def _instead_of(error: OmegaConfBaseException, plus: re.Match | None) -> str:
    """Return what may have been meant by an override that sets a key which is not there.

    Args:
        error: The reason.
        plus: Hydra's word on how the key is added.
    """
    key, node = str(error.key), error.parent_node
    there = list(map(str, node)) if isinstance(node, DictConfig) else []
    more: list[str] = []
    if isinstance(node, DictConfig) and isinstance(node.get("_target_"), str):
        with contextlib.suppress(Exception):  # whatever an import raises: the key is wrong all the same
            more = list(inspect.signature(get_object(node["_target_"])).parameters)
    if str(error.full_key) == f"trainer.{key}" and key in arguments.REFUSED:
        return f", and it cannot be added: {arguments.REFUSED[key]}"
    if not there:
        return f"; nothing is listed here yet, so add it with a plus: +{error.full_key}=…"
    if key in more:
        return f"; it is not listed, so add it with a plus: {plus[1] if plus else f'+{error.full_key}=…'}"
    hint = did_you_mean(key, [*there, *more])
    for name in set(more) - set(there):
        hint = hint.replace(f"mean {name}?", f"mean +{str(error.full_key).removesuffix(key)}{name}?")
    return hint or f"; valid here: {', '.join(there)}"


def _of_a_file(error: Exception) -> str | None:
    """Return the file, the line and the fault of what is no YAML; None if no file was being read."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    # Neither a wrong character nor depth says in which file: it is the one that was open then.
    files = [value for frame in frames for value in frame.f_locals.values() if isinstance(value, io.TextIOWrapper)]
    name = files[-1].name if files else None
    line = ""
    if isinstance(error, yaml.MarkedYAMLError) and (mark := error.problem_mark or error.context_mark):
        name = name if mark.name.startswith("<") else mark.name
        line, said = f", line {mark.line + 1}", error.problem or error.context
    elif isinstance(error, yaml.reader.ReaderError):
        name = name if error.name.startswith("<") else error.name
        said = f"character {error.position} is {error.character!r}, which YAML does not have"
    elif isinstance(error, UnicodeDecodeError):
        number = error.object.count(b"\n", 0, error.start) + 1
        line, said = f", line {number}", f"it is not UTF-8 text ({error.reason})"
    else:
        said = "it is nested too deep"
    return f"{name}{line}: {' '.join(str(said).split())}" if name else None


def reason(error: Exception) -> str:
    """Return what to tell the user of an error in one line or a few, whether it is foreseen or not."""
    return explain(error) or f"{type(error).__name__}: {error}"
