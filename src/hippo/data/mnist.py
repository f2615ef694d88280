"""MNIST pixel by pixel: sequential MNIST, and permuted MNIST."""

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from filelock import FileLock

from hippo.data.base import Batch, DataError, Scaling, SequenceDataset, Sequences, Splits, steps
from hippo.data.permutation import Permutation, in_order, pixel_order

MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


@dataclass(frozen=True, kw_only=True)
class MNIST(SequenceDataset):
    """70,000 digits as sequences of 784 pixels in [0, 1]: 54,000 train, 6,000 validation, 10,000 test.

    Validation is drawn at random from the 60,000 training images; the test split is MNIST's own.

    Args:
        batch_size: Sequences a step.
        permutation: Order of the pixels: "none" (sequential MNIST), "bit_reversal" (the paper's permuted MNIST), or
            "random" (the literature's; results under different permutations are not comparable digit for digit).
        permutation_seed: Seed of the "random" permutation.
        split_seed: Seed of the choice of the validation images.
        timestamps: Whether step k carries the timestamp k.
    """

    permutation: Permutation = "bit_reversal"
    permutation_seed: int = 0
    split_seed: int = 0
    timestamps: bool = False

    def is_here(self, root: Path) -> bool:
        return all((root / "MNIST" / "raw" / name).is_file() for name in MD5)

    def load(self, root: Path) -> Splits:
        fetch(root)

        def read(train: bool) -> Batch:
            images = torchvision.datasets.MNIST(root, train=train)
            return Batch(images.data.flatten(1).unsqueeze(-1), images.targets)

        def take(raw: Batch) -> Sequences:
            return Sequences(self.prepare(raw, None))

        x, y, *_ = read(train=True)
        generator = torch.Generator("cpu").manual_seed(self.split_seed)
        rows = torch.randperm(len(y), generator=generator, device="cpu")
        train, validation = rows[:54_000].sort().values, rows[54_000:].sort().values
        return Splits(
            take(Batch(x[train], y[train])),
            take(Batch(x[validation], y[validation])),
            take(read(train=False)),
            classes=tuple(str(digit) for digit in range(10)),
        )

    def prepare(self, raw: Batch, scaling: Scaling | None) -> Batch:
        """Return images (B, 784, 1), row by row and from 0 to 255, as a model gets them."""
        order = pixel_order(self.permutation, 28 * 28, self.permutation_seed)
        return steps(in_order(raw, order).float() / 255, raw.y, self.timestamps)


def fetch(root: Path) -> None:
    """Make sure that MNIST's four files lie in root/MNIST/raw and are intact; download them if any is missing.

    Raises:
        DataError: If a file is missing and cannot be downloaded, or is damaged.
    """
    folder = root / "MNIST" / "raw"
    if any(not (folder / name).is_file() for name in MD5):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.parent / ".lock"):
                torchvision.datasets.MNIST(root, download=True)
        except (OSError, RuntimeError) as error:
            with contextlib.suppress(OSError):
                (folder.parent / ".lock").unlink()
            for empty in (folder, folder.parent, root):
                with contextlib.suppress(OSError):  # it holds something
                    empty.rmdir()
            missing = [name for name in MD5 if not (folder / name).is_file()]
            raise DataError(
                f"MNIST is not complete, and could not be downloaded ({error}).\n"
                f"Missing in {os.fspath(folder)}: {', '.join(missing)}.\n"
                "Put these files there (uncompressed, from any copy of MNIST), or name the folder that holds "
                "MNIST/raw with paths.data=FOLDER or the environment variable HIPPO_DATA."
            ) from error
    for name, expected in MD5.items():
        path = folder / name
        try:
            found = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}. Check its permissions.") from error
        if found != expected:
            raise DataError(
                f"{path} is damaged or not MNIST's: its md5 is {found}, not {expected} ({path.stat().st_size} bytes). "
                "Delete it to have it downloaded again, or replace it with an intact copy."
            )
