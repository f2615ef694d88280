"""What is built from a file that somebody else may have written: a record, or a table.

A person's own command line may name any class. A file that came from elsewhere names what the package offers, torch's
optimizers, and what the user's own configuration names.
"""

import functools
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

from hippo import project
from hippo.data import Sampling, SequenceDataset
from hippo.measures import Measure
from hippo.training import schedules
from hippo.training.config import ConfigError, building, check

_BASES = (torch.nn.Module, SequenceDataset, Sampling, Measure)
_OTHERS = {
    "pytorch_lightning.Trainer",
    *(f"hippo.training.tracking.{kind}_logger" for kind in ("wandb", "csv", "tensorboard")),
}


def build(record: dict[str, Any], key: Literal["dataset", "model"], configs: Path, **arguments: Any) -> Any:
    """Return the dataset or the model of a record: the one way from a record, or the folder of a run, to objects.

    Args:
        record: From `hippo.training.records.read`.
        key: What to build.
        configs: The folder of the user's configuration, whose classes are admitted too.
        arguments: Of the constructor, instead of the record's or besides them.

    Raises:
        ConfigError: If the record's configuration names a class that is not admitted, or could not be run here.
    """
    elsewhere = {
        "logger": None,
        "callbacks": None,
        "threads": None,
        "window": 1.0,
        "paths": {"data": ".", "outputs": "."},
    }
    values = {"patience": None, **record["config"], "name": record["name"], "seed": record["seed"], **elsewhere}
    admit(values, configs)
    node = check(OmegaConf.create(values))[key]
    with building(key):
        return instantiate(node | arguments)


def admit(values: Any, configs: Path) -> None:
    """Raise ConfigError if a resolved configuration that came from elsewhere names a class that is not admitted, or has
    something that would be resolved or passed on by Hydra beside that."""
    for where, key, value in _items(values, ""):
        if isinstance(value, str) and "${" in value:
            raise ConfigError(f"{where}: {value} would be resolved here; a file from elsewhere has plain values only")
        if key.startswith("_") and key != "_target_" and not (key == "_partial_" and value is True):
            raise ConfigError(f"{where}: a file from elsewhere sets no {key}")
        if key == "_target_" and not (
            isinstance(value, str) and (offered(value) or value in _own(configs) | _own(project.shipped()))
        ):
            raise ConfigError(
                f"{where}: {value} is nothing that the package offers, so a file from elsewhere cannot name it. If it "
                f"is yours, name it in a file of your own below {configs}"
            )


def offered(target: str) -> bool:
    """Return whether a name is that of a model, a mixer, a dataset, a measure or a schedule of this package, of one of
    torch's optimizers, or of what else every configuration has."""
    if target in _OTHERS:
        return True
    module, _, name = target.rpartition(".")
    if module == "torch.optim":
        found = vars(torch.optim).get(name)
        return inspect.isclass(found) and issubclass(found, torch.optim.Optimizer)
    if not target.startswith("hippo."):
        return False
    try:
        found = get_object(target)
    except Exception:  # it imports a module of this package at most
        return False
    if inspect.isclass(found):
        return issubclass(found, _BASES) and found.__module__.startswith("hippo.")
    return inspect.isfunction(found) and found.__module__ == schedules.__name__


@functools.cache
def _own(configs: Path) -> frozenset[str]:
    """Return the classes that the files of a folder of configurations name. Tables may have been downloaded."""
    found: set[str] = set()
    for path in configs.rglob("*.yaml"):
        if path.relative_to(configs).parts[0] != "table":
            with path.open(encoding="utf-8") as file:
                found |= {
                    value
                    for _, key, value in _items(yaml.safe_load(file), "")
                    if key == "_target_" and isinstance(value, str)
                }
    return frozenset(found)


def _items(value: Any, where: str) -> Iterator[tuple[str, str, Any]]:
    """Yield everything below a value: its path, its own key, and what it is."""
    if not isinstance(value, dict | list):
        return
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        path = f"{where}.{key}" if where else str(key)
        yield path, str(key), item
        yield from _items(item, path)
