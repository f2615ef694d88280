"""What a record is of, in words."""

from typing import Any

from hippo.training.records import ADDED, show
from hippo.training.sources import MARK, PACKAGE, uncommitted

WHAT = ["data", "model", "hidden size", "epochs", "seed", "parameters"]


def what(record: dict[str, Any]) -> list[str]:
    """Return the cells that say what was trained on what, from the configuration and not from the run's name."""
    dataset, model = record["config"]["dataset"], record["config"]["model"]
    measure = model.get("measure", "")
    if isinstance(measure, dict):
        settings = ", ".join(number(value) for key, value in measure.items() if key != "_target_")
        measure = f"{_class(measure)}({settings})"
    data = [_class(dataset)]
    if "permutation" in dataset:
        permutation = {"bit_reversal": "bit reversal", "random": f"random, seed {dataset.get('permutation_seed')}"}
        data.append(f"permutation: {permutation.get(str(dataset['permutation']), 'none')}")
    if isinstance(sampling := dataset.get("sampling"), dict):
        data += [f"{key} {number(value)}" for key, value in sampling.items() if value != (key != "drop")]
    if dataset.get("timestamps"):
        data.append("on a clock")
    return [
        ", ".join(data),
        " ".join([f"{_class(model)} {measure}".strip(), *added(record)]),
        f"{model['hidden_size']}",
        f"{record['epochs']}",
        f"{record['seed']}",
        f"{record['parameters']:,}",
    ]


def _class(node: dict[str, Any]) -> str:
    return str(node.get("_target_")).rpartition(".")[2]


def number(value: Any) -> str:
    """Return how a setting is printed: a number in few digits, and what is none as it is."""
    short = isinstance(value, float) or (
        isinstance(value, int) and abs(value) < 2**63
    )  # no float is beyond all measure
    return f"{value:g}" if short else str(value)[:40]


def rate(record: dict[str, Any]) -> str:
    """Return the learning rate, as it is printed; a dash where the optimizer's own is taken."""
    return number(record["config"]["optimizer"].get("lr", "–"))


def added(record: dict[str, Any]) -> list[str]:
    """Return the settings, as `base=initial`, by which an earlier record's model is not the present one of its name."""
    model = record["config"]["model"]
    earlier = ADDED.get(model["_target_"], {}).items()
    return [f"{key}={value}" for key, value in earlier if value is not None and model.get(key) == value]  # None is off


def result(metrics: dict[str, float]) -> str:
    """Return what a split came to: the accuracy in per cent where there are classes, and the loss where not."""
    accuracy = metrics.get("accuracy")
    return show("loss", metrics["loss"]) if accuracy is None else f"{100 * accuracy:.2f} %"


def hardware(machine: dict[str, Any]) -> str:
    """Return the GPUs, or the processor and the threads used of it."""
    return ", ".join(machine["gpus"]) or f"{machine['cpu']}, {machine['threads']} thread(s)"


def commit(record: dict[str, Any]) -> str:
    """Return the commit of this package that made a record, or the version where it was installed without git."""
    version = record.get("code", {}).get(PACKAGE, {}).get("version")
    return (record["git"]["commit"] or version or "–")[:10]


def mark(record: dict[str, Any]) -> str:
    """Return the mark of a record of code that is not committed; nothing of another."""
    return MARK if uncommitted(record) else ""


def link(record: dict[str, Any]) -> str:
    """Return where a record lies, seen from results/."""
    return f"records/{record['name']}/{record['id']}.json"
