"""Checkpoints that a killed process or a full disk cannot damage."""

import io
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins import TorchCheckpointIO

from hippo.training.config import ConfigError
from hippo.training.records import write_atomically


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


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint into host memory. Raises ConfigError if it is damaged."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        raise ConfigError(f"{path} is damaged ({error}); start this run over with force=true") from error
