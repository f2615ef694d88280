"""What comes from a file that somebody else wrote names no class but those that are offered, and executes nothing."""

import copy
from pathlib import Path

import pytest
import torch

from hippo.data import CharacterTrajectories, Digits
from hippo.models import GRU, HiPPORNN
from hippo.training import foreign, records
from hippo.training.config import ConfigError

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
RECORDS = ROOT / "results" / "records"


def committed(name: str) -> dict:
    return records.read(next((RECORDS / name).glob("*.json")))


class Own(GRU):
    """A network of somebody's own."""


def test_records_of_the_package_are_built_with_changes_where_they_are_asked_for():
    record = committed("trajectories_legs")
    dataset = foreign.build(record, "dataset", CONFIGS, shifts={}, curve={"rate": [0.5]})
    model = foreign.build(record, "model", CONFIGS, input_size=3)
    assert isinstance(dataset, CharacterTrajectories)
    assert list(dataset.samplings()) == [""]
    assert isinstance(model, HiPPORNN)
    assert model.hidden_size == record["config"]["model"]["hidden_size"]
    assert isinstance(foreign.build(committed("digits_lagt"), "dataset", CONFIGS), Digits)
    assert foreign.build(committed("digits_lagt"), "model", CONFIGS, input_size=1).hidden_size == 128  # with a measure


@pytest.fixture
def pickled(tmp_path, monkeypatch):
    """A file that creates another where it is unpickled, and what it would create."""
    monkeypatch.chdir(tmp_path)

    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    torch.save(Bomb(), "x.pt")
    return tmp_path / "executed"


HOSTILE = {"_target_": "torch.load", "f": "x.pt", "weights_only": False}


@pytest.mark.parametrize(
    "place",
    ["model", "dataset", "optimizer", "dataset.sampling", "model.measure", "trainer.own", "own"],
)
@pytest.mark.parametrize("key", ["model", "dataset"])
def test_a_class_from_elsewhere_is_executed_from_no_place_of_a_record(pickled, place, key):
    record = committed("trajectories_legs")
    node = record["config"]
    *above, last = place.split(".")
    for name in above:
        node = node[name]
    node[last] = HOSTILE | {"hidden_size": 1}
    with pytest.raises(ConfigError, match=r"torch\.load is nothing that the package offers.* a file of your own below"):
        foreign.build(record, key, CONFIGS, **({"input_size": 3} if key == "model" else {}))
    assert not pickled.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"_target_": "hippo.models.base.torch.load"},
        {"_target_": "hippo.data.mnist.torch.load"},
        {"_target_": "hippo.training.run.run"},
        {"_target_": "hippo.files.write_atomically"},
        {"_target_": "tests.training.test_foreign.Own"},
        {"_target_": "torch.optim.lr_scheduler.LambdaLR"},
        {"_target_": "torch.optim.Adam.step"},
        {"_target_": ["torch.load"]},
        {"_args_": ["x.pt"]},
        {"_recursive_": False},
        {"measure": "${oc.env:HOME}"},
        {"measure": "${oc.decode:'{_target_: torch.load}'}"},
        {"measure": [[{"_target_": "os.system", "command": "true"}]]},
    ],
)
def test_nor_are_its_disguises(change):
    record = committed("trajectories_legs")
    record["config"]["model"] |= change
    with pytest.raises(ConfigError, match="elsewhere"):
        foreign.build(record, "model", CONFIGS, input_size=3)


def test_what_the_user_s_own_configuration_names_is_admitted_but_a_table_is_not_that(tmp_path):
    record = committed("digits_gru")
    own = "tests.training.test_foreign.Own"
    record["config"]["model"] = {"_target_": own, "hidden_size": 4}
    for folder in ("table", "model"):
        (tmp_path / folder / folder).mkdir(parents=True)
        (tmp_path / folder / folder / "own.yaml").write_text(f"deep: [{{_target_: {own}}}]\n")
    with pytest.raises(ConfigError, match="nothing that the package offers"):
        foreign.build(copy.deepcopy(record), "model", tmp_path / "table", input_size=1)
    assert isinstance(foreign.build(record, "model", tmp_path / "model", input_size=1), Own)


def test_all_that_the_configurations_name_is_offered_by_itself():
    names = foreign._own(CONFIGS)
    assert {"hippo.models.HiPPORNN", "torch.optim.Adam"} <= names
    hydras = {name for name in names if name.startswith("hydra_plugins.")} | {"optuna.samplers.TPESampler"}
    assert {name for name in names if not foreign.offered(name)} == hydras


def test_a_setting_that_does_not_fit_is_one_error():
    record = committed("digits_gru")
    record["config"]["model"]["hiden_size"] = 3
    with pytest.raises(ConfigError, match="did you mean hidden_size"):
        foreign.build(record, "model", CONFIGS, input_size=1)


def test_a_layer_that_its_network_completes_is_built_from_a_table_and_a_record():
    node = {"_target_": "hippo.mixers.S4D", "_partial_": True, "state_size": 4}
    foreign.admit({"model": {"layer": node}}, CONFIGS)
    for partial in (False, "true", 1):
        with pytest.raises(ConfigError, match=r"model\.layer\._partial_: a file from elsewhere sets no _partial_"):
            foreign.admit({"model": {"layer": node | {"_partial_": partial}}}, CONFIGS)
