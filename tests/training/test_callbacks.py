"""What is said while a run trains."""

from types import SimpleNamespace

import pytest

from hippo.training import callbacks
from hippo.training.callbacks import History


@pytest.mark.parametrize(("earlier", "left"), [([], "10 min"), ([500.0], "11 min")])
def test_a_step_says_the_time_left_of_the_run(monkeypatch, capsys, earlier, left):
    """10 of 100 steps took 20 s in the first epoch of three, or in the second, after one that took 500 s."""
    history = History({})
    history.epochs = [{"epoch": 1, "seconds": seconds} for seconds in earlier]
    trainer = SimpleNamespace(
        progress_bar_callback=None, num_training_batches=100, max_epochs=3, current_epoch=len(earlier)
    )
    clock = iter([0.0, 20.0])
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(callbacks, "_SILENCE", 1.0)
    history.on_train_epoch_start(trainer, None)
    history.on_train_batch_end(trainer, SimpleNamespace(model=None), None, None, 9)
    assert f"step 10/100, {left} left" in capsys.readouterr().out
