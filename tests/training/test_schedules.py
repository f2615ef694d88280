"""Learning rates that change from step to step: their shape, and in runs that are cut, refused and recorded."""

import json
import math
from pathlib import Path

import pytest
import torch

from hippo.models import GRU, ExpRNN
from hippo.training import records
from hippo.training.callbacks import History
from hippo.training.config import ConfigError, check
from hippo.training.learner import SequenceLearner
from hippo.training.run import run
from hippo.training.schedules import cosine, one_cycle

from .test_run import same

ROOT = Path(__file__).parents[2]


def rates(schedule, total: int, lr: float = 0.1, **settings) -> list[float]:
    """The rate of each of the steps of a training."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = schedule(optimizer, total, **settings)
    found = []
    for _ in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_one_cycle_rises_to_the_optimizers_rate_and_falls_to_almost_nothing():
    found = rates(one_cycle, 100, pct_start=0.3, div_factor=10.0, final_div_factor=100.0)
    assert found[0] == pytest.approx(0.01)
    assert found[29] == max(found) == pytest.approx(0.1)
    assert found[-1] == pytest.approx(0.0001)
    assert found[:30] == sorted(found[:30])
    assert found[29:] == sorted(found[29:], reverse=True)


def test_cosine_warms_up_in_equal_parts_and_falls_by_half_a_cosine():
    found = rates(cosine, 100, warmup=0.2, final=0.1)
    assert found[:21] == pytest.approx([0.1 * (step + 1) / 21 for step in range(21)])
    expected = [0.1 * (0.1 + 0.9 * (1 + math.cos(math.pi * step / 80)) / 2) for step in range(80)]
    assert found[20:] == pytest.approx(expected)
    assert rates(cosine, 10, warmup=0.0, final=1.0) == pytest.approx([0.1] * 10)


@pytest.mark.parametrize("total", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("rise", [0, 0.1, 0.25, 0.5, 0.9])
def test_a_training_of_a_few_steps_has_a_rate_for_each(total, rise):
    for found in (rates(one_cycle, total, pct_start=rise), rates(cosine, total, warmup=rise)):
        assert len(found) == total
        assert all(0 <= rate <= 0.1 for rate in found)


@pytest.mark.parametrize("schedule", [one_cycle, cosine])
def test_groups_of_parameters_keep_their_factors_at_every_step(schedule):
    module = SequenceLearner(ExpRNN(1, 6), 3, lambda groups: torch.optim.Adam(groups, lr=0.02))
    optimizer = module.configure_optimizers()
    scheduler = schedule(optimizer, 20)
    assert {group["lr"] / optimizer.param_groups[0]["lr"] for group in optimizer.param_groups} != {1.0}
    taken = set()
    for _ in range(20):
        others, plain = sorted(group["lr"] for group in optimizer.param_groups)
        assert others == pytest.approx(0.1 * plain)
        assert module.learning_rate(optimizer) == plain
        taken.add(plain)
        optimizer.step()
        scheduler.step()
    assert len(taken) > 10


def test_a_schedule_that_is_asked_for_has_every_step_of_the_training(tiny, monkeypatch):
    """Total steps come from batches and epochs: the rate of each step of a run, the last one included."""
    taken = []
    before = History.on_before_optimizer_step

    def watched(self, trainer, pl_module, optimizer):
        taken.append(optimizer.param_groups[0]["lr"])
        before(self, trainer, pl_module, optimizer)

    monkeypatch.setattr(History, "on_before_optimizer_step", watched)
    run(tiny("scheduler=one_cycle", "+trainer.limit_train_batches=5", "trainer.max_epochs=2", "optimizer.lr=0.1"))
    assert taken == rates(one_cycle, 10)


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine"])
def test_a_run_with_a_schedule_resumes_to_the_same_numbers_and_tells_its_rates(
    tiny, monkeypatch, tmp_path, capsys, schedule
):
    overrides = (f"scheduler={schedule}", "model=exprnn", "+trainer.limit_train_batches=6", "optimizer.lr=0.01")
    whole = run(tiny(*overrides, f"paths.outputs={tmp_path / 'whole'}"))
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    step = SequenceLearner.training_step

    def cut(self, batch, batch_idx):
        if (self.current_epoch, batch_idx) == (1, 3):
            raise KeyError("power cut")
        return step(self, batch, batch_idx)

    with monkeypatch.context() as context:
        context.setattr(SequenceLearner, "training_step", cut)
        with pytest.raises(KeyError, match="power cut"):
            run(tiny(*overrides))
    resumed = run(tiny(*overrides))
    assert resumed["resumed"] == 1
    assert same(resumed, whole)
    expected = rates(one_cycle if schedule == "one_cycle" else cosine, 18, lr=0.01)[5::6]
    assert [epoch["train/learning_rate"] for epoch in whole["history"]] == expected
    assert whole["config"]["scheduler"]["_target_"].endswith(schedule)
    for line, rate in zip(said, expected, strict=True):
        assert f"rate {rate:.2g}" in line
        assert line.endswith(" left")


def test_a_run_of_a_constant_rate_records_none_and_has_the_hash_it_always_had(compose):
    """Committed before there were schedules: `experiment=digits model=gru`."""
    (path, *_) = sorted((ROOT / "results" / "records" / "digits_gru").glob("*.json"))
    record = json.loads(path.read_text())
    assert "scheduler" not in record["config"]
    assert records.config_hash(record["config"] | {"scheduler": None}) == record["hash"]
    for more in ((), ("scheduler=none",)):
        values = check(compose("experiment=digits", "model=gru", *more))
        assert records.config_hash(values) == record["hash"] == path.stem.partition("-")[0]
        assert records.scientific(values) == records.read(path)["config"]
    changed = check(compose("experiment=digits", "model=gru", "scheduler=cosine"))
    assert records.config_hash(changed) != record["hash"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["scheduler=one_cycle", "scheduler.pct_start=1"],
            "scheduler: pct_start must be at least 0 and below 1, not",
        ),
        (["scheduler=one_cycle", "scheduler.div_factor=0"], "scheduler: div_factor and final_div_factor must be above"),
        (["scheduler=cosine", "scheduler.warmup=-0.1"], "scheduler: warmup must be at least 0"),
        (["scheduler=cosine", "scheduler.final=2"], "scheduler: final must lie between 0 and 1"),
        (["scheduler=one_cycle", "scheduler.cycle_momentum=true", "optimizer._target_=torch.optim.Adagrad"], "beta1"),
    ],
)
def test_a_value_that_makes_no_schedule_is_refused_before_any_work(tiny, overrides, words):
    with pytest.raises(ConfigError, match=words):
        run(tiny(*overrides))


def test_nothing_learnt_has_no_rate(tiny):
    module = SequenceLearner(GRU(1, 6).requires_grad_(False), 0, torch.optim.SGD, scheduler=cosine, numbers=1)
    module.head.requires_grad_(False)
    assert module.configure_optimizers() is None
