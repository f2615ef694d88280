"""What a record is of, in words."""

from typing import Any

from hippo.training.records import ADDED, show

WHAT = ["data", "model", "hidden size", "epochs", "seed", "parameters"]


def what(record: dict[str, Any]) -> list[str]:
    """Return the cells that say what was trained on what, from the configuration and not from the run's name."""
    dataset, model = record["config"]["dataset"], record["config"]["model"]
    measure = model.get("measure", "")
    if isinstance(measure, dict):
        given = ", ".join(f"{value:g}" for key, value in measure.items() if key != "_target_")
        measure = f"{measure['_target_'].rpartition('.')[2]}({given})"
    data = [dataset["_target_"].rpartition(".")[2]]
    if "permutation" in dataset:
        permutation = {"bit_reversal": "bit reversal", "random": f"random, seed {dataset.get('permutation_seed')}"}
        data.append(f"permutation: {permutation.get(dataset['permutation'], 'none')}")
    if "sampling" in dataset:
        data += [f"{key} {value:g}" for key, value in dataset["sampling"].items() if value != (key != "drop")]
    if dataset.get("timestamps"):
        data.append("on a clock")
    return [
        ", ".join(data),
        " ".join([f"{model['_target_'].rpartition('.')[2]} {measure}".strip(), *added(record)]),
        f"{model['hidden_size']}",
        f"{record['epochs']}",
        f"{record['seed']}",
        f"{record['parameters']:,}",
    ]


def added(record: dict[str, Any]) -> list[str]:
    """Return the settings, as `base=initial`, by which an earlier record's model is not the present one of its name."""
    model = record["config"]["model"]
    return [f"{key}={value}" for key, value in ADDED.get(model["_target_"], {}).items() if model.get(key) == value]


def result(metrics: dict[str, float]) -> str:
    """Return what a split came to: the accuracy in per cent where there are classes, and the loss where not."""
    return f"{100 * metrics['accuracy']:.2f} %" if "accuracy" in metrics else show("loss", metrics["loss"])


def hardware(machine: dict[str, Any]) -> str:
    """Return the GPUs, or the processor and the threads used of it."""
    return ", ".join(machine["gpus"]) or f"{machine['cpu']}, {machine['threads']} thread(s)"


def link(record: dict[str, Any]) -> str:
    """Return where a record lies, seen from results/."""
    return f"records/{record['name']}/{record['id']}.json"
