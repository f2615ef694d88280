"""Whether what is committed under results/, and each figure in the README, is what the records give."""

import csv
import functools
import io
import json
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hippo import project
from hippo.tables.collect import by_name, read_all, unfit
from hippo.tables.page import page
from hippo.tables.render import written
from hippo.tables.report import curves
from hippo.tables.table import every_table
from hippo.training import records

_TIED = re.compile(r"([\d,]*\.?\d+)[^\d\n<]*<!-- (results/\S+): (.+?)(?: \* (\S+))? -->")
_TABLE = re.compile(r"<!-- (results/\S+\.csv) -->\n((?:\|.*\n)+)")


def read_benchmarks(results: Path) -> dict[str, dict[str, Any]]:
    """Return the records of what scripts measure, by their names. Raises RecordError if one is no JSON."""
    found = {}
    for path in sorted((results / "benchmarks").glob("*.json")):
        try:
            found[path.stem] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise records.RecordError(f"{path} is not a record: {error}") from error
    return found


def faults(root: Path) -> Iterator[str]:
    """Yield a sentence for each fault: records that do not parse or cannot stand in a table, files that
    `hippo collect` would write otherwise, and figures in the README that are not those of their records.

    Args:
        root: The folder of configs/, results/ and README.md, if it has one.
    """
    results, damaged = root / "results", False
    expected: dict[Path, str] = {}
    for path in sorted((results / "records").rglob("*.json")):
        try:
            record = records.read(path)
        except records.RecordError as error:
            damaged = True
            yield str(error)
            continue
        if reason := unfit(record, project.is_published(results)):
            yield f"{path}: {reason}"
        if path.parent.name != record["name"] or path.stem != record["id"]:
            yield f"{path} holds the record of {record['name']} {record['id']}"
        expected[path.with_suffix(".svg")] = curves(record)
    benchmarks = {}
    try:
        benchmarks = read_benchmarks(results)
    except records.RecordError as error:
        damaged = True
        yield str(error)
    if damaged:
        return
    found, tables = read_all(results), every_table(root / "configs")
    expected[results / "README.md"] = page(tables, found, benchmarks)
    for name, (table, cells) in tables.items():
        expected |= written(name, table, cells, by_name(found), results)
        if table.figure and not (picture := results / "tables" / f"{name}.png").is_file():
            yield f"{picture} is missing; write it by hippo collect"
    for path, content in expected.items():
        if not path.is_file() or path.read_text(encoding="utf-8") != content:
            yield f"{path} is not what the records give; write it anew by hippo collect"
    readme = root / "README.md"
    if readme.is_file():
        yield from (f"{readme}: {fault}" for fault in in_prose(readme.read_text(encoding="utf-8"), root))


def in_prose(text: str, root: Path) -> Iterator[str]:
    """Yield a sentence for each figure of a text that is not that of its record.

    A figure is tied to a record by a comment after it, `1.64 s<!-- results/benchmarks/x.json: parts.legs.step -->`: a
    file and the keys to the value, of which `*` takes the mean over a list, and by what to multiply it, ` * 1e-6`. Of
    a CSV file of `results/tables` the key is a row and a column, `LegS / no shift`. A comment that names such a file
    alone ties the whole Markdown table beneath it. A number with a decimal point in a section on results needs a tie.
    """
    read = functools.cache(lambda path: (root / path).read_text(encoding="utf-8"))
    ties = [(printed, path, key, float(factor or 1)) for printed, path, key, factor in _TIED.findall(text)]
    for path, block in _TABLE.findall(text):
        head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        for row in rows:
            for column, cell in zip(head[1:], row[1:], strict=False):  # a reader of Markdown drops what is too much
                ties.append((cell.strip("* "), path, f"{row[0]} / {column}", 1.0))
    for printed, path, key, factor in ties:
        try:
            value = (_of_table if path.endswith(".csv") else _of_benchmark)(read(path), key) * factor
            shown = f"{value:,.{len(printed.partition('.')[2])}f}"
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            yield f"{printed} is tied to {path}: {key}, which cannot be read ({error!r})"
            continue
        if shown.replace(",", "") != printed.replace(",", ""):
            yield f"it says {printed} where {path}: {key} gives {shown}"
    section = re.search(r"^## Results\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    untied = re.sub(r"`[^`]*`|\]\([^)]*\)", "", _TABLE.sub("", _TIED.sub("", section[1] if section else "")))
    yield from (f"{number} stands under Results and names no record" for number in re.findall(r"\d+\.\d+", untied))


def _of_benchmark(content: str, keys: str) -> float:
    def take(value: Any, path: list[str]) -> float:
        if not path:
            return float(value)
        if path[0] == "*":
            return statistics.mean(take(item, path[1:]) for item in value)
        return take(value[int(path[0]) if isinstance(value, list) else path[0]], path[1:])

    return take(json.loads(content), keys.split("."))


def _of_table(content: str, key: str) -> float:
    means = {f"{line['row']} / {line['column']}": line["mean"] for line in csv.DictReader(io.StringIO(content))
             if line["reading"] == "best"}  # fmt: skip
    return float(means[key])
