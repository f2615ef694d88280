"""Each argument of Lightning's Trainer is admitted or refused, and what is admitted has a value that a run can have."""

import inspect

import pytest
import pytorch_lightning as pl

from hippo.training.arguments import ADMITTED, REFUSED, SUPPLIED, refusal


def test_every_argument_of_the_trainer_is_decided_on_once():
    decided = [*SUPPLIED, *ADMITTED, *REFUSED]
    assert sorted(decided) == sorted(inspect.signature(pl.Trainer).parameters)
    assert all(ADMITTED.values())
    assert all(REFUSED.values())


@pytest.mark.parametrize("key", sorted(REFUSED))
def test_what_is_refused_is_named_with_the_reason(key):
    assert refusal({"max_epochs": 3, key: None}) == f"trainer.{key} cannot be set: {REFUSED[key]}"


def test_an_argument_that_a_later_trainer_has_is_refused_until_it_is_decided_on(monkeypatch):
    monkeypatch.setattr(pl.Trainer, "__init__", lambda self, max_epochs=None, skip_every_third_batch=False: None)
    assert "skip_every_third_batch cannot be set" in str(refusal({"max_epochs": 3, "skip_every_third_batch": True}))
    assert refusal({"max_epochs": 3, "of_a_trainer_of_ones_own": True}) is None


@pytest.mark.parametrize(
    ("key", "wrong", "right"),
    [
        ("max_epochs", [None, 0, -1], [1]),
        ("precision", ["bf16-true", "16-true", "transformer-engine", "32", 64], ["32-true", "64-true", "bf16-mixed"]),
        ("strategy", ["nope", "ddp_spawn", "ddp_notebook", "fsdp", "deepspeed"], ["auto", "ddp"]),
        ("devices", [0, -2, 100_000, "100000", "abc", "", "0", [], [0.5], True], [1, 2, -1, "auto", "0,1", [0, 1]]),
        ("num_nodes", [0, -1], [1, 2]),
        ("gradient_clip_algorithm", ["abc", ""], [None, "norm", "value"]),
        ("accumulate_grad_batches", [0, -2], [1, 4]),
        ("gradient_clip_val", [float("nan"), float("inf"), -1, 0], [None, 0.3, 3]),
        ("limit_train_batches", [0, 0.0, -1, 1.5, True], [None, 1, 7, 0.5, 1.0]),
        ("limit_val_batches", [0], [1]),
        ("limit_test_batches", [0], [1]),
    ],
)
def test_values_that_no_run_can_have_are_refused(key, wrong, right):
    for value in wrong:
        assert f"trainer.{key}" in (refusal({"max_epochs": 3, key: value}) or ""), value
    for value in right:
        assert refusal({"max_epochs": 3, key: value}) is None, value
