"""One run: from a configuration to a record, resumed where it was cut."""

import datetime
import logging
import math
import re
import shlex
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.utilities.exceptions import SIGTERMException

from hippo.data import SequenceDataset, Sequences, Splits
from hippo.data.base import move
from hippo.files import write_atomically
from hippo.models import SequenceModel
from hippo.training import checkpoints, records, tracking
from hippo.training.callbacks import EpochSeed, History
from hippo.training.config import ConfigError, building, check
from hippo.training.curves import draw_curves
from hippo.training.learner import SequenceData, SequenceLearner
from hippo.training.processes import is_first, say


def run(config: DictConfig) -> dict[str, Any] | None:
    """Train, test and record what a configuration describes, or take it up where it was left.

    A run that is complete is not repeated: its record is read and returned.

    Args:
        config: As composed by Hydra from `configs/train.yaml`.

    Returns:
        The record; None in all but the first of several processes.

    Raises:
        ConfigError: If the configuration is wrong, or another process is at work on the same run.
        hippo.data.DataError: If the data are missing or damaged.
    """
    values = check(config)
    name, identity = values["name"], records.identity(values)
    folder = Path(values["paths"]["outputs"]).expanduser() / name / identity

    def complete() -> bool:
        return (folder / "record.json").exists() and not values["force"]

    if not is_first():
        return None if complete() else _run(values, folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=1):  # whoever only looks whether it is held lets go at once
            if complete():
                record = records.read(folder / "record.json")
                say(f"{name} {identity} is complete; force=true runs it again.\n{summary(record)}")
                return record
            return _run(values, folder)
    except Timeout:
        raise ConfigError(f"another process is at work on this run, in {folder}") from None


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


def summary(record: dict[str, Any]) -> str:
    """Return the lines that say what a run came to."""
    lines = []
    for reading, result in record["metrics"].items():
        score = records.criterion(record["classes"])[0]
        validation, test = (records.show(score, result[split][score]) for split in ("validation", "test"))
        shifts = result.get("shifted", {}).items()
        shifted = "".join(f", {name} {records.show(score, shift['test'][score])}" for name, shift in shifts)
        lines.append(
            f"{reading:>5} epoch ({result['epoch']}): validation {score} {validation}, test {score} {test}{shifted}"
        )
    return "\n".join(lines)


