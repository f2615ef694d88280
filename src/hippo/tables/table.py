"""What a table is: rows and columns that name runs, and what others have reported for each cell."""

import functools
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import hydra
import pydantic
import yaml
from omegaconf import OmegaConf

from hippo import project
from hippo.training.config import ConfigError, did_you_mean
from hippo.training.records import Seed, check_name, first_fault
from hippo.training.sweeps import Run

LARGEST = 100_000  # nodes of a table's file; ours have some hundreds
Standing = Literal["read", "third-hand", "recalled"]
READINGS = {
    "best": "the epoch that is best in validation, without shift",
    "last": "the last epoch",
    "best@shift": "the epoch that is best in validation under the column's shift, as public code chooses",
}


class Metric(NamedTuple):
    """What is read of a record.

    Attributes:
        name: In words, with its unit.
        format: How a value is printed.
        best: The best of several: max or min.
        relative: Whether ours is compared with what was reported by their ratio, and not by their difference.
    """

    name: str
    format: str
    best: Callable[[Iterable[float]], float]
    relative: bool = False

    def show(self, value: float) -> str:
        return format(value, self.format)

    def compare(self, ours: float, reported: float) -> str:
        """Return the difference, or the ratio, as it is printed."""
        return f"× {ours / reported:.3g}" if self.relative else format(ours - reported, f"+{self.format}")


METRICS = {
    "accuracy": Metric("test accuracy in per cent", ".1f", max),
    "loss": Metric("test loss, which is the mean squared error where numbers are predicted", ".3f", min),
    "validation_accuracy": Metric("validation accuracy in per cent", ".1f", max),
    "validation_loss": Metric("validation loss", ".3f", min),
    "parameters": Metric("parameters that are learnt", ",.0f", min, relative=True),
    "minutes": Metric("minutes of training", ".1f", min, relative=True),
    "speed": Metric("samples a second, of one sequence by itself", ",.0f", max, relative=True),
}


def _plain(text: str) -> str:
    """Refuse what is resolved where it is read: environment variables hold secrets, and a table is published."""
    if "${" in text:
        raise ValueError(f"{text} is not resolved here: write the value. Environment variables may stand in paths only")
    return text


def _line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it has to be one line of text")
    return _plain(text)


def _override(text: str) -> str:
    """Refuse what would choose more than a run: where it is written, what Hydra does, a file beside those of configs/.

    A table may come from somebody else; what it may name in the runs themselves is for `hippo.training.foreign`.
    """
    key, _, value = text.partition("=")
    if re.match(r"\s*-", text) or {"hydra", "paths"} & set(re.split(r"\W+", key)):
        raise ValueError(f"{text}: a table sets neither Hydra's settings nor paths; add them where the table is run")
    if re.search(r"(^|[/\\])\.\.($|[/\\])", value) or re.match(r"['\"\s]*[/\\]", value):
        raise ValueError(f"{text}: a table names no file outside the folder of configurations")
    return text


Line = Annotated[str, pydantic.AfterValidator(_line)]
Text = Annotated[str, pydantic.AfterValidator(_plain)]
Overrides = list[Annotated[str, pydantic.AfterValidator(_override)]]


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class Column(_Strict):
    """A column: how its runs are trained, and on what they are tested.

    Attributes:
        label: Its head.
        overrides: Overrides of `hippo train`; None where nothing is trained, and only what was reported is shown.
        timed: Whether models get the time of each sample, as their rows say.
        shift: A shift of the dataset, tested on instead of what was trained on.
        metric: What is read of its runs, of `METRICS`.
    """

    label: Line
    metric: Literal["accuracy", "loss", "validation_accuracy", "validation_loss", "parameters", "minutes", "speed"] = (
        "accuracy"
    )
    overrides: Overrides | None = None
    timed: bool = False
    shift: str | None = None


class Row(_Strict):
    """A row: a model.

    Attributes:
        label: Its name.
        overrides: Overrides of `hippo train`; None where nothing is trained, and only what was reported is shown.
        timed: More of them, in columns that are `timed`.
        seeds: Seeds, where they are not the table's.
        reported: By column, a published figure and how far it was checked.
        note: What a reader has to know.
        variant_of: A row by its name, in whose color the figure draws this one, dashed.
        thick: Whether the figure sets its lines off.
    """

    label: Line
    overrides: Overrides | None = None
    timed: Overrides = []
    seeds: list[Seed] | None = None
    reported: dict[str, tuple[float, Standing]] = {}
    note: Text | None = None
    variant_of: str | None = None
    thick: bool = False


