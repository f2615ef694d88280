"""Checkpoints: what is kept of a run, so that neither a killed process nor a full disk nor a new path harms it."""

import io
import zipfile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.plugins import TorchCheckpointIO

from hippo.files import write_atomically
from hippo.training.config import ConfigError
from hippo.training.processes import say

_START_OVER = "start this run over with force=true"


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
    """Read a checkpoint into host memory, and trust nothing in it before its archive's checksums agree.

    A flipped bit in a tensor is no error to `torch.load`: its weights are other numbers.

    Raises:
        ConfigError: If it is missing or damaged.
        OSError: If it cannot be read.
    """
    try:
        content = io.BytesIO(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing; {_START_OVER}") from None
    try:
        with zipfile.ZipFile(content) as archive:
            if (member := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"the checksum of {member} is wrong")
        content.seek(0)
        return torch.load(content, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise ConfigError(f"{path} is damaged ({error or type(error).__name__}); {_START_OVER}") from error


def newest(folder: Path, module: pl.LightningModule) -> Path | None:
    """Return the checkpoint that a run goes on from: its last one or, where that is damaged, the one of its best epoch,
    from which the same epochs follow. None if the run has none.

    Args:
        folder: The run's checkpoints.
        module: What goes on. The weights of a checkpoint that is whole are loaded into it.

    Raises:
        ConfigError: If none is whole, or one that may be needed at the end is not: no work is done that could come to
            nothing.
    """
    path, best = folder / "last.ckpt", folder / "best.ckpt"
    if not path.exists() and not best.exists():
        return None
    try:
        checkpoint = _resumable(path, module)
    except ConfigError as error:
        try:
            checkpoint = _resumable(best, module)
        except ConfigError:
            raise error from None
        say(f"{str(error).partition(';')[0]}. The best epoch before it, {checkpoint['epoch'] + 1}, is whole")
        path = best
    for state in checkpoint["callbacks"].values():
        kept = Path(state.get("best_model_path") or path).name
        if kept not in ("last.ckpt", path.name):
            load(folder / kept)
    return path


def _resumable(path: Path, module: pl.LightningModule) -> dict[str, Any]:
    """Read a checkpoint that a run can go on from."""
    checkpoint = load(path)
    needed = ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks")
    lacking = [key for key in needed if key not in checkpoint]
    if not lacking and "History" not in checkpoint["callbacks"]:
        lacking = ["the history of its epochs"]
    if lacking:
        raise ConfigError(f"{path} lacks {', '.join(lacking)}; {_START_OVER}")
    states = checkpoint["state_dict"], module.state_dict()
    try:
        module.load_state_dict(states[0])  # which also knows what weights were called before
    except RuntimeError as error:
        shapes, own = ({k: v.shape for k, v in state.items()} for state in states)
        other = ", ".join(sorted(k for k in shapes | own if shapes.get(k) != own.get(k)))
        raise ConfigError(f"{path} is of a model with other weights ({other}); {_START_OVER}") from error
    return checkpoint
