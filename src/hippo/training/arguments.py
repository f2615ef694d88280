"""Which arguments of Lightning's Trainer a configuration may set, and why; the others are refused.

A run stands on three things, and an argument is admitted only where it leaves them as they are:

- what is recorded depends on the configuration and the seed, and not on how fast a machine is;
- every epoch ends with a validation of the weights that its checkpoint keeps;
- a run that is cut and taken up again ends in the numbers of one that is not.
"""

import inspect
import math
import os
import re
from typing import Any

# Given by the code when it calls the trainer, hence not to be set in a configuration.
SUPPLIED = {
    "logger",
    "callbacks",
    "plugins",
    "default_root_dir",
    "num_sanity_val_steps",
    "enable_model_summary",
    "use_distributed_sampler",
    "enable_checkpointing",
}
ADMITTED = {
    "accelerator": "where a run takes place is recorded, and no part of its identity",
    "devices": "the batch is shared out, so that the steps stay the same",
    "num_nodes": "as devices",
    "strategy": "as devices; those of STRATEGIES",
    "enable_progress_bar": "it only shows",
    "max_epochs": "the length of training",
    "precision": "those of PRECISIONS",
    "deterministic": "slower or faster algorithms; a part of the identity",
    "gradient_clip_val": "a part of each step",
    "gradient_clip_algorithm": "a part of each step",
    "accumulate_grad_batches": "a part of each step; an epoch ends with whole steps",
    "limit_train_batches": "the same batches of an epoch in every run",
    "limit_val_batches": "the first batches, in every epoch and for the kept weights alike",
    "limit_test_batches": "the first batches",
    "sync_batchnorm": "makes several processes take the steps of one",
    "detect_anomaly": "it only watches",
    "profiler": "it only watches",
}
_EPOCHS = "trainer.max_epochs says how long to train, and patience when to stop before"
_SPEED = "what would be recorded depends on how fast the machine is"
_WEIGHTS = "every epoch has to end with a validation of the weights that it keeps, for that chooses what is tested"
_NOTHING = "it changes nothing here"
# Why, for those that somebody may want.
REFUSED = {
    "max_time": f"{_SPEED}. {_EPOCHS}",
    "benchmark": f"{_SPEED}: it chooses algorithms by timing them",
    "max_steps": f"{_WEIGHTS}, and this may stop within an epoch. {_EPOCHS}; +trainer.limit_train_batches shortens one",
    "min_steps": _EPOCHS,
    "min_epochs": _EPOCHS,
    "val_check_interval": f"{_WEIGHTS}; a validation within the epoch is of other weights",
    "check_val_every_n_epoch": _WEIGHTS,
    "overfit_batches": f"{_WEIGHTS}, on the validation split. Use +trainer.limit_train_batches=1 instead",
    "fast_dev_run": "it keeps no weights to test. Use +trainer.limit_train_batches=1 instead",
    "barebones": "it keeps no weights to test",
    "reload_dataloaders_every_n_epochs": "the order of a run's data is a function of its seed and the epoch",
    "log_every_n_steps": "metrics are logged once an epoch",
    "limit_predict_batches": _NOTHING,
    "inference_mode": _NOTHING,
    "enable_autolog_hparams": _NOTHING,
    "model_registry": _NOTHING,
}
PRECISIONS = ("32-true", "64-true", "bf16-mixed", "16-mixed")
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true")
MOST_DEVICES = 16  # of a node; a CPU has as many as it is asked for, and each is a process


def _devices(value: Any) -> bool:
    """Return whether there may be these devices: a number of them, -1 for all, or those of some numbers."""
    if isinstance(value, str):
        return re.fullmatch(r"auto|-1|\d{1,3}(,\d{1,3})*,?", value) is not None and value != "0"
    if isinstance(value, list):
        return bool(value) and all(type(number) is int and number >= 0 for number in value)
    return type(value) is int and (value == -1 or 1 <= value <= max(MOST_DEVICES, os.cpu_count() or 1))


def refusal(trainer: dict[str, Any]) -> str | None:
    """Return what is wrong with a configuration's `trainer`, in one sentence that names the key, or None.

    Keys that Lightning's Trainer lacks are left to the class that takes them.
    """
    import pytorch_lightning as pl  # it takes seconds and half a gigabyte, which tables do without

    for key in trainer:
        if key in REFUSED:
            return f"trainer.{key} cannot be set: {REFUSED[key]}"
        if key in inspect.signature(pl.Trainer).parameters and key not in ADMITTED | dict.fromkeys(SUPPLIED):
            return f"trainer.{key} cannot be set: nobody has looked at whether a run stays the same run under it"
    if (epochs := trainer.get("max_epochs")) is None or epochs < 1:
        return f"trainer.max_epochs must be at least 1, not {epochs}"
    for key, choices in (("precision", PRECISIONS), ("strategy", STRATEGIES)):
        value = trainer.get(key, choices[0])
        if not isinstance(value, dict) and value not in choices:
            return f"trainer.{key}={value} is none of {', '.join(choices)}"
    if not _devices(devices := trainer.get("devices", "auto")):
        return (
            f"trainer.devices must be a number from 1 to {max(MOST_DEVICES, os.cpu_count() or 1)}, -1 or auto for all, "
            f"or a list of numbers of devices, not {devices!r}"
        )
    if trainer.get("num_nodes", 1) < 1:
        return f"trainer.num_nodes must be at least 1, not {trainer['num_nodes']}"
    if (algorithm := trainer.get("gradient_clip_algorithm")) not in (None, "norm", "value"):
        return f"trainer.gradient_clip_algorithm={algorithm} is none of norm, value"
    if trainer.get("accumulate_grad_batches", 1) < 1:
        return f"trainer.accumulate_grad_batches must be at least 1, not {trainer['accumulate_grad_batches']}"
    clip = trainer.get("gradient_clip_val")
    if clip is not None and not 0 < clip < math.inf:
        return f"trainer.gradient_clip_val must be above 0, or null to clip nothing, not {clip}"
    for split in ("train", "val", "test"):
        key = f"limit_{split}_batches"
        limit = trainer.get(key)
        if limit is not None and (isinstance(limit, bool) or not limit > 0 or (isinstance(limit, float) and limit > 1)):
            return f"trainer.{key} must be a number of batches, at least 1, or a fraction of them, not {limit}"
    return None
