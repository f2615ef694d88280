"""Results: each figure comes from a record."""

from pathlib import Path

import pytest

from hippo.tables.collect import unfit
from hippo.training import records

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"


def test_the_check_fails_with_a_sentence_for_each_fault(checkout, python):
    (checkout / "README.md").write_text("2.5 s<!-- results/benchmarks/none.json: seconds -->\n")
    process = python("scripts/collect.py", "--check")
    said = process.communicate()[1].splitlines()
    assert process.returncode == 1
    assert len(said) == 2
    assert said[0].endswith("is not what the records give; write it anew by python scripts/collect.py")
    assert "2.5 is tied to results/benchmarks/none.json: seconds, which cannot be read" in said[1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"git": {"commit": "a", "dirty": True}}, "committed code"),
        ({"git": {"commit": "a", "dirty": None}}, "committed code"),
        ({"command": None}, "committed code"),
        ({"earlier": [{"git": {"commit": "a", "dirty": True}}]}, "committed code"),
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


def minimal(config: dict) -> dict:
    hash = records.config_hash(config)
    return {
        "command": "python train.py",
        "git": {"commit": "a", "dirty": False},
        "earlier": [{"git": {"commit": "a", "dirty": False}}],
        "config": config,
        "seed": 0,
        "hash": hash,
        "id": f"{hash}-seed0",
    }
