"""Results: each figure comes from a record."""

from pathlib import Path

import pytest

from hippo.tables.collect import unfit
from hippo.training import records, sources

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"


def test_the_check_fails_with_a_sentence_for_each_fault(checkout, python):
    (checkout / "README.md").write_text("2.5 s<!-- results/benchmarks/none.json: seconds -->\n")
    process = python("scripts/collect.py", "--check")
    said = process.communicate()[1].splitlines()
    assert process.returncode == 1
    assert len(said) == 2
    assert said[0].endswith("is not what the records give; write it anew by hippo collect")
    assert "2.5 is tied to results/benchmarks/none.json: seconds, which cannot be read" in said[1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"command": None}, "no command gives it again"),
        ({"earlier": [{"git": {"commit": "b", "dirty": False}}]}, "other code"),
        ({"config": {"trainer": {"max_epochs": 2}}}, "its name is not that of the configuration"),
        ({"seed": 1}, "its name is not that of the configuration"),
        ({"hash": None}, "its name is not that of the configuration"),
    ],
)
def test_what_cannot_be_run_again_is_left_out(change, reason):
    good = minimal({"trainer": {"max_epochs": 1}})
    assert unfit(good) is None
    assert reason in unfit(good | change)
    assert "limit_test_batches" in unfit(minimal({"trainer": {"limit_test_batches": 1}}))
    assert unfit({key: value for key, value in good.items() if key != "git"}) == "it lacks 'git'"


def code(**changes) -> dict:
    return {
        "code": {
            "hippo": {"version": None, "hash": "1", "commit": "a", "dirty": False},
            "own": {"version": None, "hash": "2", "commit": "b", "dirty": False} | changes,
        }
    }


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"git": {"commit": "a", "dirty": True}}, ["hippo"]),
        ({"git": {"commit": None, "dirty": None}, "earlier": []}, ["hippo"]),
        ({"earlier": [{"git": {"commit": "a", "dirty": True}}]}, ["hippo"]),
        (code(dirty=True), ["own"]),
        (code(commit=None, dirty=None), ["own"]),
        (code(version="1.0", commit=None, dirty=None), []),
        (code(), []),
    ],
)
def test_what_is_not_committed_stands_in_a_table_with_a_mark_and_in_no_published_one(change, names):
    record = minimal({"trainer": {"max_epochs": 1}}) | change
    assert sources.uncommitted(record) == names
    assert unfit(record) is None
    installed = ["own"] if change == code(version="1.0", commit=None, dirty=None) else []
    reason = unfit(record, published=True)
    assert reason == (
        f"it was not made from committed code ({', '.join(names + installed)})" if names + installed else None
    )


def test_other_code_is_told_by_the_hash_of_what_is_used_and_not_by_the_commit():
    record = minimal({"trainer": {"max_epochs": 1}}) | code()
    session = {"git": {"commit": "later", "dirty": False}}
    assert unfit(record | {"earlier": [session | code(commit="later")]}) is None
    assert "other code" in unfit(record | {"earlier": [session | code(hash="3")]})
    assert "other code" in unfit(record | {"earlier": [session]})


def minimal(config: dict) -> dict:
    hash = records.config_hash(config)
    return {
        "command": "hippo train",
        "git": {"commit": "a", "dirty": False},
        "earlier": [{"git": {"commit": "a", "dirty": False}}],
        "config": config,
        "seed": 0,
        "hash": hash,
        "id": f"{hash}-seed0",
    }
