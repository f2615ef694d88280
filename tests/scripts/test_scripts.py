"""Each script does its one thing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def script(name: str, *arguments: object) -> str:
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "scripts").glob("*.py")))
def test_every_script_says_what_it_does(name):
    assert "--help" in script(name, "--help")


def test_reconstruct_draws_a_picture(tmp_path):
    script("reconstruct", "--order", 8, "--length", 200, "--out", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_the_gallery_is_drawn(tmp_path):
    script("gallery", "--order", 9, "--length", 300, "--window", 100, "--out", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_benchmark_measures_every_part(tmp_path):
    script(
        "benchmark",
        "legs",
        "gru_d",
        "--batch",
        2,
        "--length",
        5,
        "--hidden",
        4,
        "--rounds",
        1,
        "--out",
        tmp_path / "benchmark.json",
    )
    result = json.loads((tmp_path / "benchmark.json").read_text())
    assert set(result["parts"]) == {"products", "legs", "gru_d"}
    assert result["parts"]["products"]["ratio_to_products"] == 1
    assert result["parts"]["legs"]["parameters"] == 104
    assert all(part["seconds"]["backward"] > 0 for part in result["parts"].values())


def test_streaming_measures_rates_errors_and_growth(tmp_path):
    said = script("streaming", "--rounds", 1, "--orders", 8, 16, "--lengths", 1000, 4000, "--out", tmp_path)
    result = json.loads((tmp_path / "benchmarks" / "streaming.json").read_text())
    assert [row["order"] for row in result["rows"]] == [8] * 4 + [16] * 4
    for row in result["rows"]:
        assert row["error"] < {"float32": 1e-5, "float64": 1e-13}[row["dtype"]]
        assert row["dense"] > 0
    assert (tmp_path / "figures" / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert said.count("time grows as") == 2
