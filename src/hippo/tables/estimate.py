"""What a run will take: a few real steps of it, timed here and now."""

import logging
import statistics
import time
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from tqdm import tqdm

from hippo.training.build import build
from hippo.training.config import building
from hippo.training.errors import explain
from hippo.training.sweeps import Run

WARM_UP = 1  # the first step is slower: its memory is new, and loops are compiled
MOST, SECONDS = 20, 2.0  # steps to time, or as many as fit; one at least


class Estimate(NamedTuple):
    """The seconds of a run, or why there are none."""

    seconds: float | None
    reason: str = ""


def estimates(runs: Iterable[Run], threads: int) -> dict[Run, Estimate]:
    """Return what runs take on this machine, each setting timed once, by itself, whatever its seeds.

    Args:
        runs: Runs, before they take place.
        threads: CPU threads, for runs that choose none.
    """
    settings: dict[str, Run] = {}
    for run in (runs := list(runs)):
        settings.setdefault(run.id.partition("-")[0], run)
    before, found = torch.get_num_threads(), {}
    progress = tqdm(settings.items(), desc="timing steps", unit="setting", leave=False, disable=not settings)
    for setting, run in progress:
        progress.set_postfix_str(f"{run.name} {setting}")
        torch.set_num_threads(run.config["threads"] or threads)
        try:
            found[setting] = Estimate(run.epochs * seconds_an_epoch(run.config))
        except Exception as error:
            if (explanation := explain(error)) is None:
                raise
            found[setting] = Estimate(None, explanation.splitlines()[0])
        finally:
            torch.set_num_threads(before)
    return {run: found[run.id.partition("-")[0]] for run in runs}


def seconds_an_epoch(values: dict[str, Any]) -> float:
    """Return the seconds of an epoch, validation included, from some of its steps. The tests at the end are left out.

    Args:
        values: A resolved configuration. Of several devices one is timed.

    Raises:
        FileNotFoundError: If its data are not here; nothing is downloaded.
        hippo.data.DataError: If they are damaged.
        ConfigError: If model and data do not go together.
    """
    root = Path(values["paths"]["data"]).expanduser()
    with building("dataset"):
        dataset = instantiate(values["dataset"])
    if not dataset.is_here(root):
        raise FileNotFoundError(2, "its data are not here, so it cannot be timed", str(root))
    data, learner = build(values | {"threads": None})
    clock, log = _Clock(), logging.getLogger("pytorch_lightning")
    level = log.level
    few = {"max_epochs": 1, "limit_train_batches": WARM_UP + MOST, "limit_val_batches": 1, "devices": 1}
    try:
        log.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Lightning says of few batches, no checkpoints, and the like
            trainer = instantiate(
                values["trainer"] | few | {"strategy": "auto", "enable_progress_bar": False}, _partial_=True
            )(
                callbacks=[clock],
                logger=False,
                enable_checkpointing=False,
                num_sanity_val_steps=0,
                enable_model_summary=False,
                use_distributed_sampler=False,
            )
            trainer.fit(learner, datamodule=data)
    finally:
        log.setLevel(level)
    loaders = zip(clock.validation, data.val_dataloader(), strict=True)
    validation = sum(seconds * len(loader) for seconds, loader in loaders)
    return len(data.train_dataloader()) * statistics.median(clock.train[WARM_UP:] or clock.train) + validation


def on_gpus(run: Run, found: Mapping[tuple[str, str], dict[str, Any]]) -> dict[str, float]:
    """Return the seconds that records of the same setting took, the median by the name of their GPU."""
    seconds: dict[str, list[float]] = {}
    for record in found.values():
        if record["machine"]["gpus"] and record["hash"] == run.id.partition("-")[0]:
            seconds.setdefault(record["machine"]["gpus"][0], []).append(record["seconds"])
    return {name: statistics.median(some) for name, some in seconds.items()}


class _Clock(pl.Callback):
    """Seconds of each batch: from the end of the one before it, so with the reading of its data."""

    def __init__(self) -> None:
        self.train: list[float] = []
        self.validation: list[float] = []  # one batch of each loader
        self._last = 0.0

    def _lap(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        last, self._last = self._last, time.perf_counter()
        return self._last - last

    def on_train_epoch_start(self, *args: Any, **kwargs: Any) -> None:
        self._lap()

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        self.train.append(self._lap())
        if sum(self.train[WARM_UP:]) > SECONDS:
            trainer.should_stop = True

    def on_validation_epoch_start(self, *args: Any, **kwargs: Any) -> None:
        self._lap()

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.validation.append(self._lap())
