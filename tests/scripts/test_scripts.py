"""Each script does its one thing."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from omegaconf import open_dict
from scipy.io import wavfile

from hippo.data import CharacterTrajectories
from hippo.models import HiPPORNN
from hippo.training import records
from hippo.training.run import run

ROOT = Path(__file__).parents[2]
LEGS = records.read(next((ROOT / "results" / "records" / "trajectories_legs").glob("*.json")))


@pytest.fixture
def script(monkeypatch, capsys):
    """The function (name, *arguments) -> what the script prints, run in this process: a start takes longer than it."""

    def run(name: str, *arguments: object) -> str:
        path = ROOT / "scripts" / f"{name}.py"
        monkeypatch.syspath_prepend(path.parent)
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        threads = torch.get_num_threads()
        capsys.readouterr()
        try:
            runpy.run_path(str(path), run_name="__main__")
        finally:
            torch.set_num_threads(threads)
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "scripts").glob("*.py")))
def test_every_script_says_what_it_does(script, capsys, name):
    with pytest.raises(SystemExit) as stop:
        script(name, "--help")
    assert stop.value.code == 0
    assert "--help" in capsys.readouterr().out


@pytest.mark.parametrize("measure", ["legs", "legt", "lmu", "chebyshev", "fourier", "lagt"])
@pytest.mark.parametrize("signal", ["noise", "chirp", "steps"])
def test_reconstruct_draws_any_measure_and_signal(script, tmp_path, measure, signal):
    small = ["--order", 8, "--length", 200, "--window", 60]
    script("reconstruct", signal, "--measure", measure, *small, "--out", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_reconstruct_reads_files_and_draws_an_animation(script, tmp_path):
    wave = np.sin(np.arange(300) / 20)
    wavfile.write(tmp_path / "sound.wav", 8000, (np.stack([wave, wave], axis=1) * 30_000).astype(np.int16))
    (tmp_path / "table.csv").write_text("time, a value\n" + "".join(f"{i},{v}\n" for i, v in enumerate(wave)))
    (tmp_path / "constant.csv").write_text("1\n" * 50)
    for name, column in (("sound.wav", 0), ("table.csv", 1), ("constant.csv", 0)):
        script("reconstruct", tmp_path / name, "--column", column, "--order", 8, "--out", tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    script("reconstruct", tmp_path / "sound.wav", "--order", 8, "--frames", 3, "--animation", tmp_path / "film.gif")
    assert (tmp_path / "film.gif").read_bytes().startswith(b"GIF89a")


@pytest.mark.parametrize("measure", ["legs", "legt"])
def test_reconstruct_reads_when_samples_were(script, tmp_path, measure):
    """A ramp in time, its samples at irregular times on a clock of seconds since 1970, is read back as a ramp."""
    clock = 1.7e9 + 40 * np.sort(np.random.default_rng(0).random(3000))
    (tmp_path / "log.csv").write_text("time,a\n" + "".join(f"{t:.6f},{t - 1.7e9}\n" for t in clock))
    window = ["--measure", measure, "--window", 20, "--order", 8, "--timestamps", 0, "--column", 1]
    script("reconstruct", tmp_path / "log.csv", *window, "--out", tmp_path / "picture.svg")
    errors = re.findall(r"<!-- after [\d,]+ samples: ([\d.]+) % RMS error -->", (tmp_path / "picture.svg").read_text())
    assert len(errors) == 3
    assert max(map(float, errors)) < 2
    (tmp_path / "log.csv").write_text("0,1\n2,1\n1,2\n")
    with pytest.raises(SystemExit, match="sort the lines by time"):
        script("reconstruct", tmp_path / "log.csv", "--timestamps", 0, "--column", 1)


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
def test_reconstruct_says_what_is_wrong(script, tmp_path, monkeypatch, content, arguments, complaint):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(arguments[0]).write_text(content)
    with pytest.raises(SystemExit, match=f"error: .*({complaint})"):
        script("reconstruct", *arguments, "--out", "picture.png")
    assert not Path("picture.png").exists()


def test_the_gallery_is_drawn(script, tmp_path):
    script("gallery", "--order", 9, "--length", 300, "--window", 100, "--out", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_benchmark_measures_every_part(tmp_path):  # in a process of its own: it forks, which one with threads must not
    small = ["--batch", "2", "--length", "5", "--hidden", "4", "--rounds", "1", "--out", tmp_path / "benchmark.json"]
    subprocess.run([sys.executable, "scripts/benchmark.py", "legs", "gru_d", *small], cwd=ROOT, check=True)
    result = json.loads((tmp_path / "benchmark.json").read_text())
    assert set(result["parts"]) == {"products", "legs", "gru_d"}
    assert 0.1 < result["parts"]["products"]["ratio_to_products"] < 10  # to themselves, in microseconds
    assert result["parts"]["legs"]["parameters"] == 104
    assert all(part["seconds"]["backward"] > 0 for part in result["parts"].values())


def test_layers_measures_every_layer_and_says_what_public_code_is_missing(tmp_path):
    small = ["--batch", "2", "--length", "9", "--hidden", "8", "--states", "4", "--rounds", "1", "--threads", "1"]
    out = ["--no-compile", "--out", tmp_path / "layers.json"]
    command = [sys.executable, "scripts/layers.py", "s5", "mamba2", *small, *out]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    found = json.loads((tmp_path / "layers.json").read_text())["layers"]
    assert found["mamba2"]["parameters"] == 628
    assert "compiled_steps_a_second" not in found["mamba2"]
    for layer in found.values():
        assert min(*layer["seconds"].values(), layer["ratio_to_floor"], layer["steps_a_second"]) > 0
    public = found["s5"]["public"]
    assert public.get("error", 0) < 1e-5
    assert ("s5-pytorch cannot be imported" in said) == ("missing" in public)


def test_streaming_measures_rates_errors_and_growth(script, tmp_path):
    said = script("streaming", "--rounds", 1, "--orders", 8, 16, "--lengths", 1000, 4000, "--out", tmp_path)
    result = json.loads((tmp_path / "benchmarks" / "streaming.json").read_text())
    assert [row["order"] for row in result["rows"]] == [8] * 4 + [16] * 4
    for row in result["rows"]:
        assert row["error"] < {"float32": 1e-5, "float64": 1e-13}[row["dtype"]]
        assert row["dense"] > 0
    assert (tmp_path / "figures" / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert said.count("time grows as") == 2
    assert 0 < result["step"]["LegS"] < 0.1
    assert "one sample at a time" in said


def test_approximation_is_bounded_by_the_best_polynomial(script, tmp_path):
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


def test_gates_are_tested_on_a_run(script, trajectories_root, tmp_path):
    small = ("model.hidden_size=16", "trainer.max_epochs=4", "optimizer.lr=0.01", "trainer=cpu", "threads=1")
    where = (f"paths.data={trajectories_root}", f"paths.outputs={tmp_path / 'outputs'}", "logger=none")
    train = [sys.executable, "train.py", "experiment=trajectories", "model=legs", *small, *where]
    subprocess.run(train, cwd=ROOT, check=True, capture_output=True)
    (path,) = (tmp_path / "outputs").glob("*/*/record.json")
    said = script("gates", path.parent, "--rates", 0.5, 2, "--data", trajectories_root, "--out", tmp_path)
    accuracy = json.loads((tmp_path / "benchmarks" / "gates.json").read_text())["accuracy"]
    (by_sample,), (by_time,) = accuracy["by sample"], accuracy["by time"]
    best, one = json.loads(path.read_text())["metrics"]["best"], 100 / 429
    tested = (best["shifted"]["half_rate"]["test"], best["test"])
    assert by_sample[:2] == pytest.approx([100 * test["accuracy"] for test in tested], abs=one)
    assert by_time[1] == by_sample[1]
    assert len(said.splitlines()) == 3
    assert (tmp_path / "figures" / "gates.png").stat().st_size > 5_000

    # At half the rate, every sample standing for two units of time.
    state = torch.load(path.parent / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    model = HiPPORNN(3, 16)
    model.load_state_dict({name[6:]: value for name, value in state.items() if name.startswith("model.")})
    data = CharacterTrajectories(sampling={"rate": 0.5, "time_scale": 0.5, "drop": 0.0}).load(trajectories_root).test
    full = CharacterTrajectories().load(trajectories_root).test.everything
    x, y, *_ = data.everything
    torch.testing.assert_close(x, full.x[:, ::2])
    with torch.inference_mode():
        h = model.step_by_step(x, None, torch.full((x.shape[1], 1, 1), 2.0))[-1]
    expected = ((h @ state["head.weight"].mT + state["head.bias"]).argmax(1) == y).double().mean().item()
    assert by_time[0] == pytest.approx(100 * expected, abs=one)
    assert abs(by_time[0] - by_sample[0]) > 2 * one


def test_gates_execute_nothing_that_a_run_folder_names(script, tmp_path):
    """The record and the run's own configuration, which is not read at all."""
    hostile = {"_target_": "torch.load", "f": str(tmp_path / "x.pt"), "weights_only": False}
    torch.save(Executed(tmp_path / "executed"), tmp_path / "x.pt")
    record = json.loads(json.dumps(LEGS))
    record["config"]["dataset"]["sampling"] = hostile
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "record.json").write_text(json.dumps(record))
    (folder / "config.yaml").write_text(json.dumps({"paths": {"data": hostile}, "dataset": hostile}))
    with pytest.raises(SystemExit, match=r"torch\.load is nothing that the package offers"):
        script("gates", folder)
    assert not (tmp_path / "executed").exists()


