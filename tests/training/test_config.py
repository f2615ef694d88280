"""A configuration is right, or one sentence says what is wrong with it before any work is done."""

import dataclasses
import inspect
import shutil
from pathlib import Path

import hydra
import pytest
import torch
import wandb
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from hippo.data import DataError
from hippo.errors import UserError
from hippo.training.config import ConfigError, Paths, Settings, check
from hippo.training.errors import explain
from hippo.training.learner import Divergence
from hippo.training.records import RecordError
from hippo.training.run import run

CONFIGS = Path(__file__).parents[2] / "configs"


def explanation(compose, *overrides: str) -> str:
    try:
        check(compose(*overrides))
    except Exception as error:
        return explain(error)
    raise AssertionError(f"{overrides} was accepted")


@pytest.mark.parametrize("experiment", sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml")))
def test_every_experiment_is_valid_and_carries_its_own_name(compose, experiment):
    name = check(compose(f"experiment={experiment}"))["name"]
    assert name == experiment or name.startswith(f"{experiment}_")


@pytest.mark.parametrize(
    "option",
    sorted(
        f"{path.parent.name}={path.stem}"
        for path in CONFIGS.glob("*/*.yaml")
        if path.parent.name not in ("dataset_model", "experiment", "hydra", "table")
    ),
)
def test_every_option_of_every_group_is_valid(compose, option):
    check(compose(option))


@pytest.mark.parametrize("pair", sorted(path.stem for path in (CONFIGS / "dataset_model").glob("*.yaml")))
def test_what_a_model_needs_on_a_dataset_comes_with_the_two_and_gives_way_to_the_command_line(compose, pair):
    datasets = [path.stem for path in (CONFIGS / "dataset").glob("*.yaml")]
    dataset = max((name for name in datasets if pair.startswith(f"{name}_")), key=len)
    chosen = f"dataset={dataset}", f"model={pair.removeprefix(f'{dataset}_')}"
    with_it, own = check(compose(*chosen)), check(compose(*chosen, "optimizer.lr=0.125"))
    lines = OmegaConf.to_container(OmegaConf.load(CONFIGS / "dataset_model" / f"{pair}.yaml"))
    for key, settings in lines.items():
        assert settings.items() <= with_it[key].items()
    assert own["optimizer"]["lr"] == 0.125


def test_an_lmu_on_permuted_mnist_has_the_settings_that_train(compose):
    for experiment, hidden in (("pmnist", 512), ("pmnist_short", 256)):
        values = check(compose(f"experiment={experiment}", "model=lmu"))
        assert values["name"] == f"{experiment}_lmu"
        assert (values["optimizer"]["lr"], values["trainer"]["gradient_clip_val"]) == (3e-4, 1)
        assert (values["model"]["initialization"], values["model"]["hidden_size"]) == ("psmnist", hidden)
    assert check(compose("experiment=pmnist", "model=gru"))["optimizer"]["lr"] == 1e-3
    assert check(compose("experiment=digits", "model=lmu"))["model"]["initialization"] == "general"


@pytest.mark.parametrize("group", ["dataset", "model", "scheduler"])
def test_configurations_repeat_no_default_wrongly(compose, group):
    """A group's file lists what can be changed; it must list all of it."""
    for path in (CONFIGS / group).glob("*.yaml"):
        if not (node := check(compose(f"{group}={path.stem}"))[group]):
            continue  # none
        parameters = set(inspect.signature(get_object(node["_target_"])).parameters)
        assert parameters - {"input_size", "optimizer", "total_steps"} == set(node) - {"_target_"}, path.name


def test_the_papers_experiment_is_the_papers(compose):
    """Section 1 of the protocol: hidden = order = 512, 50 epochs, batch 100, Adam 1e-3 and nothing else."""
    values = check(compose("experiment=pmnist_legs"))
    assert values["model"]["hidden_size"] == 512
    assert values["model"]["memory_order"] is None
    assert values["model"]["measure"] == "legs"
    assert values["model"]["discretization"] == "bilinear"
    assert values["dataset"] | {"permutation_seed": 0, "split_seed": 0, "timestamps": False} == {
        "_target_": "hippo.data.MNIST",
        "batch_size": 100,
        "permutation": "bit_reversal",
        "permutation_seed": 0,
        "split_seed": 0,
        "timestamps": False,
    }
    assert values["trainer"]["max_epochs"] == 50
    assert values["trainer"]["gradient_clip_val"] is None
    assert values["optimizer"] == {"_target_": "torch.optim.Adam", "lr": 1e-3}
    model = instantiate(values["model"], input_size=1)
    head = torch.nn.Linear(model.hidden_size, 10)
    assert sum(p.numel() for module in (model, head) for p in module.parameters()) == 531_980


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.hiden_size=3", ["model.hiden_size", "did you mean hidden_size?"]),
        ("+model.hiden_size=3", ["model.hiden_size", "did you mean hidden_size?"]),
        ("optimizer.weight_decay=0.1", ["it is not listed, so add it with a plus: +optimizer.weight_decay=0.1"]),
        ("optimizer.weight_decy=0.1", ["there is no such key", "did you mean +optimizer.weight_decay?"]),
        ("trainer.limit_train_batches=3", ["add it with a plus: +trainer.limit_train_batches=3"]),
        ("trainer.max_time=9", ["trainer.max_time: there is no such key, and it cannot be added: what would be rec"]),
        ("+optimizer.weight_decy=0.1", ["Adam has no weight_decy", "did you mean weight_decay?"]),
        ("+trainer.max_epoch=3", ["Trainer has no max_epoch", "did you mean max_epochs?"]),
        ("sede=1", ["sede: there is no such key", "did you mean seed?"]),
        ("modle=legs", ["did you mean model?"]),
        ("scheduler=one_cycel", ["scheduler=one_cycel does not exist", "did you mean one_cycle?"]),
        (
            "+scheduler.warmpu=0.1",
            ["scheduler has warmpu, but no _target_ that takes it", "choose one first: scheduler="],
        ),
        (["scheduler=cosine", "+scheduler.warmpu=0.1"], ["scheduler.warmpu: cosine has no warmpu", "mean warmup?"]),
        (["scheduler=one_cycle", "scheduler.pct_start=many"], ["scheduler.pct_start='many'", "number"]),
        (["scheduler=cosine", "+scheduler.total_steps=9"], ["scheduler.total_steps: cosine has no total_steps"]),
        (
            "+scheduler._target_=torch.optim.lr_scheduler.StepLR",
            ["scheduler._target_: StepLR takes no total_steps, with which it is called"],
        ),
        ("experiment=pmnist_lgs", ["did you mean pmnist_legs?", "choose from", "digits"]),
        ("model=grru", ["model=grru does not exist", "did you mean gru?"]),
        ("+paths.date=x", ["paths.date", "did you mean data?"]),
        ("trainer.max_epochs=many", ["trainer.max_epochs='many'", "integer"]),
        ("model.hidden_size=2.5", ["model.hidden_size=2.5", "integer"]),
        ("optimizer.lr=fast", ["optimizer.lr='fast'", "number"]),
        ("dataset.permutation=reversed", ["dataset.permutation='reversed'", "'bit_reversal'"]),
        ("seed=x", ["seed='x'", "integer"]),
        ("seed=-1", ["seed must lie between 0"]),
        ("threads=0", ["threads must be null or lie between 1 and"]),
        ("force=perhaps", ["force='perhaps'", "boolean"]),
        ("logger.mode=onlin", ["logger.mode='onlin'", "'offline'"]),
        ("model._target_=hippo.models.HiPPORN", ["model._target_", "cannot be imported"]),
        ("+model.input_size=2", ["model.input_size"]),
        ("trainer._target_=builtins.dict", ["trainer._target_: builtins.dict does not say which arguments it takes"]),
        ("optimizer._target_=torch.optim", ["optimizer._target_: torch.optim does not say which arguments it takes"]),
        ("+optimizer._args_=[1]", ["optimizer._args_ cannot be set"]),
        ("+model._partial_=true", ["model._partial_ cannot be set"]),
        (["model=s4d", "+model.layer._recursive_=false"], ["model.layer._recursive_ cannot be set"]),
        ("+dataset._other_=1", ["dataset._other_: Digits has no _other_"]),
        ("paths.data=", ["must name folders"]),
        ("name=a/b", ["name='a/b'", "letters"]),
        ("+trainer.fast_dev_run=true", ["trainer.fast_dev_run cannot be set", "limit_train_batches=1"]),
        ("trainer.max_epochs=0", ["trainer.max_epochs must be at least 1"]),
        ("+trainer.check_val_every_n_epoch=2", ["every epoch has to end with a validation"]),
        ("+trainer.limit_train_batches=0", ["trainer.limit_train_batches must be a number of batches, at least 1"]),
        (["model=lstm", "model.forget_bias=nan"], ["model.forget_bias=nan is no number"]),
        ("window=inf", ["window=inf is no number"]),
        ("threads=100000", ["threads must be null or lie between 1 and"]),
        ("logger=null", ["logger", "null", "logger=none"]),
        ("model=null", ["null", "none"]),
        ("~logger", ["logger is missing"]),
        ("paths.data=null", ["paths.data=None", "string"]),
        ("name=${nothing}", ["name", "nothing"]),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_nearest_right_thing(compose, override, words):
    sentence = explanation(compose, *([override] if isinstance(override, str) else override))
    assert "\n" not in sentence
    for word in words:
        assert word in sentence


def test_what_may_be_added_is_said_to_need_a_plus(compose):
    sentence = explanation(compose, "dataset=character_trajectories", "dataset.curve={rate: [1, 2]}")
    assert "add it with a plus: +dataset.curve.rate=…" in sentence
    values = check(compose("dataset=character_trajectories", "+dataset.curve.rate=[1, 2]"))
    assert values["dataset"]["curve"] == {"rate": [1, 2]}


@pytest.mark.parametrize(
    "error", [MemoryError("out"), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")]
)
def test_too_little_memory_is_said_with_what_to_do(error):
    assert "Make batches, sequences or hidden_size smaller" in explain(error)


def test_arguments_that_no_file_lists_may_be_added(compose):
    values = check(compose("+optimizer.betas=[0.8,0.9]", "+trainer.limit_train_batches=3"))
    assert values["optimizer"]["betas"] == [0.8, 0.9]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.discretization=trapezoid", "model: unknown discretization 'trapezoid'; choose from"),
        ("model.hidden_size=0", "model: hidden_size must be at least 1"),
        ("model.measure=legt", "model: unknown measure 'legt'"),
        ("optimizer.lr=-1", "optimizer: Invalid learning rate: -1"),
        ("dataset.split_seed=-1", "dataset: The 'random_state' parameter"),
        ("+trainer.limit_test_batches=0.1", "trainer.limit_test_batches=0.1 of 6 batches is not one"),
        ("+trainer.limit_train_batches=0.03", "trainer.limit_train_batches=0.03 of 26 batches is not one"),
        ("optimizer._target_=torch.optim.SparseAdam", "optimizer: no step can be taken with it: SparseAdam does not"),
        ("+optimizer.capturable=true", "optimizer: no step can be taken with it: If capturable=True"),
        ("+optimizer={foreach: true, fused: true}", "optimizer: no step can be taken with it: `fused` and `foreach`"),
        ("optimizer._target_=argparse.Namespace", "optimizer: _target_ makes a Namespace and no Optimizer"),
        ("dataset._target_=argparse.Namespace", "dataset: _target_ makes a Namespace and no SequenceDataset"),
        ("model._target_=argparse.Namespace", "model: _target_ makes a Namespace and no SequenceModel"),
        ("trainer._target_=argparse.Namespace", "trainer: _target_ makes a Namespace and no Trainer"),
        ("+scheduler={_target_: argparse.Namespace}", "scheduler: _target_ makes a Namespace and no LRScheduler"),
        ("+logger={_target_: argparse.Namespace}", "logger: _target_ makes a Namespace and no Logger"),
    ],
)
def test_values_that_only_a_constructor_can_refuse_are_explained(compose, override, words):
    with pytest.raises(ConfigError) as error:
        run(compose("experiment=digits", "trainer=cpu", "logger=none", override))
    assert explain(error.value).startswith(words)


