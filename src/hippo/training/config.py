"""Checking a configuration before any work is done.

There is no schema beside the code: the signature of what a `_target_` names is the schema of its node, and `Settings`
that of the top level. A key that the signature lacks, or a value its annotation refuses, is one clear error.
"""

import contextlib
import difflib
import inspect
import math
import os
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pydantic
from hydra.errors import InstantiationException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from hippo.errors import UserError
from hippo.training import arguments
from hippo.training.records import ADDED, check_name


class ConfigError(UserError, ValueError):
    """The configuration cannot be run; the message names the key and what it should be."""


@dataclass(frozen=True)
class Paths:
    """Where things lie: `data` is the root of all datasets, `outputs` holds one folder a run."""

    data: str
    outputs: str


@dataclass(frozen=True)
class Settings:
    """The top level of a configuration; see configs/train.yaml for what each key means."""

    name: str
    seed: int
    dataset: dict
    model: dict
    optimizer: dict
    trainer: dict
    logger: dict | None
    paths: dict
    window: float
    scheduler: dict | None = None
    callbacks: dict | None = None
    patience: int | None = None
    threads: int | None = None
    force: bool = False


# Given by the code when it calls the target, hence not to be set in a configuration.
_SUPPLIED: dict[str, set[str]] = {
    "dataset": set(),
    "model": {"input_size"},
    "trainer": arguments.SUPPLIED,
    "optimizer": {"params"},
    "scheduler": {"optimizer", "total_steps"},
    "logger": {"name", "identity", "folder", "settings", "resume"},
}
_PASSING = {"_args_", "_partial_", "_recursive_", "_convert_"}  # Hydra's words on how arguments are passed

Made = typing.TypeVar("Made")


def check(config: DictConfig) -> dict[str, Any]:
    """Return the configuration resolved to plain values, or raise ConfigError naming the first thing wrong with it."""
    values = outline(config)
    for key, value in values.items():
        if key in _SUPPLIED and value and "_target_" not in value:
            raise ConfigError(f"{key} has {', '.join(value)}, but no _target_ that takes it; choose one first: {key}=…")
        _check_node(value, key, _SUPPLIED.get(key, set()))
    for name, node in (values.get("callbacks") or {}).items():
        if not isinstance(node, dict) or "_target_" not in node:
            raise ConfigError(f"callbacks.{name} names no class: +callbacks.{name}._target_=package.module.Class")
    if why := arguments.refusal(values["trainer"]):
        raise ConfigError(why)
    with _naming("dataset.shifts"):
        for shift in values["dataset"].get("shifts") or ():
            check_name(str(shift))  # of a checkpoint
    return values


def outline(config: DictConfig) -> dict[str, Any]:
    """Return the same of a configuration of which the top level is checked, and nothing that it names is imported:
    enough to look for a run, and not to train it."""
    values = resolved(config)
    _check_call(Settings, values, "")
    _check_call(Paths, values["paths"], "paths")
    check_seed(values["seed"])
    if not values["paths"]["data"] or not values["paths"]["outputs"]:
        raise ConfigError("paths.data and paths.outputs must name folders; use . for the current one")
    with _naming("name"):
        check_name(values["name"])
    if (patience := values["patience"]) is not None and patience < 1:
        raise ConfigError(f"patience must be null or at least 1, not {patience}")
    most = max(256, os.cpu_count() or 1)  # a job is planned on one machine and runs on another
    if (threads := values["threads"]) is not None and not 1 <= threads <= most:
        raise ConfigError(f"threads must be null or lie between 1 and {most}, not {threads}")
    match values["model"]:
        case {"_target_": str(target), **stated} if lacking := ADDED.get(target, {}).keys() - stated.keys():
            parameters = inspect.signature(get_object(target)).parameters
            values["model"] |= {key: parameters[key].default for key in lacking}
    return values


def resolved(config: DictConfig) -> dict[str, Any]:
    """Return the plain values of a configuration, with environment variables below `paths` alone: a configuration ends
    up in records, on pages and in W&B.

    Raises:
        ConfigError: If a value is missing, refers to what is not there, or comes from an environment variable
            elsewhere, in whatever roundabout way: through `paths`, or through Hydra's own configuration.
    """
    _refuse_environment(OmegaConf.to_container(config), "")
    values: dict[str, Any] = {}
    for below_paths in (False, True):
        with contextlib.nullcontext() if below_paths else _without_environment():
            for key in (key for key in map(str, config) if (key == "paths") == below_paths):
                try:
                    value = config[key]
                    if OmegaConf.is_config(value):
                        value = OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
                except OmegaConfBaseException as error:
                    cause: BaseException | None = error
                    while cause is not None:  # OmegaConf wraps what a resolver raises, more than once
                        if isinstance(cause, _Environment):
                            raise ConfigError(f"{key}: {cause}") from error
                        cause = cause.__cause__ or cause.__context__
                    raise ConfigError(f"{error.full_key}: {str(error.msg).splitlines()[0]}") from error
                values[key] = value
    return {key: values[key] for key in map(str, config)}


