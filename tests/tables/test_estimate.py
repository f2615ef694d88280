"""What a run will take, by a few of its steps."""

import time

import torch

from hippo.models import GRU
from hippo.tables import estimate
from hippo.tables.estimate import estimates, on_gpus, seconds_an_epoch
from hippo.training import records
from hippo.training.config import check
from hippo.training.sweeps import Run

TINY = ["experiment=digits", "model=gru", "model.hidden_size=4", "trainer=cpu"]
PAUSE = 0.01


class Slow(GRU):
    """A network whose forward pass takes a hundredth of a second and little more."""

    def unroll(self, x, timestamps, mask):
        time.sleep(PAUSE)
        return super().unroll(x, timestamps, mask)


def planned(compose, *overrides: str, seed: int = 0) -> Run:
    values = check(compose(*overrides, f"seed={seed}"))

    return Run(overrides, values["name"], records.identity(values), values)


def test_an_epoch_takes_its_steps_and_its_validation(compose):
    slow = planned(compose, *TINY, "model._target_=tests.tables.test_estimate.Slow", "threads=1")
    steps, validation = 26, 6  # 1,257 and 270 digits in batches of 50
    assert (steps + validation) * PAUSE < seconds_an_epoch(slow.config) < 12 * (steps + validation) * PAUSE


def test_each_setting_is_timed_once_with_its_threads(compose, monkeypatch):
    timed, before = [], torch.get_num_threads()

    def an_epoch(values):
        timed.append((values["model"]["hidden_size"], torch.get_num_threads()))
        return 2.0

    monkeypatch.setattr(estimate, "seconds_an_epoch", an_epoch)
    runs = [planned(compose, *TINY, "trainer.max_epochs=7", "threads=null", seed=seed) for seed in (0, 1)]
    runs.append(planned(compose, *TINY, "model.hidden_size=5", "trainer.max_epochs=3", "threads=1"))
    found = estimates(runs, threads=2)
    assert [found[run].seconds for run in runs] == [14, 14, 6]
    assert timed == [(4, 2), (5, 1)]
    assert torch.get_num_threads() == before
    assert estimates([], threads=1) == {}


def test_what_cannot_be_timed_says_why_and_downloads_nothing(compose, tmp_path):
    nowhere = f"paths.data={tmp_path / 'nowhere'}"
    runs = [
        planned(compose, "experiment=pmnist", nowhere),
        planned(compose, "experiment=trajectories", nowhere),
        planned(compose, "experiment=digits", "model=gru_d"),
        planned(compose, *TINY, "optimizer.lr=-1"),
    ]
    reasons = [found.reason for found in estimates(runs, threads=1).values()]
    assert reasons[0] == reasons[1] == f"{tmp_path / 'nowhere'}: its data are not here, so it cannot be timed"
    assert "GRUD needs timestamps" in reasons[2]
    assert "Invalid learning rate" in reasons[3]
    assert not (tmp_path / "nowhere").exists()


def test_a_record_of_a_gpu_tells_what_that_gpu_took(compose):
    run = planned(compose, *TINY)
    setting = run.id.partition("-")[0]
    rows = [(["A"], setting, 10.0), (["A"], setting, 30.0), (["B"], setting, 7.0), ([], setting, 99.0)]
    rows.append((["A"], "other", 1.0))
    found = {
        ("digits_gru", str(k)): {"machine": {"gpus": gpus}, "hash": name, "seconds": seconds}
        for k, (gpus, name, seconds) in enumerate(rows)
    }
    assert on_gpus(run, found) == {"A": 20.0, "B": 7.0}


def test_shifts_are_validated_on_too_and_the_precision_is_the_run_s(compose, trajectories_root):
    small = ["model=gru", "model.hidden_size=4", "trainer=cpu", f"paths.data={trajectories_root}", "threads=1"]
    run = planned(compose, "experiment=trajectories", *small, "trainer.precision=bf16-mixed")
    assert 0 < seconds_an_epoch(run.config) < 60