class Executed:
    """Something that leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_gates_refuse_what_they_cannot_read(script, capsys, tmp_path):
    legs = {"_target_": "hippo.models.HiPPORNN"}
    letters = {"_target_": "hippo.data.CharacterTrajectories", "timestamps": None, "padding": "last_value"}
    configs = {
        "legs": (legs, letters),
        "other": (legs, letters),
        "gru": ({"_target_": "hippo.models.GRU"}, letters),
        "digits": (legs, {"_target_": "hippo.data.Digits"}),
        "timed": (legs, letters | {"timestamps": "separate"}),
        "own": (legs, letters | {"padding": "none"}),
    }
    for name, (model, dataset) in configs.items():
        (tmp_path / name).mkdir()
        config = LEGS["config"] | {"model": {"hidden_size": 4} | model, "dataset": dataset}
        record = LEGS | {"hash": name, "config": config}
        (tmp_path / name / "record.json").write_text(json.dumps(record))
    for arguments, words in (
        (["nowhere"], "nowhere"),
        (["gru"], "not of a HiPPO network"),
        (["digits"], "not of experiment=trajectories"),
        (["timed"], "without timestamps"),
        (["own"], "should be padded"),
        (["legs", "other"], "not of the same configuration"),
        (["legs", "--rates", "0"], "above 0 and finite"),
    ):
        with pytest.raises(SystemExit) as stop:
            script("gates", *(tmp_path / word if word in configs else word for word in arguments))
        assert words in f"{stop.value.code} {capsys.readouterr().err}"


def test_evaluate_prints_what_a_model_comes_to(script, tmp_path):
    train = ["experiment=digits", "model=gru", "model.hidden_size=4", "trainer.max_epochs=1", "trainer=cpu"]
    with hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = hydra.compose("train", [*train, "name=x", "logger=none", f"paths.outputs={tmp_path}"])
    with open_dict(config):
        record = run(config)
    folder = next(tmp_path.glob("x/*"))
    head, _, test = script("evaluate", folder).splitlines()
    assert head.split() == ["sequences", "loss", "accuracy"]
    accuracy = record["metrics"]["best"]["test"]["accuracy"]
    assert test.split()[::3] == ["test", f"{accuracy:.4f}"]
    np.savez(tmp_path / "x.npz", x=np.zeros((3, 64)), y=[0, 1, 2])
    *_, of_file = script("evaluate", folder, "dataset.permutation=none", tmp_path / "x.npz").splitlines()
    assert of_file.split()[:2] == [str(tmp_path / "x.npz"), "3"]
    with pytest.raises(SystemExit, match=r"error: .* is neither the folder of a run"):
        script("evaluate", tmp_path / "nothing")
