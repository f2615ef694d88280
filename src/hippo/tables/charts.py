"""Line charts as geometry: from numbers to places on a canvas, which a template draws.

Matplotlib draws the tables' pictures, but not these charts. Their points say what they are when pointed at and lead to
their records, and they take the colours of a light or a dark page. The learning curves of 234 records took 2.4 ms and
4.5 kB each; Matplotlib's SVG of the same lines took 99 ms and 35 kB, which for 2,000 records makes a page of 70 MB.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator


@dataclass(frozen=True)
class Scale:
    """Numbers from `low` to `high`, linear or logarithmic, laid out from `start` to `end`.

    Attributes:
        low: The lowest number.
        high: The highest.
        start: Where the lowest lies.
        end: Where the highest lies.
        log: Whether equal ratios have equal lengths.
        whole: Whether whole numbers alone are marked.
        at: Numbers to mark instead of round ones.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    whole: bool = False
    at: tuple[float, ...] = ()

    def __call__(self, value: float) -> float:
        """Return the place of a number."""
        low, high, value = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return round(self.start + (value - low) / (high - low or 1) * (self.end - self.start), 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """The places to mark, and what is written there."""
        if self.log and self.high > 5 * self.low:  # closer together, powers of ten are too few
            locator = LogLocator(subs=(1, 2, 5) if self.high < 100 * self.low else (1,))
        else:
            locator = MaxNLocator(5, steps=[1, 2, 5, 10], integer=self.whole)
        found = self.at or locator.tick_values(self.low, self.high)
        return [(self(tick), f"{tick:g}") for tick in found if self.low <= tick <= self.high]


class Mark(NamedTuple):
    """Something drawn.

    Attributes:
        shape: The path of an SVG.
        style: Classes of its style.
        text: What it says when pointed at.
        href: What it leads to.
    """

    shape: str
    style: str
    text: str = ""
    href: str = ""


@dataclass
class Chart:
    """A chart: two scales, and what is drawn on them.

    Attributes:
        title: Its heading.
        xlabel: What runs to the right.
        ylabel: What runs upwards.
        x: Scale to the right.
        y: Scale upwards.
        size: Width and height of the canvas.
        rule: A number on x to point out.
        bands: Areas, the lowest layer.
        lines: Lines above them.
        dots: Dots above those.
    """

    title: str
    xlabel: str
    ylabel: str
    x: Scale
    y: Scale
    size: tuple[int, int]
    rule: float | None = None
    bands: list[Mark] = field(default_factory=list)
    lines: list[Mark] = field(default_factory=list)
    dots: list[Mark] = field(default_factory=list)

    def line(self, points: Iterable[tuple[float, float | None]], style: str, text: str) -> None:
        """Add a line, broken where there is no number, or none that its scale can show."""
        path, pen = "", "M"
        for x, y in points:
            if y is None or (self.y.log and y <= 0):
                pen = "M"
                continue
            path += f"{pen}{self.x(x):g} {self.y(y):g}" + ("h0" if pen == "M" else "")  # h0: a point alone shows too
            pen = "L"
        if path:
            self.lines.append(Mark(path, style, text))

    def band(self, bounds: list[tuple[float, float, float]], style: str) -> None:
        """Add an area between lower and upper bounds, each pair after its x."""
        around = [(x, low) for x, low, _ in bounds] + [(x, high) for x, _, high in reversed(bounds)]
        self.bands.append(Mark("M" + "L".join(f"{self.x(x):g} {self.y(y):g}" for x, y in around) + "Z", style))

    def dot(self, x: float, y: float | None, style: str, text: str, href: str) -> None:
        """Add a dot that leads somewhere, where there is a number that its scale can show."""
        if y is None or (self.y.log and y <= 0):
            return
        self.dots.append(Mark(f"M{self.x(x):g} {self.y(y):g}h0", style, text, href))


def chart(
    title: str,
    xlabel: str,
    ylabel: str,
    x: Iterable[float],
    y: Iterable[float | None],
    *,
    logx: bool = False,
    logy: bool = False,
    whole: bool = False,
    at: tuple[float, ...] = (),
    size: tuple[int, int] = (260, 180),
) -> Chart | None:
    """Return an empty chart with room for some numbers; None if there are none to show.

    Args:
        title: Its heading.
        xlabel: What runs to the right.
        ylabel: What runs upwards.
        x: Numbers to have room for.
        y: Numbers to have room for.
        logx: Whether x is logarithmic.
        logy: Whether y is logarithmic.
        whole: Whether whole numbers alone are marked on x.
        at: Numbers to mark on x instead of round ones.
        size: Width and height of the canvas.
    """
    right, up = list(x), [value for value in y if value is not None and (value > 0 or not logy)]
    if not right or not up:
        return None
    across = Scale(min(right), max(right), 40, size[0] - 10, logx, whole, at)
    return Chart(title, xlabel, ylabel, across, Scale(min(up), max(up), size[1] - 36, 10, logy), size)


class Matrix(NamedTuple):
    """A confusion matrix as squares of one unit, where there are counts.

    Attributes:
        classes: Names of the classes, downwards the true ones, to the right the predicted ones.
        squares: Column, row, share of the true class from 0 to 1, and what it says when pointed at.
    """

    classes: list[str]
    squares: list[tuple[int, int, float, str]]


def matrix(classes: list[str], counts: list[list[list[float]]]) -> Matrix | None:
    """Return the sum of confusion matrices (true class × predicted class) as squares; None if there is none to show."""
    fitting = [one for one in counts if [len(row) for row in one] == [len(classes)] * len(classes)]
    if not classes or not fitting:
        return None
    total = np.sum(np.array(fitting, dtype=np.float64), axis=0)
    shares = total / np.maximum(total.sum(axis=1, keepdims=True), 1)
    squares = [
        (
            int(column),
            int(row),
            round(float(shares[row, column]), 2),
            f"{classes[row]} → {classes[column]}: {total[row, column]:g} of {total[row].sum():g}",
        )
        for row, column in np.argwhere(total > 0)
    ]
    return Matrix(classes, squares)
