"""The stages that a GPU is asked: what of them can be known without one."""

import sys
import textwrap

import gpu
import pytest
import torch

from hippo.data import Batch, Sequences, Splits
from hippo.models import HiPPORNN


def test_without_a_gpu_there_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "check"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="there is no GPU here"):
        gpu.main()


def test_the_table_is_trained_seed_by_seed_from_legs_on():
    runs = gpu.table([1, 0])
    assert len(runs) == 20
    assert len(set(runs)) == 20
    assert [run.config["seed"] for run in runs] == [1] * 10 + [0] * 10
    assert [run.name for run in runs[:3]] == ["pmnist_legs", "pmnist_gru", "pmnist_lmu"]
    assert {run.config["trainer"]["max_epochs"] for run in runs} == {50}


def test_runs_are_cut_when_the_time_is_up_and_taken_up_by_the_next_call(tmp_path, capfd):
    """With a stand-in for train.py: the first run ends at once, the others after they were cut once."""
    main = tmp_path / "main.py"
    main.write_text(
        textwrap.dedent("""
        import pathlib, signal, sys, time
        log, folder = map(pathlib.Path, (sys.argv[-2], sys.argv[-1]))
        name = next(a for a in sys.argv if a.startswith("model="))
        before = log.read_text() if log.exists() else ""
        with log.open("a") as file:
            file.write(f"{name} begun\\n")
        def stop(*_):
            with log.open("a") as file:
                file.write(f"{name} cut\\n")
            sys.exit(143)
        signal.signal(signal.SIGTERM, stop)
        if name != "model=legs" and f"{name} cut" not in before:
            time.sleep(60)
        done = next(path for path in folder.iterdir() if path.name.endswith(name.removeprefix("model=")))
        (next(done.iterdir()) / "record.json").write_text("{}")
        """)
    )
    runs = [run.at(tmp_path / "outputs") for run in gpu.table([0])[:3]]
    for run in runs:
        run.folder.mkdir(parents=True)
    options, log = [str(tmp_path / "log"), str(tmp_path / "outputs")], tmp_path / "log"
    gpu.train(runs, main, options, minutes=2 / 60)
    assert log.read_text().splitlines() == ["model=legs begun", "model=gru begun", "model=gru cut"]
    assert "the same command goes on" in capfd.readouterr().out
    gpu.train(runs, main, options, minutes=2 / 60)
    assert log.read_text().splitlines()[3:] == ["model=gru begun", "model=lmu begun", "model=lmu cut"]
    gpu.train(runs, main, options, minutes=0)
    assert "next is hippo train experiment=pmnist model=lmu" in capfd.readouterr().out
    main.write_text("raise SystemExit(3)")
    with pytest.raises(SystemExit, match="failed with exit status 3"):
        gpu.train(runs, main, options, minutes=1)


def test_the_network_that_is_checked_and_its_naive_loop_take_the_same_steps(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "HIDDEN", 6)
    monkeypatch.setattr(gpu, "BATCH", 3)
    split = Sequences(Batch(torch.rand(6, 5, 1), torch.randint(10, (6,))))
    monkeypatch.setattr(gpu.MNIST, "load", lambda self, root: Splits(split, split, split))
    trainings = [gpu.Training(lambda kind=kind: kind(1, 6), tmp_path, "cpu", 2) for kind in (HiPPORNN, gpu.StepByStep)]
    one, other = (torch.stack(training.steps(4)) for training in trainings)
    assert len(one) == 4
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert trainings[0].model.body.route in ("cpu", "naive")
    assert gpu.LastState(6)(torch.rand(3, 5, 1)).shape == (3, 6)
