"""Checkpoints: what is kept of a run, so that neither a killed process nor a full disk nor a new path harms it."""

import io
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.plugins import TorchCheckpointIO

from hippo.files import write_atomically
from hippo.training.config import ConfigError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write each checkpoint beside its place and then move it there.

    Lightning's own way writes to the system's temporary folder. Where that is another file system, as on most
    clusters, its move is a copy, and a process killed meanwhile leaves half a checkpoint in the place of a whole one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(path), buffer.getvalue())


class Keep(ModelCheckpoint):
    """Keep one checkpoint, in a folder that may be moved between an interruption and the resumption.

    Lightning's own class forgets which epoch was the best where the folder's path has changed.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        folder = Path(self.dirpath or ".")

        def here(path: str) -> str:
            return str(folder / Path(path).name) if path else path

        state = state_dict | {"dirpath": self.dirpath}
        for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
            state[key] = here(state[key])
        state["best_k_models"] = {here(path): score for path, score in state["best_k_models"].items()}
        super().load_state_dict(state)


class StopEarly(EarlyStopping):
    """Early stopping that stays stopped when the run is taken up between its last epoch and its end."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.wait_count >= self.patience:
            trainer.should_stop = True


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint into host memory. Raises ConfigError if it is damaged, OSError if it cannot be read."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise ConfigError(
            f"{path} is damaged ({error or type(error).__name__}); start this run over with force=true"
        ) from error
