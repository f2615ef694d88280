"""Records: what a run was, and what came of it, in one JSON file. Tables are made from these alone."""

import contextlib
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from hippo.errors import UserError
from hippo.files import write_atomically

SCHEMA = 2
NOT_IDENTITY = {"name", "seed", "paths", "logger", "threads", "force", "window"}
_LATER = {"scheduler"}  # keys younger than the first records: where they say nothing, they are not there
# Settings of models that records made before them lack, by class, with the value that those records stand for. A
# configuration that is to be run states them (`hippo.training.config.check`), so none is taken for an old record.
ADDED: dict[str, dict[str, Any]] = {"hippo.models.ExpRNN": {"base": "initial"}}
_HARDWARE = {"accelerator", "devices", "num_nodes", "strategy", "enable_progress_bar"}
_PACKAGES = (
    "torch",
    "torchvision",
    "pytorch-lightning",
    "hydra-core",
    "omegaconf",
    "wandb",
    "numpy",
    "scikit-learn",
    "torchdiffeq",
    "torchcde",
    "numba",
    "triton",
)


class RecordError(UserError, ValueError):
    """A file is not the record it should be."""


def identity(config: dict[str, Any]) -> str:
    """Return the name of a run: a hash of what decides its result, without seed, paths and hardware, and the seed."""
    return f"{config_hash(config)}-seed{config['seed']}"


def scientific(config: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a resolved configuration that decides the result, the seed apart."""
    kept = {k: v for k, v in config.items() if k not in NOT_IDENTITY and (v or k not in _LATER)}
    kept["trainer"] = {key: value for key, value in config["trainer"].items() if key not in _HARDWARE}
    return kept


def config_hash(config: dict[str, Any]) -> str:
    """Return eight hexadecimal digits that name the scientific part of a configuration.

    A setting of `ADDED` at its value there is left out, so that records made before it keep their names.
    """
    kept = scientific(config)
    match kept:
        case {"model": {"_target_": str(target), **settings}} if target in ADDED:
            own = {key: value for key, value in settings.items() if (key, value) not in ADDED[target].items()}
            kept["model"] = {"_target_": target} | own
    if "curve" in kept.get("dataset", {}):  # called a sweep in the first records, whose hashes stay
        kept["dataset"] = _renamed(kept["dataset"], "curve", "sweep")
    canonical = json.dumps(_canonical(kept), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


def criterion(classes: Sequence[str]) -> tuple[str, Literal["min", "max"]]:
    """Return the metric that chooses the best epoch, and whether its least or its greatest value does: the accuracy
    where there are classes, and the loss where numbers are to be known."""
    return ("accuracy", "max") if classes else ("loss", "min")


def objective(record: dict[str, Any]) -> float:
    """Return what a search for good settings is to make great: the accuracy in validation, or minus the loss."""
    score, mode = criterion(record["classes"])
    value = record["metrics"]["best"]["validation"][score]
    if value is None:
        return -math.inf
    return value if mode == "max" else -value


def show(metric: str, value: float | None) -> str:
    """Return how a value of a metric is printed; None is what JSON has for what is not finite."""
    if value is None:
        return "not finite"
    return f"{value:.4f}" if metric == "accuracy" else f"{value:.4g}"


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return a 32-bit seed for one purpose, unrelated to those of other purposes and of neighbouring seeds."""
    return int.from_bytes(hashlib.sha256(repr((seed, *purpose)).encode()).digest()[:4], "big")


def write(path: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON, atomically; numbers that are not finite, which JSON does not have, as null."""
    write_atomically(path, json.dumps(_finite(record), indent=1, allow_nan=False) + "\n")


def read(path: Path) -> dict[str, Any]:
    """Read a record, one of an earlier schema in the form of today's. Settings that there were not yet when it was made
    are filled in, see `ADDED`.

    Raises:
        RecordError: If the file is not a record of this schema or an earlier one; the message names it.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecordError(f"{path} is not a record: {error}. Delete it to run again.") from error
    if not isinstance(record, dict) or record.get("schema") not in (1, SCHEMA) or "metrics" not in record:
        raise RecordError(f"{path} is not a record of schema {SCHEMA} or 1. Delete it to run again.")
    return _migrated(record)


def _migrated(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record of schema 1, which called a curve a sweep, as one of today's."""
    if record["schema"] == 1:
        record = _renamed(record, "sweep", "curve") | {"schema": SCHEMA}
        config = record.get("config", {})
        if "sweep" in config.get("dataset", {}):
            record["config"] = config | {"dataset": _renamed(config["dataset"], "sweep", "curve")}
    match record.get("config"):
        case {"model": {"_target_": str(target)}}:
            record["config"]["model"] = ADDED.get(target, {}) | record["config"]["model"]
    return record


def _renamed(values: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    """Return the same dictionary, in its order, with one key renamed."""
    return {new if key == old else key: value for key, value in values.items()}


def provenance() -> dict[str, Any]:
    """Return what a result depends on besides its configuration: code, packages, machine."""

    def git(*args: str) -> str | None:
        try:
            here = Path(__file__).parent
            return subprocess.run(
                ["git", *args], cwd=here, capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return None

    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    root = git("rev-parse", "--show-toplevel")
    code = [f"{root}/{path}" for path in ("src", "configs", "scripts", "train.py", "requirements.lock")]
    status = git("status", "--porcelain", "--untracked-files=all", "--", *code)
    return {
        "git": {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)},
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cpu": _cpu_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
    }


def peak_memory() -> dict[str, int]:
    """Return the most memory this process has held so far, in bytes, on the host, where the system tells it, and on the
    first GPU used."""
    peak = {}
    with contextlib.suppress(ImportError):  # Windows has no such module
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        peak["host"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if torch.cuda.is_available():
        peak["gpu"] = torch.cuda.max_memory_allocated()
    return peak


def _canonical(value: Any) -> Any:
    """1.0 and 1 are one setting."""
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
