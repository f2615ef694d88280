"""What is trained: a sequence model with a linear read-out, and the data that it reads."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.overrides.distributed import UnrepeatedDistributedSampler
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, DistributedSampler
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from hippo.data import Batch, SequenceDataset, Sequences, Splits
from hippo.errors import UserError
from hippo.models import SequenceModel
from hippo.training.config import ConfigError, building, of_kind
from hippo.training.records import derive_seed


class Divergence(UserError, RuntimeError):
    """Training produced a loss that is not a finite number."""


class SequenceLearner(pl.LightningModule):
    """A read-out of a model's features: of classes, by cross entropy, or of numbers, by the mean squared error.

    Logs the loss of each split per epoch, and of classes the accuracy, as `train/…`, `validation/…`,
    `validation@SHIFT/…` and `test/…`, and the vector-field evaluations of a forward pass where there are any.
    Parameters learn at the rates that the model's `lr_factors` say, and weight decay leaves its `undecayed` alone.

    Args:
        model: Features (B, D).
        classes: Number of classes; 0 for numbers.
        optimizer: Makes an optimizer from groups of parameters.
        shifts: Names of the shifts that are validated on.
        numbers: Number of numbers, where there are no classes.
        scheduler: Makes what changes the rates after every step, from the optimizer and the number of steps; None where
            they stay as they are.

    Attributes:
        test_name: What the data that are tested on are called.
        learnt: Number of parameters that are learnt.

    Raises:
        ConfigError: If the model, the optimizer or the scheduler refuses its settings.
    """

    def __init__(
        self,
        model: SequenceModel,
        classes: int,
        optimizer: Callable[..., Optimizer],
        shifts: Iterable[str] = (),
        numbers: int = 0,
        scheduler: Callable[..., LRScheduler] | None = None,
    ) -> None:
        super().__init__()
        self.validations = ("validation", *(f"validation@{shift}" for shift in shifts))
        self.test_name = "test"
        self.model = model
        with building("model"):
            self.head = nn.Linear(model.hidden_size, classes) if classes else model.read_out(numbers)
        self.criterion = nn.functional.cross_entropy if classes else nn.functional.mse_loss
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.learnt = sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)
        # What is wrong with their settings is said before any work; how many steps there are is not known yet.
        with building("optimizer"):
            tried = self._optimizer()
        if tried is not None and scheduler is not None:
            with building("scheduler"):
                of_kind(LRScheduler, scheduler(optimizer=tried, total_steps=1000))
        # No metric looks at its input's values on the host: on a GPU that would stall every step.
        self.metrics = nn.ModuleDict()
        for split in ("train", *self.validations, "test"):
            self.metrics[f"{split}/loss"] = MeanMetric(nan_strategy="disable")
            if classes:
                self.metrics[f"{split}/accuracy"] = MulticlassAccuracy(classes, average="micro", validate_args=False)
        self.confusion = MulticlassConfusionMatrix(classes, validate_args=False) if classes else None

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B, classes), or numbers (B, M)."""
        return self.head(self.model(batch.x, batch.timestamps, mask=batch.mask, lengths=batch.lengths))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        loss = self._step(batch, "train")
        return loss if loss.requires_grad else None

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._step(batch, self.validations[dataloader_idx])

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, "test")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self._optimizer()
        if optimizer is None or self.make_scheduler is None:
            return optimizer
        with building("scheduler"):
            steps = int(self.trainer.estimated_stepping_batches)
            scheduler = self.make_scheduler(optimizer=optimizer, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def learning_rate(self, optimizer: Optimizer) -> float:
        """Return the rate of the parameters whose factor is 1, or of the first ones where there are none."""
        return float(optimizer.param_groups[self._plain]["lr"])

    def _optimizer(self) -> Optimizer | None:
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        factors = self.model.lr_factors
        for name, parameter in self.named_parameters():
            if not parameter.requires_grad:
                continue
            name = name.removeprefix("model.")
            factor = factors.get(name, factors.get(name.partition(".")[0], 1.0))
            groups.setdefault((factor, name not in self.model.undecayed), []).append(parameter)
        if not groups:
            return None  # nothing is learnt
        self._plain = next((k for k, (factor, _) in enumerate(groups) if factor == 1), 0)
        optimizer = self.make_optimizer(
            [{"params": ps} | ({} if decays else {"weight_decay": 0.0}) for (_, decays), ps in groups.items()]
        )
        for group, (factor, _) in zip(optimizer.param_groups, groups, strict=True):
            group["lr"] *= factor
        return optimizer

    def on_train_epoch_end(self) -> None:
        # In validation an infinite loss may go with a good accuracy; where there is none, the loss is all there is.
        for split, name in (("training", "train/loss"), ("validation", "validation/loss")):
            loss = float(self.trainer.callback_metrics[name])
            if math.isfinite(loss) or (math.isinf(loss) and split == "validation" and self.confusion is not None):
                continue
            raise Divergence(
                f"the {split} loss became {loss} in epoch {self.current_epoch + 1}. Lower optimizer.lr, set "
                "trainer.gradient_clip_val, or choose a discretization that is stable at this memory order."
            )

    def on_test_epoch_start(self) -> None:
        if self.confusion is not None:
            self.confusion.reset()

    def _step(self, batch: Batch, split: str) -> Tensor:
        output = self(batch)
        name = self.test_name if split == "test" else split
        once: dict[str, Any] = {
            "on_step": False,
            "on_epoch": True,
            "batch_size": len(batch.y),
            "add_dataloader_idx": False,
            "logger": False if self.trainer.state.fn == TrainerFn.VALIDATING else None,  # it only compares kept weights
        }
        if self.model.evaluations is not None:
            self.log(f"{name}/evaluations", float(self.model.evaluations), **once)
        loss = self.criterion(output, batch.y)
        # One value a sequence: torchmetrics forgets weights where it does not look for NaN.
        self._metric(f"{split}/loss").update(loss.detach().expand(len(batch.y)))
        self.log(f"{name}/loss", self._metric(f"{split}/loss"), **once)
        if self.confusion is not None:
            self._metric(f"{split}/accuracy").update(output.detach(), batch.y)
            self.log(f"{name}/accuracy", self._metric(f"{split}/accuracy"), **once)
            if split == "test":
                self.confusion.update(output, batch.y)
        return loss

    def _metric(self, name: str) -> Metric:
        return cast(Metric, self.metrics[name])


class SequenceData(pl.LightningDataModule):
    """Loaders over a dataset's splits.

    The order of the training set is a function of seed and epoch alone, so a run that is cut and resumed sees the
    same batches as one that is not. `batch_size` counts over all processes, so their number does not change the run,
    but for an incomplete last batch, which repeats samples until it can be shared out evenly.

    Args:
        dataset: The description.
        root: The data root.
        seed: Seed of the order.

    Raises:
        DataError: If the data are missing or damaged, or targets are not what they have to be.
        ConfigError: By the loaders, if the batch size cannot be shared among the processes.
    """

    def __init__(self, dataset: SequenceDataset, root: Path, seed: int) -> None:
        super().__init__()
        self.dataset = dataset
        self.seed = seed
        self.splits: Splits = dataset.load(root)
        self.splits.check()

    def train_dataloader(self) -> DataLoader:
        data = self.splits.train
        sampler = DistributedSampler(data, *self._share(), shuffle=True, seed=derive_seed(self.seed, "order"))
        return self._loader(data, sampler)

    def val_dataloader(self) -> list[DataLoader]:
        shifted = (shift.validation for shift in self.splits.shifted.values())
        return [self.in_order(data) for data in (self.splits.validation, *shifted)]

    def _share(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def in_order(self, data: Sequences) -> DataLoader:
        """Return a loader of sequences in their order, once each."""
        return self._loader(data, UnrepeatedDistributedSampler(data, *self._share(), shuffle=False))

    def _loader(self, data: Sequences, sampler: DistributedSampler) -> DataLoader:
        processes = self._share()[0]
        if self.dataset.batch_size < 1 or self.dataset.batch_size % processes:
            raise ConfigError(
                f"dataset.batch_size={self.dataset.batch_size} cannot be shared among {processes} process(es)"
            )
        return DataLoader(
            data,
            batch_size=self.dataset.batch_size // processes,
            sampler=sampler,
            collate_fn=_as_is,
            generator=torch.Generator(),  # a loader draws a seed, needed or not: not from the model's random numbers
            pin_memory=torch.cuda.is_available(),
        )


def _as_is(batch: Any) -> Any:
    """`Sequences` takes whole batches itself: there is nothing to collate."""
    return batch
