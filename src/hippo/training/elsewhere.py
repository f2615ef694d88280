"""A trained model tested on its data under other settings, or on others."""

import copy
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from hippo.data import Sequences, Splits
from hippo.training import foreign
from hippo.training.build import misfit
from hippo.training.config import ConfigError
from hippo.training.trained import Trained

_SPLIT = ("split_seed", "validation", "test")  # settings that say which sequences are trained on


def changed(model: Trained, overrides: Iterable[str], configs: Path) -> Splits:
    """Return the splits of a model's dataset under other settings, or those of another dataset.

    Args:
        model: The model.
        overrides: `dataset.KEY=VALUE`, or `dataset=NAME`.
        configs: The folder of `train.yaml`.

    Raises:
        ConfigError: If these are no such settings, the model was trained on what it would be tested on, or it cannot
            read these data.
        hippo.data.DataError: If the data are missing or damaged.
    """
    node = copy.deepcopy(model.record["config"]["dataset"])
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    for override in sorted(parsed, key=lambda override: override.key_or_group != "dataset"):
        group, *keys = override.key_or_group.split(".")
        if group != "dataset" or override.is_sweep_override() or override.is_delete():
            raise ConfigError(
                f"{override.input_line}: only the data can be changed, by dataset.KEY=VALUE or dataset=NAME"
            )
        if not keys:
            node = _named(str(override.value()), configs)
            continue
        if keys[0] in _SPLIT and node["_target_"] == model.record["config"]["dataset"]["_target_"]:
            raise ConfigError(f"{override.input_line} would test the model on what it was trained on")
        inner = node
        for key in keys[:-1]:
            if not isinstance(inner := inner.setdefault(key, {}), dict):
                raise ConfigError(f"{override.input_line}: there is nothing below {key}")
        inner[keys[-1]] = override.value()
    record = model.record | {"config": model.record["config"] | {"dataset": node}}
    dataset = foreign.build(record, "dataset", configs)
    splits = dataset.load(model.data)
    splits.check()
    misfit(model.model, dataset, splits)
    channels = splits.test.everything.x.shape[2]
    if channels != model.model.input_size:
        raise ConfigError(f"dataset: it has {channels} channel(s), and the model reads {model.model.input_size}")
    if splits.classes != model.classes:
        its, own = (", ".join(names) or "none" for names in (splits.classes, model.classes))
        raise ConfigError(f"dataset: its classes are {its}; those of the model are {own}")
    if not _alike(splits, model):
        raise ConfigError(
            "dataset: its own training split says how it is standardised, and not the model's. To test on other raw "
            "data, name their file instead"
        )
    return splits


def results(model: Trained, splits: Splits) -> Iterator[tuple[str, int, dict[str, float]]]:
    """Yield what a model comes to: the name of what it is tested on, how many sequences these are, and the metrics."""
    tested: dict[str, Sequences] = {"validation": splits.validation, "test": splits.test}
    for name, shift in splits.shifted.items():
        tested |= {f"validation@{name}": shift.validation, f"test@{name}": shift.test}
    tested |= {f"test, {point.kind} {point.value:g}": point.test for point in splits.curve}
    for name, split in tested.items():
        yield name, len(split), model.metrics(split)


def _named(name: str, configs: Path) -> dict[str, Any]:
    with hydra.initialize_config_dir(str(configs.absolute()), version_base="1.3"):
        node = hydra.compose("train", [f"dataset={name}"]).dataset
    return cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))


def _alike(splits: Splits, model: Trained) -> bool:
    """Return whether splits are standardised as the model's training was."""
    if splits.scaling is None or model.scaling is None:
        return splits.scaling is model.scaling
    return all((one == other).all() for one, other in zip(splits.scaling, model.scaling, strict=True))
