"""What --help shows."""

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from hippo.training.help import groups

from .conftest import CONFIGS


@pytest.mark.parametrize("columns", ["80", "200", "1"])
def test_help_explains_the_keys_in_lines_that_fit(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("train", ["trainer=cpu", "model=lmu"], RunMode.RUN)
        lines = config.hydra.help.template.splitlines()
        assert all(f"{group}: " in groups() for group in ("dataset", "model", "trainer"))
    text = "\n".join(lines)
    assert "hidden_size: 512" in text
    assert "# coefficients of the memory" in text  # of the model's file
    assert "# stop after so many epochs" in text  # of train.yaml
    assert "name: $${hydra:" in text  # Hydra makes one $ of two
    shown = lines[next(number for number, line in enumerate(lines) if line.startswith("seed: ")) :]
    limit = {"80": 80, "200": 120, "1": 60}[columns]
    assert all(len(line) <= limit for line in shown if "# " in line and "+callbacks" not in line)
