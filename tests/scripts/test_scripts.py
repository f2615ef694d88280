"""Each script does its one thing."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

ROOT = Path(__file__).parents[2]


def script(name: str, *arguments: object) -> str:
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "scripts").glob("*.py")))
def test_every_script_says_what_it_does(name):
    assert "--help" in script(name, "--help")


@pytest.fixture(scope="module")
def reconstruct():
    """The script as a module: its start takes longer than its work."""
    spec = importlib.util.spec_from_file_location("reconstruct", ROOT / "scripts" / "reconstruct.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*arguments: object) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["reconstruct.py", *map(str, arguments)])
            module.main()

    return run


@pytest.mark.parametrize("measure", ["legs", "legt", "lmu", "chebyshev", "fourier", "lagt"])
@pytest.mark.parametrize("signal", ["noise", "chirp", "steps"])
def test_reconstruct_draws_any_measure_and_signal(reconstruct, tmp_path, measure, signal):
    small = ["--order", 8, "--length", 200, "--window", 60]
    reconstruct(signal, "--measure", measure, *small, "--out", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_reconstruct_reads_files_and_draws_an_animation(reconstruct, tmp_path):
    wave = np.sin(np.arange(300) / 20)
    wavfile.write(tmp_path / "sound.wav", 8000, (np.stack([wave, wave], axis=1) * 30_000).astype(np.int16))
    (tmp_path / "table.csv").write_text("time, a value\n" + "".join(f"{i},{v}\n" for i, v in enumerate(wave)))
    (tmp_path / "constant.csv").write_text("1\n" * 50)
    for name, column in (("sound.wav", 0), ("table.csv", 1), ("constant.csv", 0)):
        reconstruct(tmp_path / name, "--column", column, "--order", 8, "--out", tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    reconstruct(tmp_path / "sound.wav", "--order", 8, "--frames", 3, "--animation", tmp_path / "film.gif")
    assert (tmp_path / "film.gif").read_bytes().startswith(b"GIF89a")


@pytest.mark.parametrize(
    ("content", "arguments", "complaint"),
    [
        (None, ["missing.csv"], "cannot be read"),
        ("1\n2\nx\n4\n", ["bad.csv"], "sample 2 is no finite number"),
        ("", ["bad.csv"], "cannot be read: it is empty"),
        ("1,2\n3,4\n", ["bad.csv", "--column", 7], "cannot be read"),
        ("not a sound", ["bad.wav"], "cannot be read"),
        ("RIFF", ["bad.wav"], "cannot be read"),
        (",1\n2,3\n4,5\n", ["bad.csv"], "sample 0 is no finite number"),
        (None, ["noise", "--frames", 0], "--frames must be at least 1"),
        (None, ["music"], "there is no signal music; choose noise, chirp, steps"),
        (None, ["noise", "--length", 1], "--length must be at least 2"),
        (None, ["noise", "--order", 0], "order must be a whole number of at least 1"),
    ],
)
def test_reconstruct_says_what_is_wrong(reconstruct, tmp_path, monkeypatch, content, arguments, complaint):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(arguments[0]).write_text(content)
    with pytest.raises(SystemExit, match=f"error: .*({complaint})"):
        reconstruct(*arguments, "--out", "picture.png")
    assert not Path("picture.png").exists()


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


def test_approximation_is_bounded_by_the_best_polynomial(tmp_path):
    few = ("--cycles", 10, "--functions", 1)
    shown = script("approximate", "--orders", 20, 60, "--lengths", 100, 300, *few, "--out", tmp_path)
    assert "best polynomial" in shown
    errors = json.loads((tmp_path / "benchmarks" / "approximation.json").read_text())["errors"]
    for order in ("20", "60"):
        best = errors["N"]["best polynomial"][order]
        assert 0.999 * best < errors["N"]["LegS"][order] < 1.1 * best + 1e-3
    assert errors["N"]["LegS"]["60"] < 0.01 < errors["N"]["LegS"]["20"] < 1
    assert errors["L"]["euler"]["100"] is None  # unstable: beyond what float64 has
    assert errors["L"]["bilinear, float64"]["300"] < errors["L"]["backward_euler"]["300"] < 1
    assert (tmp_path / "figures" / "approximation.png").stat().st_size > 10_000