class Panel(_Strict):
    """A panel of the table's figure: accuracy along a curve of the dataset.

    Attributes:
        title: Its heading.
        axis: What changes along it, in words.
        column: Of which column's runs.
        curve: What changes along it, as the dataset calls it: rate, rate_told, time_scale or drop.
        trained: Where on the axis the models were trained.
    """

    title: Line
    axis: Line
    column: str
    curve: str
    trained: float


class Table(_Strict):
    """A table of what runs came to in test.

    Attributes:
        title: Its heading.
        source: Where the reported figures come from; needed where there are any.
        seeds: Seeds of every cell.
        columns: By name.
        rows: By name.
        notes: What a reader has to know.
        figure: Panels of a figure, if there is one.
    """

    title: Line
    source: Line | None = None
    seeds: list[Seed]
    columns: dict[Line, Column]
    rows: dict[Line, Row]
    notes: list[Text] = []
    figure: list[Panel] = []

    @property
    def metrics(self) -> list[Metric]:
        """What its columns show, without repetition."""
        return [METRICS[name] for name in dict.fromkeys(column.metric for column in self.columns.values())]

    @property
    def readings(self) -> dict[str, str]:
        """Those of `READINGS` that differ for this table."""
        shifted = any(column.shift for column in self.columns.values())
        return {reading: meaning for reading, meaning in READINGS.items() if shifted or reading != "best@shift"}

    @property
    def standings(self) -> set[str]:
        """How far its reported figures were checked; nothing where there are none."""
        return {standing for row in self.rows.values() for _, standing in row.reported.values()}

    @pydantic.model_validator(mode="after")
    def _columns_exist(self) -> "Table":
        named = [(f"rows.{name}.reported", column) for name, row in self.rows.items() for column in row.reported]
        for where, column in [*named, *(("figure", panel.column) for panel in self.figure)]:
            if column not in self.columns:
                raise ValueError(f"{where}: there is no column {column}")
        if self.source is None and self.standings:
            raise ValueError("source: it has to say where the reported figures come from")
        for name, row in self.rows.items():
            if row.variant_of is not None and (row.variant_of not in self.rows or self.rows[row.variant_of].variant_of):
                raise ValueError(f"rows.{name}.variant_of: there is no row {row.variant_of}, or it is a variant itself")
        return self

    def color(self, name: str) -> int:
        """Return the number of a row's color."""
        own = [other for other, row in self.rows.items() if row.variant_of is None]
        return own.index(self.rows[name].variant_of or name)


def find_table(name: str) -> Path:
    """Return the file of a table by its name, of the project or of this package; a path to one is that file."""
    if name.endswith(".yaml"):
        return Path(name)
    places = [folder / "table" / f"{name}.yaml" for folder in (project.configs(), project.shipped())]
    return next((path for path in places if path.is_file()), places[0])


def read_table(path: Path) -> Table:
    """Read a table's file.

    Raises:
        ConfigError: If there is none, or it is not a table; the message names the file, the line and the key.
    """
    if not path.is_file():
        known = sorted(other.stem for other in path.parent.glob("*.yaml"))
        hint = did_you_mean(path.stem, known) or f"; choose from {', '.join(known)}"
        raise ConfigError(f"there is no table {path.stem}{hint}")
    tree = None
    try:
        check_name(path.stem)
        with path.open(encoding="utf-8") as file:
            tree = yaml.compose(file, yaml.SafeLoader)
        if _size(tree, {}) > LARGEST:
            raise ValueError("its aliases repeat themselves beyond all measure")
        return Table.model_validate(OmegaConf.to_container(OmegaConf.load(path), resolve=False))
    except pydantic.ValidationError as error:
        where = error.errors()[0]["loc"]
        raise ConfigError(f"{path.name}, line {_line_of(tree, where)}: {first_fault(error)}") from error
    except (ValueError, OSError, yaml.YAMLError, RecursionError) as error:
        from hippo.training.errors import explain  # it takes seconds, for it knows the errors of all that trains

        raise ConfigError(explain(error) or f"{path.name} is not a table: {error}") from error


def _size(node: Any, known: dict[int, int]) -> int:
    """Return how many nodes a YAML document has where each alias is written out."""
    if id(node) not in known:
        below = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = (part for item in below for part in (item if isinstance(item, tuple) else (item,)))
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]


