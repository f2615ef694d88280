"""Loggers: windows on a run, Weights & Biases and others. Nothing is read back from them; the record is the source."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import wandb
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from hippo.training.config import ConfigError
from hippo.training.processes import is_first, say

_chosen: set[str] = set()  # variables of the environment that are set here, and not by the user


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
) -> WandbLogger | None:
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

    Returns:
        Lightning's logger; None where the run cannot be started, which is said.

    Raises:
        ConfigError: If WANDB_MODE is none that there is.
    """
    if not is_first():
        return WandbLogger()  # a dummy outside the first process
    chosen: Any = os.environ.get("WANDB_MODE", mode).lower() or mode
    chosen = {"dryrun": "offline", "run": "online"}.get(chosen, chosen)  # W&B's words of old
    if chosen not in ("auto", "online", "offline", "disabled"):
        raise ConfigError(f"WANDB_MODE={chosen} is none of online, offline, disabled")
    if chosen == "auto":
        chosen = "online" if _can_log_in() else "offline"
    if "WANDB_MODE" in os.environ:
        os.environ["WANDB_MODE"] = chosen  # W&B reads it, and knows no capitals
    for key in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):  # they would lie under the home folder
        if key not in os.environ or key in _chosen:
            os.environ[key] = str(folder / "wandb")
            _chosen.add(key)
    modes: list[Any] = [chosen, "offline"] if chosen == "online" else [chosen]
    for tried in modes:
        try:
            run = wandb.init(
                project=project,
                entity=entity,
                group=group or name,
                name=f"{name}-{identity}",
                id=f"{name}-{identity}",
                resume="allow" if resume and tried == "online" else None,
                mode=tried,
                dir=folder,
                config=settings,
                settings=wandb.Settings(silent=True),
            )
        except Exception as error:
            say(f"W&B: {tried}, the run cannot be started ({_first_line(error)})")
            continue
        if tried == "online":
            say(f"W&B: {run.url}")
        elif tried == "offline":
            say(f"W&B: offline; to upload this run later: wandb sync {os.path.relpath(Path(run.dir).parent)}")
        return Window(experiment=run)
    return None


def csv_logger(*, name: str, identity: str, folder: Path, settings: dict[str, Any], resume: bool) -> CSVLogger:
    """Log into `csv/metrics.csv` of the run's folder; arguments are those of `wandb_logger`. A resumed run writes the
    file anew, its earlier epochs included."""
    if is_first():
        shutil.rmtree(folder / "csv", ignore_errors=True)
    logger = CSVLogger(folder, name="", version="csv", flush_logs_every_n_steps=1)
    logger.log_hyperparams(settings)
    return logger


def tensorboard_logger(
    *, name: str, identity: str, folder: Path, settings: dict[str, Any], resume: bool
) -> TensorBoardLogger:
    """Log into `tensorboard/` of the run's folder; arguments are those of `wandb_logger`.

    Raises:
        ConfigError: If TensorBoard is not installed.
    """
    try:
        logger = TensorBoardLogger(folder, name="", version="tensorboard", default_hp_metric=False)
    except ModuleNotFoundError as error:
        raise ConfigError("logger=tensorboard needs TensorBoard: pip install tensorboard") from error
    logger.log_hyperparams(settings)
    return logger


class Window(WandbLogger):
    """Lightning's logger for W&B, whose failures fail nothing; the first is told."""

    broken = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with self.harmless():
            super().log_metrics(metrics, step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        with self.harmless():
            super().finalize(status)

    @contextlib.contextmanager
    def harmless(self) -> Iterator[None]:
        """Go on after what fails within."""
        try:
            yield
        except Exception as error:
            if self.broken:
                return
            self.broken = True
            say(f"W&B failed ({_first_line(error)}). The run goes on without it; its record is in its folder")


def log_results(logger: WandbLogger, record: dict[str, Any], folder: Path) -> None:
    """Log what is known at the end: metrics of each reading, pictures of the curves and, where there are classes, of
    the confusion matrix, and the record itself, which `hippo collect --wandb` can fetch."""
    run = logger.experiment
    if run.disabled:
        return
    for reading, result in record["metrics"].items():
        shifted = {f"@{name}": shift for name, shift in result.get("shifted", {}).items()}
        for at, metrics in ({"": result} | shifted).items():
            for split in ("validation", "test"):
                run.summary.update({f"{reading}/{split}{at}/{name}": v for name, v in metrics[split].items()})
    pictures = {"curves": wandb.Image(str(folder / "curves.png"))}
    if record["classes"]:
        # A picture lies in the run's folder. A table would be an artifact, which W&B keeps under the home folder.
        pictures["confusion"] = wandb.Image(str(folder / "confusion.png"))
    run.log(pictures)
    # A copy, for W&B would link to what may be moved before it is uploaded, and say so.
    run.save(shutil.copy(folder / "record.json", run.dir), base_path=run.dir, policy="now")


def finish(logger: Any, failed: bool) -> None:
    """Finish the W&B run, if there is one, whatever became of the training."""
    if isinstance(logger, Window) and is_first():
        with logger.harmless():
            wandb.finish(exit_code=int(failed))


def _can_log_in() -> bool:
    try:
        return bool(wandb.login(prompt=False))
    except Exception as error:
        say(f"W&B: logging in failed ({_first_line(error)})")
        return False


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