class _Environment(Exception):
    """A value comes from an environment variable."""

    def __init__(self, found: str) -> None:
        super().__init__(
            f"{found} is not resolved. Environment variables may stand in paths only: they may hold a secret, and the "
            "configuration is recorded and published"
        )


@contextlib.contextmanager
def _without_environment() -> Iterator[None]:
    def refuse(name: str, *default: Any) -> None:
        raise _Environment(f"${{oc.env:{name}}}")

    OmegaConf.register_new_resolver("oc.env", refuse, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def check_seed(seed: int) -> None:
    """Raise ConfigError if a run cannot have this seed."""
    if not 0 <= seed < 2**32:
        raise ConfigError(f"seed must lie between 0 and 2**32 - 1, not {seed}")


@contextlib.contextmanager
def _naming(key: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"{key}={error}") from error


def _refuse_environment(value: Any, where: str) -> None:
    """Refuse environment variables that stand outside `paths`, with the key at which one does."""
    if where == "paths":
        return
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        path = f"{where}.{key}" if where else str(key)
        if isinstance(item, dict | list):
            _refuse_environment(item, path)
        elif isinstance(item, str) and re.search(r"\$\{\s*oc\.env\b", item):
            raise ConfigError(f"{path}: {_Environment(item)}")


def _check_node(value: Any, where: str, supplied: set[str]) -> None:
    """Check every node below `value` that has a `_target_`, and that every number is one."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where}={value} is no number that a setting can have")
    if isinstance(value, list):
        for i, item in enumerate(value):
            _check_node(item, f"{where}[{i}]", set())
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        _check_node(item, f"{where}.{key}", set())
    if "_target_" in value:
        try:
            target = get_object(value["_target_"])
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"{where}._target_: {value['_target_']} cannot be imported ({reason})") from error
        for key in _PASSING.intersection(value):
            if key != "_partial_" or where in _SUPPLIED:
                raise ConfigError(f"{where}.{key} cannot be set: arguments have names, and the code passes them on")
        try:
            inspect.signature(target)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"{where}._target_: {value['_target_']} does not say which arguments it takes, so they cannot be "
                "checked; name a class or a function that does"
            ) from error
        arguments = {k: v for k, v in value.items() if k not in ("_target_", "_partial_")}
        _check_call(target, arguments, where, supplied, partial=bool(value.get("_partial_")))


def _check_call(
    target: Callable, values: Mapping[str, Any], where: str, supplied: Iterable[str] = (), partial: bool = False
) -> None:
    """Check a call's arguments; a partial one, which the code completes, may lack some."""
    parameters = inspect.signature(target).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    names = [name for name in parameters if name not in supplied]
    name = getattr(target, "__name__", str(target))
    prefix = f"{where}." if where else ""
    if not open_ended and (lacking := [key for key in sorted(supplied) if key not in parameters]):
        raise ConfigError(f"{prefix}_target_: {name} takes no {' and no '.join(lacking)}, with which it is called")
    for key in values:
        if key not in names and not open_ended:
            hint = did_you_mean(key, names) or f"; valid here: {', '.join(names)}"
            missing = f"{name} has no {key}" if where else "there is no such key"
            raise ConfigError(f"{prefix}{key}: {missing}{hint}")
    for key in names:
        parameter = parameters[key]
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if named and parameter.default is parameter.empty and key not in values and not partial:
            raise ConfigError(f"{prefix}{key} is missing; {name} needs it")
    try:
        hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, TypeError):
        return
    for key, value in values.items():
        if key in hints and not (isinstance(value, dict) and "_target_" in value):
            _check_type(value, hints[key], f"{prefix}{key}")


def _check_type(value: Any, hint: Any, where: str) -> None:
    try:
        adapter = pydantic.TypeAdapter(hint, config=pydantic.ConfigDict(arbitrary_types_allowed=True))
    except pydantic.PydanticUserError:
        adapter = pydantic.TypeAdapter(hint)
    except pydantic.errors.PydanticSchemaGenerationError:
        return
    reasons: dict[str, None] = {}
    for candidate in [value, tuple(value)] if isinstance(value, list) else [value]:
        try:
            adapter.validate_python(candidate, strict=True)
            return
        except pydantic.ValidationError as error:
            reasons |= dict.fromkeys(e["msg"].removeprefix("Input ") for e in error.errors())
    raise ConfigError(f"{where}={value!r} {' or '.join(reasons)}")


@contextlib.contextmanager
def building(key: str) -> Iterator[None]:
    """Turn a ValueError of a constructor into a ConfigError that names the node of the configuration."""
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error
    except InstantiationException as error:  # Hydra's wrapping of what the constructor raised
        if not isinstance(error.__cause__, ValueError):
            raise
        raise ConfigError(f"{key}: {error.__cause__}") from error


def of_kind(kind: type[Made], made: Any) -> Made:
    """Return what a constructor made. Raises ValueError if it is nothing of the kind that is needed."""
    if not isinstance(made, kind):
        raise ValueError(f"_target_ makes a {type(made).__name__} and no {kind.__name__}")
    return made


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return a question about the nearest choice, to be appended to an error; empty if none is near."""
    near = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""
