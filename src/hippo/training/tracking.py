"""Weights & Biases: the window on a run. Nothing is read back from it; the record is the source."""

import os
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import wandb
from pytorch_lightning.loggers import WandbLogger

from hippo.training.config import ConfigError
from hippo.training.processes import is_first, say


def wandb_logger(
    project: str = "hippo",
    entity: str | None = None,
    group: str | None = None,
    mode: Literal["auto", "online", "offline"] = "auto",
    *,
    name: str,
    identity: str,
    folder: Path,
    settings: dict[str, Any],
    resume: bool,
) -> WandbLogger:
    """Start, or take up again, the W&B run of this identity.

    Args:
        project: W&B project.
        entity: W&B user or team; your default where None.
        group: W&B group; the experiment's name where None.
        mode: "auto" is online when an API key is configured and offline otherwise. WANDB_MODE overrides it.
        name: The experiment's name.
        identity: The run's identity, from `records.identity`.
        folder: The run's folder.
        settings: Logged as the run's configuration.
        resume: Whether to go on in the W&B run of that name; a run from the start replaces it.

    Raises:
        ConfigError: If WANDB_MODE is none that there is.
        wandb.errors.Error: If the run cannot be started.
    """
    if not is_first():
        return WandbLogger()  # a dummy outside the first process
    chosen: Any = os.environ.get("WANDB_MODE", mode).lower() or mode
    if chosen not in ("auto", "online", "offline", "disabled"):
        raise ConfigError(f"WANDB_MODE={chosen} is none of online, offline, disabled")
    if chosen == "auto":
        chosen = "online" if _can_log_in() else "offline"
    run = wandb.init(
        project=project,
        entity=entity,
        group=group or name,
        name=f"{name}-{identity}",
        id=f"{name}-{identity}",
        resume="allow" if resume and chosen == "online" else None,
        mode=chosen,
        dir=folder,
        config=settings,
        settings=wandb.Settings(silent=True),
    )
    if chosen == "online":
        say(f"W&B: {run.url}")
    elif chosen == "offline":
        say(f"W&B: offline; to upload this run later: wandb sync {os.path.relpath(Path(run.dir).parent)}")
    return WandbLogger(experiment=run)


def log_results(logger: WandbLogger, record: dict[str, Any], folder: Path) -> None:
    """Log what is known at the end: metrics of each reading, the confusion matrix where there are classes, the picture
    of the curves, and the record itself, which `scripts/collect.py --wandb` can fetch."""
    run = logger.experiment
    if run.disabled:
        return
    for reading, result in record["metrics"].items():
        shifted = {f"@{name}": shift for name, shift in result.get("shifted", {}).items()}
        for at, metrics in ({"": result} | shifted).items():
            for split in ("validation", "test"):
                run.summary.update({f"{reading}/{split}{at}/{name}": v for name, v in metrics[split].items()})
    pictures: dict[str, Any] = {"curves": wandb.Image(str(folder / "curves.png"))}
    if classes := record["classes"]:
        counts = np.array(record["confusion"])
        truth, predicted = (np.repeat(index.ravel(), counts.ravel()).tolist() for index in np.indices(counts.shape))
        pictures["confusion"] = wandb.plot.confusion_matrix(y_true=truth, preds=predicted, class_names=classes)
    run.log(pictures)
    # A copy, for W&B would link to what may be moved before it is uploaded, and say so.
    run.save(shutil.copy(folder / "record.json", run.dir), base_path=run.dir, policy="now")


def finish(logger: Any, failed: bool) -> None:
    """Finish the W&B run, if there is one, whatever became of the training."""
    if isinstance(logger, WandbLogger) and is_first():
        wandb.finish(exit_code=int(failed))


def _can_log_in() -> bool:
    try:
        return bool(wandb.login(prompt=False))
    except wandb.errors.Error as error:
        say(f"W&B: a key is configured, but logging in failed ({str(error).splitlines()[0]})")
        return False
