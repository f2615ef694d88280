"""What happens at each epoch: its randomness is fixed, its metrics are kept, and a line about it is printed."""

import time
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger, WandbLogger
from torch.optim import Optimizer

from hippo.training.learner import SequenceLearner
from hippo.training.processes import is_first, say
from hippo.training.records import derive_seed, show

_SILENCE = 30.0  # seconds without a word that are long enough, where no progress bar can be drawn


class EpochSeed(pl.Callback):
    """Make all random numbers of an epoch (dropout, say) a function of seed and epoch, so that a resumed run repeats
    what an undisturbed one draws."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        torch.manual_seed(derive_seed(self.seed, "epoch", trainer.current_epoch, trainer.global_rank))


class History(pl.Callback):
    """Keep the metrics and seconds of every epoch, through interruptions, and print a line for each.

    Attributes:
        epochs: One dictionary an epoch: `epoch` (from 1), `seconds`, and each metric by its name; where the learning
            rate changes, that of the epoch's last step.
        sessions: What each process that worked on the run was, in order; the last is this one.
        resumed: How often the run was taken up again from a checkpoint.
        started: Whether this process trains by now.
        route: What served the latest step of training, where the model tells.

    Args:
        session: Start and provenance of this process.
    """

    def __init__(self, session: dict[str, Any]) -> None:
        self.sessions = [session]
        self.epochs: list[dict[str, float]] = []
        self.resumed = 0
        self.started = False
        self.route: str | None = None
        self._start = self._spoke = self._rate = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs, "sessions": self.sessions, "resumed": self.resumed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epochs = state_dict["epochs"]
        self.sessions = [*state_dict["sessions"], *self.sessions]
        self.resumed = state_dict["resumed"] + 1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the epochs before a resumption again where what is written begins anew: a CSV file, and an offline run of
        W&B, to which nothing can be appended."""
        self.started = True
        logger = trainer.logger
        anew = isinstance(logger, CSVLogger) or (isinstance(logger, WandbLogger) and logger.experiment.offline)
        if logger and is_first() and anew:
            for epoch in self.epochs:
                metrics = {"seconds/epoch": epoch["seconds"]} | {k: v for k, v in epoch.items() if "/" in k}
                logger.log_metrics(metrics, step=int(epoch["epoch"] * trainer.num_training_batches) - 1)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start = time.perf_counter()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        if trainer.lr_scheduler_configs:
            self._rate = cast(SequenceLearner, pl_module).learning_rate(optimizer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.route = getattr(cast(SequenceLearner, pl_module).model, "route", None)
        now, done = time.perf_counter(), batch_idx + 1
        if trainer.progress_bar_callback is None and now - max(self._start, self._spoke) > _SILENCE:
            self._spoke = now
            total = int(trainer.num_training_batches)
            pace = (now - self._start) / done
            left = pace * (total - done) + self._later(trainer, pace * total)
            say(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}   step {done}/{total}, {_duration(left)} left")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        seconds = time.perf_counter() - self._start
        metrics = {name: float(value) for name, value in sorted(trainer.callback_metrics.items()) if "/" in name}
        metrics.pop("seconds/epoch", None)
        pl_module.log("seconds/epoch", seconds)
        rate = ""
        if trainer.lr_scheduler_configs:
            metrics["train/learning_rate"] = self._rate
            pl_module.log("train/learning_rate", self._rate)
            rate = f"   rate {self._rate:.2g}"
        epoch = trainer.current_epoch + 1
        self.epochs.append({"epoch": epoch, "seconds": round(seconds, 3)} | metrics)
        score = "accuracy" if "validation/accuracy" in metrics else "loss"
        reached = show(score, metrics[f"validation/{score}"])
        say(
            f"epoch {epoch}/{trainer.max_epochs}   train loss {show('loss', metrics['train/loss'])}   "
            f"validation {score} {reached}{rate}   {seconds:.1f} s, {_duration(self._later(trainer))} left"
        )

    def _later(self, trainer: pl.Trainer, guess: float = 0.0) -> float:
        """Return the seconds that the epochs after the present one take, by the mean of those that are done; by a guess
        at one where none is."""
        count = (trainer.max_epochs or 0) - trainer.current_epoch - 1
        mean = sum(epoch["seconds"] for epoch in self.epochs) / len(self.epochs) if self.epochs else guess
        return max(count, 0) * mean


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
