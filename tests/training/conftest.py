"""Composing configurations and running them inside the test process."""

from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from hippo.training.learner import SequenceLearner
from hippo.training.run import run

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = ["experiment=digits", "model.hidden_size=8", "trainer.max_epochs=3", "threads=1", "trainer=cpu"]


@pytest.fixture
def compose(tmp_path):
    """The function (*overrides) -> the configuration that train.py would get, with its folders in a temporary one."""

    def compose(*overrides: str):
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            overrides = [f"paths.outputs={tmp_path / 'outputs'}", *overrides]
            config = hydra.compose("train", overrides, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        OmegaConf.set_struct(config, False)
        del config["hydra"]
        return config

    yield compose
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None


@pytest.fixture
def tiny(compose):
    """The function (*overrides) -> the configuration of a run of seconds on the real digits."""
    return lambda *overrides: compose(*TINY, "logger=none", *overrides)


@pytest.fixture(scope="session")
def outputs(tmp_path_factory) -> Path:
    """The folder of runs that several tests use."""
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture
def trained(outputs, tiny) -> Path:
    """The folder of a tiny run on the digits, trained once."""
    run(tiny(f"paths.outputs={outputs}", "model=gru", "model.hidden_size=16", "optimizer.lr=0.03"))
    return next(outputs.glob("digits_gru/*"))


@pytest.fixture
def cut(monkeypatch):
    """The function (configuration, epochs): run it until the power is cut after so many epochs."""

    def cut(config, epochs: int = 2) -> None:
        step = SequenceLearner.training_step

        def interrupted(self, batch, batch_idx):
            if self.current_epoch == epochs:
                raise KeyError("power cut")
            return step(self, batch, batch_idx)

        with monkeypatch.context() as patch:
            patch.setattr(SequenceLearner, "training_step", interrupted)
            with pytest.raises(KeyError, match="power cut"):
                run(config)

    return cut
