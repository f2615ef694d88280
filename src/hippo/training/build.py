"""From a checked configuration to what is trained, on what, and by what."""

import logging
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from pytorch_lightning.callbacks import TQDMProgressBar

from hippo.data import SequenceDataset, Splits
from hippo.models import SequenceModel
from hippo.training import checkpoints, host, records
from hippo.training.callbacks import EpochSeed, History
from hippo.training.config import ConfigError, building, of_kind
from hippo.training.learner import SequenceData, SequenceLearner


def build(values: dict[str, Any]) -> tuple[SequenceData, SequenceLearner]:
    """Read the data and draw the model's weights, from the seeds of a checked configuration.

    Raises:
        ConfigError: If a constructor refuses its settings, or the model does not fit the data.
        hippo.data.DataError: If the data are missing or damaged.
    """
    host.prepare()
    if values["threads"]:
        torch.set_num_threads(values["threads"])
    with building("optimizer"):
        _try_step(make_optimizer := instantiate(values["optimizer"], _partial_=True), values["trainer"])
    with building("dataset"):
        dataset = of_kind(SequenceDataset, instantiate(values["dataset"]))
        data = SequenceData(dataset, Path(values["paths"]["data"]).expanduser(), values["seed"])
    too_few(values["trainer"], dataset.batch_size, data.splits)
    everything = data.splits.train.everything
    pl.seed_everything(values["seed"], verbose=False)
    with building("model"):
        model = of_kind(SequenceModel, instantiate(values["model"], input_size=everything.x.shape[2]))
    misfit(model, dataset, data.splits)
    module = SequenceLearner(
        model,
        len(data.splits.classes),
        make_optimizer,
        data.splits.shifted,
        numbers=everything.y.shape[-1],
        scheduler=instantiate(values["scheduler"], _partial_=True) if values.get("scheduler") else None,
    )
    return data, module


def _try_step(make_optimizer: Callable[..., Any], trainer: dict[str, Any]) -> None:
    """Take a step on a parameter that stands for all: some optimizers say only then what they cannot do.

    Raises:
        ValueError: If the optimizer cannot take it.
    """
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    parameter.grad = torch.zeros(2, 2)
    try:
        of_kind(torch.optim.Optimizer, make_optimizer(params=[{"params": [parameter]}])).step(lambda: 0.0)
    except (RuntimeError, AssertionError) as error:
        if isinstance(error, AssertionError) and torch.cuda.is_available() and trainer.get("accelerator") != "cpu":
            return  # it wants a GPU, which this parameter is not on
        raise ValueError(f"no step can be taken with it: {error}") from error


def too_few(trainer: dict[str, Any], batch_size: int, splits: Splits) -> None:
    """Raise ConfigError if a fraction of a split's batches is none: that of the test split would be missed after
    training only."""
    for key, split in (("train", splits.train), ("val", splits.validation), ("test", splits.test)):
        limit = trainer.get(f"limit_{key}_batches")
        batches = -(-len(split) // batch_size) if batch_size > 0 else 0
        if isinstance(limit, float) and batches and int(limit * batches) < 1:
            raise ConfigError(f"trainer.limit_{key}_batches={limit} of {batches} batches is not one; write 1 for one")


def misfit(model: SequenceModel, data: SequenceDataset, splits: Splits) -> None:
    """Raise ConfigError if the model needs what the data do not have, or cannot take what they have."""
    name, batch = type(model).__name__, splits.train.everything
    if model.needs_timestamps and batch.timestamps is None:
        raise ConfigError(
            f"model: {name} needs timestamps, and the dataset has none. Add dataset.timestamps={data.with_timestamps}, "
            "or choose a model that reads none, such as model=gru, or one that can do without, such as model=legs"
        )
    if not model.uses_timestamps and batch.timestamps is not None and (splits.shifted or splits.curve):
        raise ConfigError(
            f"model: {name} reads no timestamps, so it would be tested on shifts of the clock that it cannot see. Give "
            "it time as a channel, dataset.timestamps=index, or leave dataset.timestamps out"
        )
    if batch.mask is not None and batch.mask.dim() == 3 and not model.takes_channel_mask:
        raise ConfigError(
            f"model: {name} cannot tell which channels of a step are missing, as they are in this dataset. Choose "
            "model=gru_d, gru_dt, ode_rnn or neural_cde"
        )


def build_trainer(values: dict[str, Any], folder: Path, history: History, tracker: Any, splits: Splits) -> pl.Trainer:
    """Return Lightning's trainer with what every run needs: seeds, history, checkpoints, early stopping, tracking.

    Args:
        values: The checked configuration.
        folder: The run's folder.
        history: What keeps the epochs' metrics.
        tracker: Lightning's logger, or None.
        splits: The data, whose shifts have a best epoch each.

    Raises:
        ConfigError: If the trainer refuses its settings.
    """
    score, mode = records.criterion(splits.classes)
    monitor: dict[str, Any] = {"monitor": f"validation/{score}", "mode": mode}
    always: dict[str, Any] = {
        "dirpath": folder / "checkpoints",
        "save_on_train_epoch_end": True,
        "enable_version_counter": False,
    }
    callbacks: list[pl.Callback] = [EpochSeed(values["seed"]), history]
    for name, node in (values.get("callbacks") or {}).items():
        with building(f"callbacks.{name}"):
            callbacks.append(own := instantiate(node))
        if not isinstance(own, pl.Callback):
            raise ConfigError(f"callbacks.{name}: {node['_target_']} is no Callback of Lightning")
    if values["patience"]:
        callbacks.append(checkpoints.StopEarly(**monitor, patience=values["patience"], check_on_train_epoch_end=True))
    bar = values["trainer"].get("enable_progress_bar", True) and sys.stderr.isatty()
    if bar:
        callbacks.append(TQDMProgressBar(refresh_rate=10))
    for shift in splits.shifted:
        monitor_shift = monitor | {"monitor": f"validation@{shift}/{score}"}
        callbacks.append(checkpoints.Keep(filename=f"best@{shift}", **monitor_shift, **always))
    # The last checkpoint comes after the best, so that a run cut between them repeats the epoch.
    callbacks += [
        checkpoints.Keep(filename="best", **monitor, **always),
        checkpoints.Keep(filename="last", **always),
    ]
    _quieten()
    with building("trainer"):
        make = instantiate(values["trainer"] | {"enable_progress_bar": bar}, _partial_=True)
        trainer = make(
            callbacks=callbacks,
            logger=tracker or False,
            plugins=[checkpoints.AtomicCheckpointIO()],
            default_root_dir=folder,
            num_sanity_val_steps=0,
            enable_model_summary=False,
            use_distributed_sampler=False,  # SequenceData shares its data out itself
        )
        return of_kind(pl.Trainer, trainer)


def _quieten() -> None:
    """Silence what Lightning says of things that are as they should be."""
    for irrelevant in (
        "does not have many workers",  # batches come from memory
        "exists and is not empty",  # so it is when a run is resumed
        "smaller than the logging interval",  # metrics are logged per epoch
        "`LightningModule.configure_optimizers` returned `None`",  # so it is where nothing is learnt
        "`training_step` returned `None`",
        "`isinstance(treespec, LeafSpec)` is deprecated",
        "The `srun` command is available on your system but is not used",
    ):
        warnings.filterwarnings("ignore", message=f".*{re.escape(irrelevant)}")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
