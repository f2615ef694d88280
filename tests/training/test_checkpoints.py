"""A checkpoint is trusted when it is whole, and what is wrong with one is said with its name and what to do."""

import os
import random

import pytest
import torch

from hippo.models import ExpRNN
from hippo.training import checkpoints
from hippo.training.config import ConfigError
from hippo.training.learner import SequenceLearner


@pytest.fixture
def folder(tmp_path):
    """Two checkpoints that a network may go on from, of epochs 1 and 2."""
    names = ("epoch", "seconds", "train/loss", "train/accuracy", "validation/loss", "validation/accuracy")
    for epoch, name in enumerate(("best", "last")):
        history = {"epochs": [dict.fromkeys(names, 1.0)] * (epoch + 1), "sessions": [], "resumed": 0}
        kept = {key: {"best_model_path": f"elsewhere/{name}.ckpt"} for key in ("Keep", "Keep the last")}
        checkpoint = {
            "epoch": epoch,
            "global_step": 5,
            "pytorch-lightning_version": "2.6.0",
            "state_dict": module().state_dict(),
            "optimizer_states": [{}],
            "lr_schedulers": [],
            "loops": {},
            "callbacks": {"History": history} | kept,
        }
        checkpoints.AtomicCheckpointIO().save_checkpoint(checkpoint, tmp_path / f"{name}.ckpt")
    return tmp_path


def module(width: int = 8) -> SequenceLearner:
    return SequenceLearner(ExpRNN(1, width), 2, torch.optim.SGD)


def test_every_truncation_and_every_flipped_bit_that_changes_something_is_found(folder):
    """A flip in the archive's own alignment and headers may change nothing, and then the contents are those before."""
    path = folder / "last.ckpt"
    content = path.read_bytes()
    whole = checkpoints.load(path)
    chance = random.Random(0)
    for length in {0, 1, len(content) - 1, *(chance.randrange(len(content)) for _ in range(60))}:
        path.write_bytes(content[:length])
        with pytest.raises(ConfigError, match=r"last\.ckpt is damaged.*force=true"):
            checkpoints.load(path)
    found = []
    for _ in range(150):
        damaged = bytearray(content)
        damaged[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            assert repr(checkpoints.load(path)) == repr(whole)
        except ConfigError as error:
            found.append(str(error))
    assert len(found) > 50
    assert all("last.ckpt is damaged" in message and "force=true" in message for message in found)


def test_a_run_goes_on_from_its_last_checkpoint_or_from_the_best_where_that_is_damaged(folder, tmp_path, capsys):
    assert checkpoints.newest(folder, module()) == folder / "last.ckpt"
    (folder / "last.ckpt").write_bytes(b"half")
    assert checkpoints.newest(folder, module()) == folder / "best.ckpt"
    assert "The best epoch before it, 1, is whole" in capsys.readouterr().out
    (folder / "best.ckpt").write_bytes(b"half")
    with pytest.raises(ConfigError, match=r"last\.ckpt is damaged.*force=true"):
        checkpoints.newest(folder, module())
    assert checkpoints.newest(tmp_path / "empty", module()) is None


def test_a_best_checkpoint_that_the_end_would_need_is_missed_at_the_beginning(folder):
    state = torch.load(folder / "last.ckpt")
    state["callbacks"]["Keep"]["best_model_path"] = "elsewhere/best.ckpt"
    torch.save(state, folder / "last.ckpt")
    (folder / "best.ckpt").unlink()
    with pytest.raises(ConfigError, match=r"best\.ckpt is missing.*force=true"):
        checkpoints.newest(folder, module())


def test_a_checkpoint_is_a_file_of_tensors(folder):
    (folder / "best.ckpt").unlink()
    os.mkfifo(folder / "best.ckpt")
    torch.save({"epoch": Evil()}, folder / "last.ckpt")
    with pytest.raises(ConfigError, match=r"best\.ckpt is no file; .*force=true"):
        checkpoints.load(folder / "best.ckpt")
    with pytest.raises(ConfigError, match=r"last\.ckpt is damaged .*force=true") as error:
        checkpoints.load(folder / "last.ckpt")
    assert "\n" not in str(error.value)  # nor an advice to trust it


class Evil:
    def __reduce__(self):
        return pytest.fail, ("it was executed",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("callbacks"), "lacks callbacks"),
        (lambda state: state.update(epoch="1"), "lacks epoch"),
        (lambda state: state["callbacks"].pop("History"), "lacks the history"),
        (lambda state: state["callbacks"]["History"]["epochs"].pop(), "lacks the history"),
        (lambda state: state["callbacks"]["History"]["epochs"][0].pop("validation/loss"), "lacks the history"),
        (lambda state: state["callbacks"].update(Keep=None), "lacks states of its callbacks"),
        (lambda state: state["callbacks"].pop("Keep"), "lacks what its best epochs are"),
        (lambda state: state["optimizer_states"].clear(), "lacks the state of its optimizer"),
        (lambda state: state["lr_schedulers"].append({}), "lacks the state of its scheduler"),
        (lambda state: state["state_dict"].pop("head.bias"), r"other weights \(head\.bias\)"),
        (lambda state: state.update(state_dict=module(9).state_dict()), r"other weights \(head\.weight, model\."),
    ],
)
def test_a_checkpoint_that_no_run_can_go_on_from_is_told_of(folder, change, message):
    state = torch.load(folder / "last.ckpt")
    change(state)
    torch.save(state, folder / "last.ckpt")
    (folder / "best.ckpt").unlink()
    with pytest.raises(ConfigError, match=rf"last\.ckpt .*{message}.*force=true"):
        checkpoints.newest(folder, module())