def test_errors_that_are_bugs_keep_their_traceback():
    assert explain(KeyError("x")) is None
    assert explain(ZeroDivisionError()) is None


def test_the_environment_names_the_data_root(compose, monkeypatch):
    monkeypatch.setenv("HIPPO_DATA", "elsewhere")
    assert check(compose())["paths"]["data"] == "elsewhere"
    monkeypatch.delenv("HIPPO_DATA")
    assert check(compose())["paths"]["data"] == "data"


def test_the_top_level_is_what_the_settings_say(compose):
    values = check(compose())
    assert set(values) == {field.name for field in dataclasses.fields(Settings)}
    assert set(values["paths"]) == {field.name for field in dataclasses.fields(Paths)}


def test_the_configuration_fits_one_screen():
    assert len((CONFIGS / "train.yaml").read_text().partition("\nhydra:")[0].splitlines()) <= 30


@pytest.mark.parametrize("kind", [ConfigError, DataError, Divergence, RecordError, MisconfigurationException])
def test_an_error_is_what_it_says(kind):
    assert explain(kind("this and that")) == "this and that"


def test_an_error_of_a_kind_that_nobody_listed_is_told_where_its_root_is_user_error():
    class OutOfTune(UserError, LookupError):
        pass

    assert explain(OutOfTune("tune it")) == "tune it"
    assert explain(LookupError("tune it")) is None


