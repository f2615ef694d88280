"""Pictures of a run: loss, and accuracy where there are classes, over the epochs; which classes are taken for which.

They are drawn once, at the end of a run, for its folder and for W&B, which takes no SVG. What is collected
is drawn by `hippo.tables.charts`, in a hundredth of the time.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

MOST_CLASSES = 60  # that are named, and whose counts are written out


def draw_curves(record: dict[str, Any], path: Path) -> None:
    """Draw a record's learning curves into an image file, its format by the suffix."""
    epochs = record["history"]
    metrics = ("loss", "accuracy") if record["classes"] else ("loss",)
    figure = Figure(figsize=(4 * len(metrics), 3.2), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        shifts = record["metrics"]["best"].get("shifted", {})
        for split in ("train", "validation", *(f"validation@{name}" for name in shifts)):
            heights = [math.nan if (y := e[f"{split}/{metric}"]) is None else y for e in epochs]
            axes.plot([e["epoch"] for e in epochs], heights, marker=".", label=split)
        best = record["metrics"]["best"]
        if best["test"][metric] is not None:
            axes.plot(best["epoch"], best["test"][metric], "*", markersize=10, label="test, best epoch")
        axes.set(xlabel="epoch", ylabel=metric)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.suptitle(f"{record['name']} {record['id']}, {record['parameters']:,} parameters")
    figure.savefig(path, dpi=120)


def draw_confusion(record: dict[str, Any], path: Path) -> None:
    """Draw a record's confusion matrix into an image file: counts, on the share that they have of the true class."""
    counts, classes = np.array(record["confusion"]), record["classes"]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    readable = len(classes) <= MOST_CLASSES
    side = 0.3 * min(len(classes), MOST_CLASSES)
    figure = Figure(figsize=(2 + side, 1.6 + side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    for (true, predicted), count in np.ndenumerate(counts):
        if count and readable:
            color = "white" if shares[true, predicted] > 0.5 else "black"
            axes.text(predicted, true, f"{count:.0f}", ha="center", va="center", fontsize=7, color=color)
    axes.set(xlabel="predicted class", ylabel="true class")
    if readable:
        axes.set_xticks(range(len(classes)), classes, rotation=90 if max(map(len, classes)) > 2 else 0)
        axes.set_yticks(range(len(classes)), classes)
    correct = f"{counts.trace():,.0f} of {counts.sum():,.0f} right"
    figure.suptitle(f"{record['name']} {record['id']}\n{correct} in test, best epoch", fontsize=9)
    figure.savefig(path, dpi=120)
