"""One run: from a configuration to a record, resumed where it was cut."""

import datetime
import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import SIGTERMException

from hippo import locks, project
from hippo.files import write_atomically
from hippo.training import checkpoints, records, sources, tracking
from hippo.training.build import build, build_trainer
from hippo.training.callbacks import History
from hippo.training.config import ConfigError, building, check, of_kind
from hippo.training.curves import draw_confusion, draw_curves
from hippo.training.errors import explain
from hippo.training.evaluate import evaluate, throughput
from hippo.training.learner import SequenceData, SequenceLearner
from hippo.training.processes import end_together, is_first, say
from hippo.training.trained import task_of


def run(config: DictConfig) -> dict[str, Any] | None:
    """Train, test and record what a configuration describes, or take it up where it was left.

    A run that is complete is not repeated: its record is read and returned.

    Args:
        config: As composed by Hydra from `configs/train.yaml`.

    Returns:
        The record; None in all but the first of several processes.

    Raises:
        ConfigError: If the configuration is wrong, or a checkpoint is damaged.
        hippo.locks.Held: If another process is at work on the same run.
        hippo.data.DataError: If the data are missing or damaged.
    """
    end_together()
    values = check(config)
    name, identity = values["name"], records.identity(values)
    folder = Path(values["paths"]["outputs"]).expanduser() / name / identity

    def complete() -> bool:
        return (folder / "record.json").exists() and not values["force"]

    def shown() -> dict[str, Any]:
        record = records.read(folder / "record.json")
        say(f"{name} {identity} is complete; force=true runs it again.\n{summary(record)}")
        return record

    if not is_first():
        return None if complete() else _run(values, folder)
    if complete():  # before a lock is taken, which a folder that may only be read does not have
        return shown()
    folder.mkdir(parents=True, exist_ok=True)
    with locks.hold(folder):
        return shown() if complete() else _run(values, folder)  # another process may have completed it meanwhile


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
    """Build, fit, test and record; whatever happens, say so and finish what tracks the run."""
    data, module = build(values)
    _introduce(values, folder, data, module)
    provenance = records.provenance() | {"code": sources.used(values)}
    if warning := sources.warning(provenance["code"]):
        say(warning)
    resume = _take_up(values, folder, module)
    history = History({"started": _now()} | provenance)
    tracker = record = None
    try:
        if values["logger"]:
            tracker = instantiate(values["logger"], _partial_=True)(
                name=values["name"],
                identity=folder.name,
                folder=folder,
                resume=resume is not None,
                settings=records.scientific(values)
                | {"seed": values["seed"], "parameters": module.learnt}
                | provenance,
            )
            if tracker is not None:
                with building("logger"):
                    of_kind(Logger, tracker)
        trainer = _fit(values, folder, data, module, history, tracker, resume)
        results = evaluate(trainer, module, data, history.epochs, folder / "checkpoints")
        if is_first():
            record = _record(values, folder, data, module, history, trainer, results)
            if isinstance(tracker, tracking.Window):
                with tracker.harmless():
                    tracking.log_results(tracker, record, folder)
    except (KeyboardInterrupt, SystemExit) as stop:
        if record is None:
            say("interrupted; the same command goes on from the last complete epoch")
        raise SystemExit(143 if isinstance(stop, SIGTERMException) else 130) from None
    finally:
        tracking.finish(tracker, failed=record is None)
    if record is not None:
        say(f"{summary(record)}\nrecord: {folder / 'record.json'}")
    return record


def _introduce(values: dict[str, Any], folder: Path, data: SequenceData, module: SequenceLearner) -> None:
    """Say which run this is, of what model on what data."""
    splits, model = data.splits, module.model
    sizes = " / ".join(f"{len(split):,}" for split in splits[:3])
    lengths = " / ".join(dict.fromkeys(f"{split.everything.x.shape[1]:,}" for split in splits[:3]))
    channels = splits.train.everything.x.shape[2]
    say(f"run      {values['name']} {folder.name}, in {folder}")
    say(f"data     {sizes} sequences (train / validation / test) of {lengths} steps × {channels}")
    if shifts := ", ".join(splits.shifted):
        say(f"shifts   {shifts}, which training does not see")
    say(f"model    {type(model).__name__}, hidden size {model.hidden_size}, {module.learnt:,} parameters")


def _take_up(values: dict[str, Any], folder: Path, module: SequenceLearner) -> Path | None:
    """Return the checkpoint to go on from, if there is one; where the run is to start over, clear its folder."""
    if values["force"]:
        if is_first():
            for path in folder.iterdir():
                if path.name not in (*locks.FILES, "log.txt"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        return None
    if (whole := checkpoints.newest(folder / "checkpoints", module)) is not None:
        say(f"resuming from {whole}")
    return whole


def _fit(
    values: dict[str, Any],
    folder: Path,
    data: SequenceData,
    module: SequenceLearner,
    history: History,
    tracker: Any,
    resume: Path | None,
) -> pl.Trainer:
    """Write the configuration into the run's folder and train to the last epoch; return what trained."""
    if is_first():
        write_atomically(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(values)))
    trainer = build_trainer(values, folder, history, tracker, data.splits)
    if trainer.world_size > 1 and not module.learnt:
        raise ConfigError("model: nothing is learnt here, so there is nothing to share among processes; one will do")
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resume)
    except Exception as error:
        if resume is None or history.started or explain(error) is not None:
            raise
        raise ConfigError(
            f"{resume} cannot be gone on from ({type(error).__name__}: {error}); start this run over with force=true"
        ) from error
    return trainer


def _record(
    values: dict[str, Any],
    folder: Path,
    data: SequenceData,
    module: SequenceLearner,
    history: History,
    trainer: pl.Trainer,
    results: dict[str, Any],
) -> dict[str, Any]:
    """Write the record of a run that is over, and its pictures; return the record."""
    *earlier, session = history.sessions
    record = {
        "schema": records.SCHEMA,
        "name": values["name"],
        "id": folder.name,
        "seed": values["seed"],
        "hash": records.config_hash(values),
        "config": records.scientific(values),
        "command": _command(),
        "parameters": module.learnt,
        "epochs": len(history.epochs),
        "classes": list(data.splits.classes),
        "task": task_of(data.splits),
        "release": data.splits.release,
        "route": history.route,
        **results,
        "samples_per_second": throughput(trainer, module, data.splits.test),
        "history": history.epochs,
        "seconds": round(sum(epoch["seconds"] for epoch in history.epochs), 1),
        "peak_memory": records.peak_memory(),
        "processes": trainer.world_size,
        "resumed": history.resumed,
        "earlier": earlier,
        "started": session["started"],
        "finished": _now(),
    } | session
    records.write(folder / "record.json", record)  # first: what fails after it loses no result
    draw_curves(record, folder / "curves.png")
    if record["classes"]:
        draw_confusion(record, folder / "confusion.png")
    return record


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _command() -> str | None:
    """Return the command line that gives this run, but for what depends on the machine."""
    if not HydraConfig.initialized():
        return None
    elsewhere = tuple(f"{key}{end}" for key in ("paths", "logger", "threads", "force") for end in (".", "="))
    overrides = [o for o in HydraConfig.get().overrides.task if not o.lstrip("+~").startswith(elsewhere)]
    return project.command(overrides)