def _line_of(node: yaml.Node | None, where: Iterable[int | str]) -> int:
    """Return the line of what lies nearest to a place in a YAML document."""
    for part in where:
        if isinstance(node, yaml.MappingNode):
            below: Any = {key.value: value for key, value in node.value}
        elif isinstance(node, yaml.SequenceNode):
            below = dict(enumerate(node.value))
        else:
            break
        if part not in below:
            break
        node = below[part]
    return 1 if node is None else node.start_mark.line + 1


class Cell(NamedTuple):
    """A cell, and the runs behind it, one a seed; none where only what was reported is shown."""

    row: str
    column: str
    runs: list[Run]


def cells(table: Table, configs: Path, checked: bool = True) -> Iterator[Cell]:
    """Yield the cells of a table, row by row. Cells may share runs: one training serves several columns.

    Args:
        table: The table.
        configs: The folder of configurations.
        checked: Whether the runs are to be trained, and not only to be looked for among records.

    Raises:
        ConfigError: If a cell names a configuration that cannot be run.
    """
    with hydra.initialize_config_dir(str(configs.absolute()), version_base="1.3"):
        # Columns that differ in what is tested only share their runs.
        first = functools.cache(functools.partial(_planned, configs, checked))
        for row_name, row in table.rows.items():
            for column_name, column in table.columns.items():
                if column.overrides is None or row.overrides is None:
                    yield Cell(row_name, column_name, [])
                    continue
                overrides = (*column.overrides, *row.overrides, *(row.timed if column.timed else []))
                dataset = first(overrides).config["dataset"]
                if column.shift:
                    _among(dataset.get("shifts"), column.shift, f"columns.{column_name}.shift")
                for number, panel in enumerate(table.figure):
                    if panel.column == column_name:
                        _among(dataset.get("curve"), panel.curve, f"figure.{number}.curve")
                seeds = table.seeds if row.seeds is None else row.seeds
                yield Cell(row_name, column_name, [first(overrides).with_seed(seed) for seed in seeds])


def _among(choices: Collection[str] | None, name: str, where: str) -> None:
    """Raise ConfigError if the runs of a column lack the shift or the curve that its table names."""
    if choices is None or name in choices:  # None: a dataset of another kind, whose records tell
        return
    known = did_you_mean(name, choices) or (f"; choose from {', '.join(choices)}" if choices else "; they have none")
    raise ConfigError(f"{where}: its runs have no {name}{known}")


def every_table(configs: Path, checked: bool = False) -> dict[str, tuple[Table, list[Cell]]]:
    """Return the tables of a folder of configurations by their names, with their `cells`."""
    specs = {path.stem: read_table(path) for path in sorted((configs / "table").glob("*.yaml"))}
    return {name: (spec, list(cells(spec, configs, checked))) for name, spec in specs.items()}


def _planned(configs: Path, checked: bool, overrides: tuple[str, ...]) -> Run:
    try:
        composed = hydra.compose("train", list(overrides), return_hydra_config=True)
        return Run.planned(overrides, composed, configs, checked)
    except Exception as error:
        from hippo.training.errors import explain

        if (explanation := explain(error)) is None:
            raise
        raise ConfigError(f"{project.command(overrides)}: {explanation}") from error


def score(record: dict[str, Any], column: Column, reading: str = "best") -> float | None:
    """Return what a record has for a column, of its metric; None if it has not that, or not the shift.

    Args:
        record: The record.
        column: What to test on.
        reading: One of `READINGS`.
    """
    metrics = record["metrics"].get(reading.replace("@shift", f"@{column.shift}" if column.shift else ""))
    if metrics is not None and column.shift:
        metrics = metrics.get("shifted", {}).get(column.shift)
    if metrics is None:
        return None
    if column.metric == "speed":
        return record.get("samples_per_second")
    if column.metric == "parameters":
        return record["parameters"]
    if column.metric == "minutes":
        return record["seconds"] / 60
    name = column.metric.removeprefix("validation_")
    value = metrics["test" if name == column.metric else "validation"].get(name)
    return 100 * value if name == "accuracy" and value is not None else value


def along_curve(record: dict[str, Any], kind: str) -> dict[float, float]:
    """Return the test accuracy, in per cent, at each value of a curve; nothing if the record has not the curve, or no
    classes."""
    points = [point for point in record.get("curve", []) if point["kind"] == kind and point.get("accuracy") is not None]
    return {point["value"]: 100 * point["accuracy"] for point in points}
