"""Records: what a run was, and what came of it, in one JSON file. Tables are made from these alone."""

import contextlib
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from hippo.errors import UserError
from hippo.files import write_atomically
from hippo.training import sources

SCHEMA = 2
NOT_IDENTITY = {"name", "seed", "paths", "logger", "threads", "force", "window"}
_LATER = {"scheduler", "callbacks"}  # keys younger than the first records: where they say nothing, they are not there
# Settings of models that records made before them lack, by class, with the value that those records stand for. A
# configuration that is to be run states them (`hippo.training.config.check`), so none is taken for an old record.
ADDED: dict[str, dict[str, Any]] = {
    "hippo.models.ExpRNN": {"base": "initial"},
    **{f"hippo.models.{name}": {"gate_unit": None} for name in ("HiPPORNN", "GRU", "LSTM")},
    "hippo.models.Stack": {"last_layer": None},
}
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


DEEPEST = 16  # levels of lists and mappings in a record; ours have six
LARGEST = 64 * 2**20  # bytes of a record; ours have some ten thousand


class RecordError(UserError, ValueError):
    """A file is not the record it should be."""


def check_name(name: str) -> str:
    """Return a name that becomes that of a file or a folder: of an experiment, a table or a shift.

    Raises:
        ValueError: If it could name another place than the one below which it is put, or is too long for a file.
    """
    if not re.fullmatch(r"\w[\w.-]{0,99}", name):
        raise ValueError(
            f"{name!r} names a folder and a W&B run: at most a hundred letters, digits, '_', '-' and '.', the first of "
            "them a letter, a digit or '_'"
        )
    return name


Name = Annotated[str, pydantic.AfterValidator(check_name)]
Seed = Annotated[int, pydantic.Field(ge=0, lt=2**32)]
_Count = Annotated[int, pydantic.Field(ge=0, lt=2**63)]
_Number = Annotated[float, pydantic.Field(allow_inf_nan=False)]
_Loss = _Number | None  # what is not finite is null
_Accuracy = Annotated[float, pydantic.Field(ge=0, le=1)]
_Seconds = Annotated[float, pydantic.Field(ge=0, lt=1e12)]


class _Part(pydantic.BaseModel):
    """A part of a record: what tables, pages and pictures read. What they do not know may be there as well."""

    model_config = pydantic.ConfigDict(strict=True)


class _Named(_Part):
    target: str = pydantic.Field(alias="_target_")


class _Model(_Named):
    hidden_size: _Count


class _Trainer(_Part):
    max_epochs: _Count


class _Config(_Part):
    dataset: _Named
    model: _Model
    optimizer: _Named
    trainer: _Trainer


class _Score(_Part):
    loss: _Loss
    accuracy: _Accuracy | None = None


class _Scores(_Part):
    validation: _Score
    test: _Score


class _Reading(_Scores):
    epoch: _Count
    shifted: dict[str, _Scores] = {}

    @property
    def scores(self) -> Iterator[tuple[str, _Score]]:
        for where, part in (("", self), *((f".shifted.{name}", shift) for name, shift in self.shifted.items())):
            yield f"{where}.validation", part.validation
            yield f"{where}.test", part.test


def _numbered(epoch: dict[str, float | None]) -> dict[str, float | None]:
    if epoch.get("epoch") is None:
        raise ValueError("epoch is missing")
    return epoch


_Epoch = Annotated[dict[str, _Loss], pydantic.AfterValidator(_numbered)]


class _Point(_Score):
    kind: str
    value: _Number


class _Scaling(_Part):
    mean: list[_Number]
    scale: list[_Number]


class _Task(_Part):
    channels: _Count
    numbers: _Count
    scaling: _Scaling | None


class _Git(_Part):
    commit: str | None
    dirty: bool | None


class _Code(_Git):
    version: str | None
    hash: str | None


class _Session(_Part):
    git: _Git
    code: dict[str, _Code] = {}


class _Machine(_Part):
    cpu: str
    threads: _Count
    gpus: list[str]


