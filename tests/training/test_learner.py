"""Any model on a dataset by one word, and what training makes of its wishes."""

from functools import partial
from pathlib import Path

import pytest
import torch
from hydra.utils import get_class
from omegaconf import OmegaConf

from hippo.data import CharacterTrajectories
from hippo.mixers import S4D
from hippo.models import GRU, GRUD, ODERNN, ExpRNN, NeuralCDE, Stack
from hippo.training.build import misfit
from hippo.training.config import ConfigError
from hippo.training.errors import explain
from hippo.training.learner import SequenceLearner
from hippo.training.run import run

CONFIGS = Path(__file__).parents[2] / "configs"
GAPS = ("gru_d", "gru_dt", "ode_rnn")
MODELS = sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml"))


def test_the_orthogonal_parameters_learn_at_a_tenth_of_the_rate():
    module = SequenceLearner(ExpRNN(1, 6), 3, lambda groups: torch.optim.Adam(groups, lr=0.02))
    rates = {
        id(parameter): group["lr"]
        for group in module.configure_optimizers().param_groups
        for parameter in group["params"]
    }
    assert len(rates) == len(list(module.parameters()))
    for name, parameter in module.named_parameters():
        assert rates[id(parameter)] == pytest.approx(0.002 if name.startswith("model.recurrent.") else 0.02), name


def test_other_models_learn_at_one_rate():
    module = SequenceLearner(GRU(1, 6), 3, lambda groups: torch.optim.SGD(groups, lr=0.1))
    (group,) = module.configure_optimizers().param_groups
    assert group["lr"] == 0.1
    assert len(group["params"]) == len(list(module.parameters()))


@pytest.mark.parametrize("model", MODELS)
def test_every_model_trains_on_the_digits_by_one_word(tiny, model, capsys):
    kind = get_class(OmegaConf.load(CONFIGS / "model" / f"{model}.yaml")._target_)
    timed = f"dataset.timestamps={kind.needs_timestamps}"
    record = run(tiny(f"model={model}", timed, "trainer.max_epochs=1", "+trainer.limit_train_batches=2"))
    assert record["name"] == f"digits_{model}"
    (epoch,) = record["history"]
    assert 0 < epoch["train/loss"] < 10
    assert ("train/evaluations" in epoch) == issubclass(kind, (ODERNN, NeuralCDE))
    if model == "ode_rnn":
        assert epoch["train/evaluations"] == epoch["validation/evaluations"] == 63
    assert f"hidden size {record['config']['model']['hidden_size']}" in capsys.readouterr().out


@pytest.mark.parametrize("model", GAPS)
def test_a_model_of_gaps_is_refused_data_without_timestamps(tiny, model):
    with pytest.raises(ConfigError) as error:
        run(tiny(f"model={model}"))
    assert "needs timestamps, and the dataset has none" in explain(error.value)
    assert "dataset.timestamps=true" in explain(error.value)


def test_what_a_model_is_asked_to_read_is_named_in_the_words_of_the_dataset(trajectories_root):
    """`misfit` on the real trajectories: a model of gaps without timestamps, and a clock that nobody reads."""
    shifts = {"slow": {"time_scale": 0.5}}
    plain, timed = (CharacterTrajectories(timestamps=kind, shifts=shifts) for kind in (None, "separate"))
    with pytest.raises(ConfigError, match=r"Add dataset\.timestamps=separate"):
        misfit(GRUD(3, 4), plain, plain.load(trajectories_root))
    splits = timed.load(trajectories_root)
    with pytest.raises(ConfigError, match=r"GRU reads no timestamps.*dataset\.timestamps=index"):
        misfit(GRU(3, 4), timed, splits)
    misfit(GRUD(3, 4), timed, splits)
    misfit(GRU(3, 4), timed, splits._replace(shifted={}))


def test_a_length_given_once_reaches_the_models_that_have_one(compose):
    for model, key in (("legt", "measure"), ("chebyshev", "measure"), ("rand", "measure")):
        assert compose(f"model={model}", "window=33").model[key].length == 33
    for model, key in (
        ("lmu", "length"),
        ("fru", "length"),
        ("ode_rnn", "unit"),
        ("gru_d", "unit"),
        ("neural_cde", "unit"),
    ):
        assert compose(f"model={model}", "window=33").model[key] == 33


def test_a_factor_holds_for_a_parameter_of_the_model_itself_too():
    model = ExpRNN(1, 4)
    model.lr_factors = {"threshold": 0.5, "recurrent": 0.1}
    module = SequenceLearner(model, 3, lambda groups: torch.optim.Adam(groups, lr=1e-3))
    rates = {group["lr"]: len(group["params"]) for group in module.configure_optimizers().param_groups}
    assert rates[5e-4] == 1


def test_the_dynamics_of_a_layer_have_a_rate_of_their_own_and_no_decay():
    model = Stack(1, 4, partial(S4D, state_size=4), depth=2, dynamics_lr=0.25)
    module = SequenceLearner(model, 3, lambda groups: torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1))
    groups = module.configure_optimizers().param_groups
    of = {id(parameter): group for group in groups for parameter in group["params"]}
    for name, parameter in module.named_parameters():
        dynamic = name.endswith(("log_decay", "frequency", "log_step"))
        assert of[id(parameter)]["lr"] == pytest.approx(0.0025 if dynamic else 0.01), name
        assert of[id(parameter)]["weight_decay"] == (0.0 if dynamic else 0.1), name
