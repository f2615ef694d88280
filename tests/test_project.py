"""A project of one's own: its configurations before those of the package, and its modules."""

import os
import sys
from pathlib import Path

import hydra
import pytest

from hippo import commands, project
from hippo.tables.table import every_table, find_table, read_table
from hippo.training import foreign
from hippo.training.config import ConfigError

TEMPLATE = Path(__file__).parents[1] / "examples" / "project"


@pytest.fixture(autouse=True)
def untouched(monkeypatch):
    """What `enter` sets is taken back."""
    monkeypatch.setenv("HIPPO_CONFIGS", "")
    monkeypatch.setenv("PYTHONPATH", "before")
    monkeypatch.setattr(sys, "path", [*sys.path])


def composed(*overrides: str):
    with hydra.initialize_config_dir(str(project.configs()), version_base="1.3"):
        return hydra.compose("train", list(overrides))


def test_the_current_folder_is_a_project_where_it_has_configurations(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    project.enter()
    assert project.configs() == project.shipped()
    monkeypatch.chdir(project.shipped().parent)
    project.enter()
    assert (project.configs(), os.environ["PYTHONPATH"]) == (project.shipped(), "before")
    monkeypatch.chdir(TEMPLATE)
    project.enter()
    assert project.configs() == TEMPLATE / "configs"
    assert sys.path[0] == str(TEMPLATE)
    assert os.environ["PYTHONPATH"].split(os.pathsep) == [str(TEMPLATE), "before"]
    assert project.command(["model=leaky"]) == "hippo train model=leaky"
    monkeypatch.chdir(tmp_path)
    project.enter()  # as a process does that is started from there
    assert project.configs() == TEMPLATE / "configs"


def test_a_command_from_elsewhere_names_the_project(monkeypatch):
    monkeypatch.chdir(TEMPLATE.parent)
    project.enter("project/configs")
    assert project.command(["x=[1, 2]"]) == "hippo train --config-dir=project/configs 'x=[1, 2]'"
    with pytest.raises(project.ProjectError, match="--config-dir=nowhere is no folder"):
        project.enter("nowhere")


def test_own_configurations_come_first_and_the_package_s_are_found_behind_them(tmp_path):
    (tmp_path / "configs" / "model").mkdir(parents=True)
    (tmp_path / "configs" / "model" / "gru.yaml").write_text("_target_: own.GRU\nhidden_size: 7\n")
    project.enter(str(tmp_path / "configs"))
    assert composed("model=gru").model == {"_target_": "own.GRU", "hidden_size": 7}
    assert composed("model=legs").model._target_ == "hippo.models.HiPPORNN"
    assert composed("experiment=digits").dataset._target_ == "hippo.data.Digits"


def test_a_project_has_its_own_tables_and_may_name_those_of_the_package():
    ours = {path.stem for path in (project.shipped() / "table").glob("*.yaml")}
    assert find_table("pmnist") == project.shipped() / "table" / "pmnist.yaml"
    project.enter(str(TEMPLATE / "configs"))
    assert find_table("pmnist") == project.shipped() / "table" / "pmnist.yaml"
    assert find_table("waves") == TEMPLATE / "configs" / "table" / "waves.yaml"
    ((name, (table, filled)),) = every_table(project.configs()).items()
    assert name == "waves"
    assert name not in ours
    assert [run.name for cell in filled for run in cell.runs] == [
        "waves_leaky",
        "waves_leaky",
        "waves_gru",
        "waves_gru",
    ]
    assert filled[0].runs[1].command.endswith("model=leaky seed=1")
    assert table == read_table(find_table("waves"))


def test_what_comes_from_elsewhere_may_name_the_classes_of_the_project_that_was_entered():
    own = {"model": {"_target_": "leaky.Leaky"}, "launcher": {"_target_": "hydra_plugins.hippo.Sweeper"}}
    with pytest.raises(ConfigError, match=r"leaky\.Leaky is nothing that the package offers"):
        foreign.admit(own, project.configs())
    project.enter(str(TEMPLATE / "configs"))
    foreign.admit(own, project.configs())


@pytest.mark.parametrize("words", [["train", "-cd", "nowhere"], ["report", "--config-dir=nowhere"]])
def test_a_project_that_is_not_there_is_one_sentence(words):
    with pytest.raises(SystemExit, match="error: --config-dir=nowhere is no folder"):
        commands.main(words)
