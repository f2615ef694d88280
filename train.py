"""Train a model on a dataset: `python train.py experiment=pmnist_legs`; `python train.py --help` shows the choices."""

import os
import sys

import hydra
from omegaconf import DictConfig

os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to `main`, which explains those it can


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def train(config: DictConfig) -> float | None:
    from hippo.training.run import run

    record = run(config)
    return None if record is None else record["metrics"]["best"]["validation"]["accuracy"]


def main() -> None:
    try:
        train()
    except Exception as error:
        from hippo.training.errors import explain

        explanation = explain(error)
        if explanation is None:
            raise
        sys.exit(f"error: {explanation}")


if __name__ == "__main__":
    main()
