"""A short form of what `scripts/disturb.py` does at length."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_runs_that_are_disturbed_end_in_the_numbers_of_one_that_is_not():
    disturb = [sys.executable, "scripts/disturb.py", "--count", "6", "--seed", "1"]
    done = subprocess.run(disturb, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("6 disturbances")
    assert done.stdout.endswith("0 faults\n")
