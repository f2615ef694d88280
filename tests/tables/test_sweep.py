"""The table and the picture at the end of a sweep."""

from hippo.tables.statistics import summarize
from hippo.tables.sweep import settings, spread, write


def record(test: float, validation: float, seconds: float = 60.0) -> dict:
    return {
        "name": "own",
        "id": f"{int(1e7 * test):08x}-seed0",
        "classes": ["a", "b"],
        "parameters": 1234,
        "seconds": seconds,
        "metrics": {"best": {"validation": {"accuracy": validation}, "test": {"accuracy": test}}},
    }


FOUND = [
    ({"model": "gru", "optimizer.lr": "0.1", "seed": "0"}, record(0.5, 0.6)),
    ({"model": "gru", "optimizer.lr": "0.1", "seed": "1"}, record(0.7, 0.8, 180.0)),
    ({"model": "gru", "optimizer.lr": "0.2", "seed": "0"}, record(0.9, 0.91)),
]


def test_a_setting_is_the_mean_of_its_seeds_and_the_best_in_validation_comes_first():
    keys, rows = settings(FOUND)
    assert keys == ["optimizer.lr"]
    assert [row.choices for row in rows] == [("0.2",), ("0.1",)]
    assert rows[1].validation.mean == 70
    assert rows[1].test.values == [50, 70]
    assert rows[1].minutes == 2


def test_losses_are_better_the_lower_and_none_is_no_number():
    losses = [1.0, 0.5, None]
    found = [
        (
            {"x": str(loss), "seed": "0"},
            record(0, 0)
            | {"classes": [], "metrics": {"best": {split: {"loss": loss} for split in ("validation", "test")}}},
        )
        for loss in losses
    ]
    _, rows = settings(found)
    assert [row.choices[0] for row in rows] == ["0.5", "1.0", "None"]
    assert spread(rows[-1].test) == "nan"


def test_few_seeds_are_shown_themselves_and_more_have_an_interval():
    assert spread(summarize([1.0])) == "1"
    assert spread(summarize([1.0, 2.0])) == "1.5 (1, 2)"
    assert spread(summarize([1.0, 2.0, 3.0])) == "2 [-0.4841, 4.484]"


def test_it_is_written_among_the_outputs(tmp_path):
    said = write(FOUND, tmp_path)
    (table,), (picture,) = (list((tmp_path / "sweeps").glob(f"*.{kind}")) for kind in ("md", "png"))
    assert table.read_text() + f"{table} and {picture.name}" == said
    assert picture.read_bytes().startswith(b"\x89PNG")
    head, _, first, second = table.read_text().splitlines()
    assert [cell.strip() for cell in head.split("|")[1:-1]] == [
        "optimizer.lr", "seeds", "validation accuracy, %", "test accuracy, %", "parameters", "minutes"
    ]  # fmt: skip
    assert [cell.strip() for cell in second.split("|")[1:-1]] == [
        "0.1",
        "2",
        "70 (60, 80)",
        "60 (50, 70)",
        "1,234",
        "2.0",
    ]
    assert len({len(line) for line in (head, first, second)}) == 1