def _run(values: dict[str, Any], folder: Path) -> dict[str, Any] | None:
    seed = values["seed"]
    if values["threads"]:
        torch.set_num_threads(values["threads"])
    with building("dataset"):
        data = SequenceData(instantiate(values["dataset"]), Path(values["paths"]["data"]).expanduser(), seed)
    (example, targets, *_), classes = data.splits.train.everything, data.splits.classes
    pl.seed_everything(seed, verbose=False)
    with building("model"):
        model = instantiate(values["model"], input_size=example.shape[2])
    misfit(model, data.dataset, data.splits)
    with building("optimizer"):
        optimizer = instantiate(values["optimizer"], _partial_=True)
        module = SequenceLearner(model, len(classes), optimizer, data.splits.shifted, numbers=targets.shape[-1])
    parameters = sum(p.numel() for p in module.parameters() if p.requires_grad)

    last = folder / "checkpoints" / "last.ckpt"
    resume = last if last.exists() and not values["force"] else None
    sizes = " / ".join(f"{len(split):,}" for split in data.splits[:3])
    lengths = " / ".join(dict.fromkeys(f"{split.everything.x.shape[1]:,}" for split in data.splits[:3]))
    say(f"run      {values['name']} {folder.name}, in {folder}")
    say(f"data     {sizes} sequences (train / validation / test) of {lengths} steps × {example.shape[2]}")
    if shifts := ", ".join(data.splits.shifted):
        say(f"shifts   {shifts}, which training does not see")
    say(f"model    {type(model).__name__}, hidden size {model.hidden_size}, {parameters:,} parameters")
    if values["force"] and is_first():
        for path in folder.iterdir():
            if path.name not in (".lock", "log.txt"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    if resume:
        checkpoints.load(resume)
        say(f"resuming from {resume}")

    provenance = records.provenance()
    tracker = None
    failed = True
    started = _now()
    try:
        if values["logger"]:
            tracker = instantiate(values["logger"], _partial_=True)(
                name=values["name"],
                identity=folder.name,
                folder=folder,
                resume=resume is not None,
                settings=records.scientific(values) | {"seed": seed, "parameters": parameters} | provenance,
            )
        if is_first():
            text = OmegaConf.to_yaml(OmegaConf.create(values))
            write_atomically(folder / "config.yaml", text)
        history = History({"started": started} | provenance)
        with building("trainer"):
            trainer = _trainer(values, folder, history, tracker, data.splits)
        if trainer.world_size > 1 and not parameters:
            raise ConfigError(
                "model: nothing is learnt here, so there is nothing to share among processes; one will do"
            )
        trainer.fit(module, datamodule=data, ckpt_path=resume)
        results = _evaluate(trainer, module, data, history, folder)
        if not is_first():
            return None
        record = {
            "schema": records.SCHEMA,
            "name": values["name"],
            "id": folder.name,
            "seed": seed,
            "hash": records.config_hash(values),
            "config": records.scientific(values),
            "command": _command(),
            "parameters": parameters,
            "epochs": len(history.epochs),
            "classes": list(classes),
            **results,
            "samples_per_second": throughput(trainer, module, data.splits.test),
            "history": history.epochs,
            "seconds": round(sum(epoch["seconds"] for epoch in history.epochs), 1),
            "peak_memory": records.peak_memory(),
            "processes": trainer.world_size,
            "resumed": history.resumed,
            "earlier": history.sessions[:-1],
            "started": started,
            "finished": _now(),
        } | provenance
        draw_curves(record, folder / "curves.png")
        records.write(folder / "record.json", record)
        failed = False
        if tracker:
            tracking.log_results(tracker, record, folder)
    except (KeyboardInterrupt, SystemExit) as stop:
        if failed:
            say("interrupted; the same command goes on from the last complete epoch")
        raise SystemExit(143 if isinstance(stop, SIGTERMException) else 130) from None
    finally:
        tracking.finish(tracker, failed)
    say(f"{summary(record)}\nrecord: {folder / 'record.json'}")
    return record


def throughput(trainer: pl.Trainer, module: SequenceLearner, data: Sequences) -> float:
    """Return how many samples a second a model reads of one sequence by itself, the best of three readings."""
    module.to(trainer.strategy.root_device).eval()  # a test leaves it on the CPU
    precision = trainer.precision_plugin
    fastest, batch = math.inf, precision.convert_input(move(data[0], module.device))
    with torch.inference_mode(), precision.forward_context():
        for _ in range(3):
            start = time.perf_counter()
            module(batch).cpu()
            fastest = min(fastest, time.perf_counter() - start)
    length = batch.x.shape[1] if batch.lengths is None else int(batch.lengths)
    return length / fastest


def _trainer(values: dict[str, Any], folder: Path, history: History, tracker: Any, splits: Splits) -> pl.Trainer:
    score, mode = records.criterion(splits.classes)
    monitor: dict[str, Any] = {"monitor": f"validation/{score}", "mode": mode}
    always: dict[str, Any] = {
        "dirpath": folder / "checkpoints",
        "save_on_train_epoch_end": True,
        "enable_version_counter": False,
    }
    callbacks: list[pl.Callback] = [EpochSeed(values["seed"]), history]
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
    return instantiate(values["trainer"] | {"enable_progress_bar": bar}, _partial_=True)(
        callbacks=callbacks,
        logger=tracker or False,
        plugins=[checkpoints.AtomicCheckpointIO()],
        default_root_dir=folder,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        use_distributed_sampler=False,  # SequenceData shares its data out itself
    )


def _evaluate(
    trainer: pl.Trainer, module: SequenceLearner, data: SequenceData, history: History, folder: Path
) -> dict[str, Any]:
    """Read the test split: with the weights of the epoch that validation finds best, with the last ones, and with
    those that are the best under each shift.

    Returns:
        The metrics of each reading; of the first one also the confusion matrix (true class × predicted class) where
        there are classes, and the metrics along the curve where there is one.
    """
    score, mode = records.criterion(data.splits.classes)
    best = max if mode == "max" else min
    kept = ("loss", "accuracy") if data.splits.classes else ("loss",)

    def metrics(split: str, source: dict[str, float]) -> dict[str, float]:
        return {name: source[f"{split}/{name}"] for name in kept}

    def test(sequences: Sequences, name: str = "test") -> dict[str, float]:
        module.test_name = name
        return metrics(name, dict(trainer.test(module, dataloaders=data.in_order(sequences), verbose=False)[0]))

    shifts, results = data.splits.shifted, {}
    read: dict[float, dict[str, Any]] = {}
    for reading in ("best", "last", *(f"best@{shift}" for shift in shifts)):
        split = reading.replace("best", "validation", 1)
        epoch = history.epochs[-1] if reading == "last" else best(history.epochs, key=lambda e: e[f"{split}/{score}"])
        if epoch["epoch"] not in read:
            path = folder / "checkpoints" / f"{reading}.ckpt"
            checkpoint = checkpoints.load(path)
            if checkpoint["epoch"] + 1 != epoch["epoch"]:
                raise ConfigError(
                    f"{path} holds epoch {checkpoint['epoch'] + 1} and not {epoch['epoch']}, which the run's history "
                    "names; start this run over with force=true"
                )
            module.load_state_dict(checkpoint["state_dict"])
            read[epoch["epoch"]] = {
                "epoch": epoch["epoch"],
                "validation": metrics("validation", epoch),
                "test": test(data.splits.test),
            }
            confusion = None if module.confusion is None else module.confusion.compute().tolist()
            if shifts:
                read[epoch["epoch"]]["shifted"] = {
                    name: {
                        "validation": metrics(f"validation@{name}", epoch),
                        "test": test(shift.test, f"test@{name}"),
                    }
                    for name, shift in shifts.items()
                }
            if reading == "best":
                if confusion is not None:
                    results["confusion"] = confusion
                if curve := data.splits.curve:
                    results["curve"] = [
                        {"kind": point.kind, "value": point.value}
                        | test(point.test, f"curve_{point.kind}/{point.value:g}")
                        for point in curve
                    ]
        results.setdefault("metrics", {})[reading] = read[epoch["epoch"]]
    return results


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


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _command() -> str | None:
    """Return the command line that gives this run, but for what depends on the machine."""
    if not HydraConfig.initialized():
        return None
    elsewhere = tuple(f"{key}{end}" for key in ("paths", "logger", "threads", "force") for end in (".", "="))
    overrides = [o for o in HydraConfig.get().overrides.task if not o.lstrip("+~").startswith(elsewhere)]
    return shlex.join(["python", "train.py", *overrides])
