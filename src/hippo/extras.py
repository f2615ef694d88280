"""Packages that only a part of this one needs."""

from importlib.util import find_spec

from hippo.errors import UserError

_EXTRAS = {
    "train": (
        "filelock",
        "hydra",
        "jinja2",
        "matplotlib",
        "omegaconf",
        "pydantic",
        "pytorch_lightning",
        "sklearn",
        "torchmetrics",
        "torchvision",
        "tqdm",
        "wandb",
    ),
    "search": ("optuna",),
    "slurm": ("hydra_plugins.hydra_submitit_launcher",),
}


class Missing(UserError, ImportError):
    """An extra is not installed; the message says how to install it."""


def require(extra: str, what: str) -> None:
    """Raise Missing unless an extra is installed.

    Args:
        extra: As in `pip install 'hippo-memory[extra]'`.
        what: What needs it, for the message.
    """
    if lacking := [name for name in _EXTRAS[extra] if find_spec(name) is None]:
        raise Missing(f"{what} needs {', '.join(lacking)}: pip install 'hippo-memory[{extra}]'")