def test_an_error_of_wandb_is_told_with_the_ways_around_it():
    assert explain(wandb.errors.CommError("no network")).startswith("W&B: no network. Run offline with logger.mode=off")


def test_what_the_code_completes_may_lack_arguments_and_is_checked_all_the_same(compose):
    check(compose("model=s4d"))  # its layer's `features` come from the network
    with pytest.raises(ConfigError, match=r"model\.layer\.state_sise: S4D has no state_sise; did you mean state_size"):
        check(compose("model=s4d", "+model.layer.state_sise=3"))
    with pytest.raises(ConfigError, match=r"model\.layer\.features is missing"):
        check(compose("model=s4d", "model.layer._partial_=false"))


@pytest.mark.parametrize("name", ["..", ".", ".x", "a/b", "/a", "-a", "'a b'", "'a\\n'", "x" * 101])
def test_a_name_is_that_of_one_folder(compose, name):
    assert "names a folder" in explanation(compose, f"name={name}")


def test_a_shift_names_a_checkpoint_and_a_seed_is_a_number(compose):
    shifted = ["experiment=trajectories", "+dataset.shifts.a={rate:0.5}"]
    assert check(compose(*shifted))["dataset"]["shifts"]["a"] == {"rate": 0.5}
    said = explanation(compose, "experiment=trajectories", "+dataset.shifts={../../x:{rate:0.5}}")
    assert said.startswith("dataset.shifts='../../x' names a folder")
    assert "seed" in explanation(compose, "seed='0/../../x'")
    assert "seed" in explanation(compose, "seed=-1")


