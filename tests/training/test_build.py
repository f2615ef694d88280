"""Every model that a configuration names goes to other processes and other programs."""

import copy
import inspect
import pickle

import pytest
import torch
from hydra.utils import get_class, instantiate

from hippo import HiPPO
from hippo.measures import LagT, LegS, LegT

from .conftest import CONFIGS

every_model = pytest.mark.parametrize("name", sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml")))
BY_GAPS = {"s4", "s4d", "s5", "lru"}  # whose steps depend on the values of timestamps


@pytest.fixture
def small(compose):
    """The function (name) -> a small model of a configuration."""

    def small(name: str) -> torch.nn.Module:
        node = compose(f"model={name}", "dataset=digits", "model.hidden_size=8").model
        torch.manual_seed(0)
        depth = {"depth": 1} if "depth" in inspect.signature(get_class(node._target_)).parameters else {}
        return instantiate(node, input_size=1, **depth)

    return small


def a_batch(seed: int, timed: bool = True) -> dict[str, torch.Tensor]:
    """Sequences of their own lengths, with gaps."""
    torch.manual_seed(seed)
    batch = {"x": torch.randn(2, 3, 1), "mask": torch.rand(2, 3) < 0.7, "lengths": torch.tensor([3, 2 - seed])}
    batch["mask"][:, 0] = True
    return batch | ({"timestamps": torch.cumsum(torch.rand(2, 3) + 0.1, 1)} if timed else {})


@every_model
def test_a_model_is_copied_and_pickled_in_the_midst_of_training(small, name):
    model, batch = small(name), a_batch(0)
    if any(parameter.requires_grad for parameter in model.parameters()):  # a memory alone learns nothing
        model(**batch).sum().backward()
    features = model.eval()(**batch)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert torch.equal(other(**batch), features)
        assert not {id(mine) for mine in model.parameters()} & {id(its) for its in other.parameters()}


def refused(model: torch.nn.Module) -> str:
    """What a model says that cannot be exported with timestamps; nothing where it can."""
    try:
        torch.export.export(model, (), a_batch(0))
    except ValueError as error:
        return str(error)
    return ""


@every_model
def test_a_model_is_exported_or_says_why_not(small, name):
    """What is exported has the features of the model for other values, and exporting leaves the model as it was."""
    model = small(name).eval()
    refusal = refused(model)
    if "torchdiffeq" in refusal:
        return
    timed = "export it without them" not in refusal
    assert timed == (refusal == "")
    assert not (timed and name in BY_GAPS)
    exported, batch = torch.export.export(model, (), a_batch(0, timed)).module(), a_batch(1, timed)
    with torch.no_grad():
        torch.testing.assert_close(exported(**batch), model(**batch), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("discretization", ["bilinear", "zoh"])
@pytest.mark.parametrize("measure", [LegS(), LegT(2.0), LagT(1.0)], ids=["LegS", "LegT", "LagT"])
def test_a_memory_is_exported_pickled_and_copied(measure, discretization):
    memory, signal = HiPPO(measure, 6, discretization), torch.randn(2, 2, 5)
    times = torch.rand(2, 2, 5).cumsum(-1)
    for timed in ({}, {"timestamps": times[0]}):
        exported = torch.export.export(memory, (signal[0],), timed).module()
        timed = {"timestamps": times[1]} if timed else {}
        expected = memory(signal[1], **timed)[0]
        torch.testing.assert_close(exported(signal[1], **timed)[0], expected, rtol=1e-5, atol=1e-6)
        for other in (pickle.loads(pickle.dumps(memory)), copy.deepcopy(memory)):
            assert torch.equal(other(signal[1], **timed)[0], expected)
