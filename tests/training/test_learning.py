"""Every model of configs/model learns, and a new one joins by a file."""

import shutil

import pytest
import torch
from hydra.utils import instantiate

from hippo.data import Batch
from hippo.training.config import check
from hippo.training.learner import SequenceLearner
from tests.training import conftest, test_config

MODELS = sorted(path.stem for path in (conftest.CONFIGS / "model").glob("*.yaml"))
STEPS, LENGTH = 40, 16


def learnt(compose, model: str) -> tuple[float, float]:
    """Return the loss of a small network before and after it learns the sign of a pulse that noise follows."""
    values = check(compose(f"model={model}", "model.hidden_size=16", f"window={LENGTH}"))
    torch.manual_seed(0)
    learner = SequenceLearner(
        instantiate(values["model"], input_size=1), 2, lambda groups: torch.optim.Adam(groups, lr=0.02)
    )
    y = torch.arange(64) % 2
    times = torch.arange(float(LENGTH)).expand(64, -1)
    x = 0.3 * torch.randn(64, LENGTH) + (2.0 * y.unsqueeze(1) - 1) * (times < 4)
    batch = Batch(x.unsqueeze(-1), y, times if learner.model.needs_timestamps else None)
    optimizer, losses = learner.configure_optimizers(), []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(learner(batch), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


@pytest.mark.parametrize("model", MODELS)
def test_every_model_learns(compose, model):
    before, after = learnt(compose, model)
    assert before > 0.5  # ln 2 is that of a guess
    assert after < 0.2, after


def test_a_model_a_dataset_and_an_experiment_are_added_by_a_file_each(compose, tmp_path, monkeypatch):
    """Everything that is asked of the files of configs/ holds of new ones, and nothing else has to know of them."""
    own = shutil.copytree(conftest.CONFIGS, tmp_path / "configs")
    (own / "model" / "mine.yaml").write_text("_target_: hippo.models.GRU\nhidden_size: 512\n")
    (own / "dataset" / "mine.yaml").write_text((own / "dataset" / "digits.yaml").read_text())
    (own / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /dataset: mine\n  - override /model: mine\nname: mine\n"
    )
    for module in (conftest, test_config):
        monkeypatch.setattr(module, "CONFIGS", own)
    test_config.test_every_experiment_is_valid_and_carries_its_own_name(compose, "mine")
    for group in ("model", "dataset"):
        test_config.test_every_option_of_every_group_is_valid(compose, f"{group}=mine")
        test_config.test_configurations_repeat_no_default_wrongly(compose, group)
    test_every_model_learns(compose, "mine")
    assert check(compose("experiment=mine"))["dataset"]["_target_"] == "hippo.data.Digits"
