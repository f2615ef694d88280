"""Checkpoints: what is kept of a run, so that neither a killed process nor a full disk nor a new path harms it."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.plugins import TorchCheckpointIO

from hippo.files import write_atomically
from hippo.training.config import ConfigError
from hippo.training.learner import SequenceLearner
from hippo.training.processes import say

_START_OVER = "start this run over with force=true"
_NEEDED = {
    "epoch": int,
    "global_step": int,
    "pytorch-lightning_version": str,
    "state_dict": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "loops": dict,
    "callbacks": dict,
}


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
    if not path.is_file():  # and a pipe would be waited for
        raise ConfigError(f"{path} is {'no file' if path.exists() else 'missing'}; {_START_OVER}")
    content = io.BytesIO(path.read_bytes())
    try:
        with zipfile.ZipFile(content) as archive:
            if (member := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"the checksum of {member} is wrong")
        content.seek(0)
        checkpoint = torch.load(content, map_location="cpu", weights_only=True)
        if not isinstance(checkpoint, dict):
            raise TypeError(f"it holds a {type(checkpoint).__name__}")
        return checkpoint
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        said = next(iter(str(error).splitlines()), type(error).__name__)  # torch goes on to advise to trust it
        raise ConfigError(f"{path} is damaged ({said}); {_START_OVER}") from error


def newest(folder: Path, module: SequenceLearner) -> Path | None:
    """Return the checkpoint that a run goes on from: its last one or, where that is damaged, the one of its best epoch,
    from which the same epochs follow. None if the run has none.

    Args:
        folder: The run's checkpoints.
        module: What goes on. The weights of checkpoints that are whole are loaded into it.

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
            _resumable(folder / kept, module)
    return path


def _resumable(path: Path, module: SequenceLearner) -> dict[str, Any]:
    """Read a checkpoint that a run can go on from."""
    checkpoint = load(path)
    lacking = [key for key, kind in _NEEDED.items() if not isinstance(checkpoint.get(key), kind)]
    if not lacking:
        lacking = list(_lacking(checkpoint, module))
    if lacking:
        raise ConfigError(f"{path} lacks {', '.join(lacking)}; {_START_OVER}")
    states = checkpoint["state_dict"], module.state_dict()
    try:
        module.load_state_dict(states[0])  # which also knows what weights were called before
    except RuntimeError as error:
        shapes, own = ({k: getattr(v, "shape", None) for k, v in state.items()} for state in states)
        other = ", ".join(sorted(k for k in shapes | own if shapes.get(k) != own.get(k)))
        raise ConfigError(f"{path} is of a model with other weights ({other}); {_START_OVER}") from error
    return checkpoint


def _lacking(checkpoint: dict[str, Any], module: SequenceLearner) -> Iterator[str]:
    """Yield what a checkpoint lacks without which other numbers would follow, and no error."""
    states = checkpoint["callbacks"].values()
    scores = ("loss",) if module.confusion is None else ("loss", "accuracy")
    needed = {"epoch", "seconds"} | {f"{split}/{score}" for split in ("train", *module.validations) for score in scores}
    match checkpoint["callbacks"].get("History"):
        case {"epochs": list(epochs), "sessions": list(), "resumed": int()} if len(epochs) == checkpoint[
            "epoch"
        ] + 1 and all(needed <= {*epoch} for epoch in epochs):
            pass
        case _:
            yield "the history of its epochs"
    if not all(isinstance(state, dict) for state in states):
        yield "states of its callbacks"
    elif sum("best_model_path" in state for state in states) <= len(module.validations):
        yield "what its best epochs are"
    if len(checkpoint["optimizer_states"]) != (module.learnt > 0):
        yield "the state of its optimizer"
    if len(checkpoint["lr_schedulers"]) != (module.learnt > 0 and module.make_scheduler is not None):
        yield "the state of its scheduler"