class _Record(_Session):
    """The schema of a record: what every reader of one may take for granted."""

    name: Name
    id: Annotated[str, pydantic.Field(pattern=r"^[0-9a-f]{8}-seed[0-9]{1,10}$")]
    seed: Seed
    hash: str
    config: _Config
    command: str | None
    parameters: _Count
    epochs: _Count
    classes: list[str]
    task: _Task | None = None  # in records since hippo.load
    route: str | None = None  # what served the training's last step, of models that tell
    metrics: dict[str, _Reading]
    curve: list[_Point] = []
    confusion: list[list[_Number]] = []
    samples_per_second: _Number | None = None
    history: list[_Epoch]
    seconds: _Seconds
    earlier: list[_Session] = []
    versions: dict[str, str | None]
    machine: _Machine

    @pydantic.model_validator(mode="after")
    def _whole(self) -> "_Record":
        for reading in ("best", "last"):
            if reading not in self.metrics:
                raise ValueError(f"metrics has no {reading}")
        if not self.classes:
            return self
        scores = [(f"metrics.{name}{key}", score) for name, its in self.metrics.items() for key, score in its.scores]
        scores += [(f"curve.{number}", point) for number, point in enumerate(self.curve)]
        for where, score in scores:
            if score.accuracy is None:
                raise ValueError(f"{where} has no accuracy, though there are classes")
        return self


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
    """Read a record. One that an earlier version wrote is brought into the form of this one: settings that did not
    exist then get the value that had the same effect, see `ADDED`.

    This is the one place where records are read, and everything in a record is checked here: it is safe to put its
    contents into tables and charts, and to use its name and id as paths, whoever wrote the file. Classes that it names
    are not imported; `hippo.training.foreign` alone does that.

    Raises:
        RecordError: If the file is not a record of this schema or an earlier one; the message names it.
        OSError: If it cannot be read.
    """
    try:
        record = _parsed(path)
        if not isinstance(record, dict) or record.get("schema") not in (1, SCHEMA):
            raise ValueError(f"it is not of schema {SCHEMA} or 1")
        record = _migrated(record)
        _Record.model_validate(record)
    except pydantic.ValidationError as error:
        raise RecordError(f"{path} is not a record: {first_fault(error)}. Delete it to run again.") from error
    except (ValueError, RecursionError) as error:  # what is nested too deep ends the parser's recursion
        said = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise RecordError(f"{path} is not a record: {said}. Delete it to run again.") from error
    return record


def first_fault(error: pydantic.ValidationError) -> str:
    """Return the first thing that a schema finds wrong: where, and what."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    said = first["msg"].removeprefix("Value error, ")
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {said}" if where else said


def _parsed(path: Path) -> Any:
    """Return what a file has in JSON. Raises ValueError if it is none, or larger or deeper than a record is."""
    if path.exists() and not path.is_file():
        raise ValueError("it is not a file")  # and a pipe would be waited for
    if path.stat().st_size > LARGEST:
        raise ValueError(f"it is larger than {LARGEST // 2**20} MB")
    text = path.read_text(encoding="utf-8")
    content = json.loads(text, parse_constant=_no_number)
    if re.search(r"\\u[dD][89a-fA-F]", text):  # half a character, which no file can hold
        json.dumps(content, ensure_ascii=False).encode()
    level, depth = [[content]], 0
    while level:
        if (depth := depth + 1) > DEEPEST:
            raise ValueError("it is nested too deep")
        inside = [item for part in level for item in (part.values() if isinstance(part, dict) else part)]
        level = [item for item in inside if isinstance(item, dict | list)]
    return content


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number in JSON")


def _migrated(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record of schema 1, which called a curve a sweep, as one of today's."""
    if record["schema"] == 1:
        record = _renamed(record, "sweep", "curve") | {"schema": SCHEMA}
        match record.get("config"):
            case {"dataset": {"sweep": _} as dataset} as config:
                record["config"] = config | {"dataset": _renamed(dataset, "sweep", "curve")}
    match record.get("config"):
        case {"model": {"_target_": str(target)}}:
            record["config"]["model"] = ADDED.get(target, {}) | record["config"]["model"]
    return record


def _renamed(values: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    """Return the same dictionary, in its order, with one key renamed."""
    return {new if key == old else key: value for key, value in values.items()}


def provenance() -> dict[str, Any]:
    """Return what a result depends on besides its configuration: this package, others, the machine."""
    import torch  # it takes half a gigabyte, which reading records does without

    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    package = sources.package()
    return {
        "git": {key: package[key] for key in ("commit", "dirty")},
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
    import torch

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