@pytest.mark.parametrize("key", ["name", "logger.group", "model.hidden_size", "+dataset.own", "window", "optimizer.lr"])
def test_environment_variables_are_resolved_for_paths_only(compose, monkeypatch, key):
    monkeypatch.setenv("TOKEN", "7")
    for value in ("${oc.env:TOKEN}", "a${oc.env:TOKEN}", "${oc.decode:${oc.env:TOKEN}}", "${ oc.env:TOKEN,x }"):
        said = explanation(compose, f"{key}='{value}'")
        assert said.startswith(f"{key.removeprefix('+')}: ")
        assert "in paths only" in said
    assert check(compose("paths.data=${oc.env:TOKEN}"))["paths"]["data"] == "7"


@pytest.mark.parametrize(
    "overrides",
    [
        ("paths.outputs='${oc.env:TOKEN}'", "name='${paths.outputs}'"),
        ("paths.outputs='${oc.env:TOKEN}'", "name='${oc.select:paths.outputs}'"),
        ("hydra.job.name='${oc.env:TOKEN}'", "name='${hydra:job.name}'"),
        ("+hydra.job.env_set.X='${oc.env:TOKEN}'", "name='${hydra:job.env_set.X}'"),
    ],
)
def test_nor_are_they_in_a_roundabout_way(monkeypatch, overrides):
    monkeypatch.setenv("TOKEN", "s3cret")
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        composed = hydra.compose("train", list(overrides), return_hydra_config=True)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", composed)
    config = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    with pytest.raises(ConfigError, match=r"name: \$\{oc\.env:TOKEN\} is not resolved.* in paths only") as caught:
        check(config)
    assert "s3cret" not in str(caught.value)
    assert OmegaConf.create({"a": "${oc.env:TOKEN}"}).a == "s3cret"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"model:\n  a: b: c\n", "own.yaml, line 2: mapping values are not allowed here"),
        (b"model:\n\ta: 1\n", "own.yaml, line 2: found character"),
        (b"model: {a: 1\n", "own.yaml, line 2: expected"),
        (b"a: 1\nname: \xff\n", "own.yaml, line 2: it is not UTF-8 text"),
        (b"name: \x01\n", "own.yaml: character 6 is 1"),
        (b"a: " + b"[" * 3000, "own.yaml: it is nested too deep"),
        (b"a: 1\na: 2\n", "own.yaml, line 2: found duplicate key a"),
        (b"a: !!python/object:os.system {}\n", "own.yaml, line 1: could not determine a constructor"),
        (b"defaults: 7\n", "defaults must be a list"),
        (b"# @package _global_\nname: ${\n", "name: no viable alternative"),
    ],
)
def test_a_damaged_experiment_is_one_sentence_with_file_and_line(tmp_path, content, message):
    configs = shutil.copytree(CONFIGS, tmp_path / "configs")
    (configs / "experiment" / "own.yaml").write_bytes(content)
    with hydra.initialize_config_dir(str(configs), version_base="1.3"), pytest.raises(Exception) as error:  # noqa: PT011
        hydra.compose("train", ["experiment=own"])
    said = explain(error.value)
    assert message in said
    assert "\n" not in said


def test_a_recursion_without_a_file_is_a_bug():
    def forever() -> None:
        forever()

    with pytest.raises(RecursionError) as error:
        forever()
    assert explain(error.value) is None
