"""What the tests of the library share."""

import os
from pathlib import Path

import pytest
import torch

# The tests' tensors are too small for threads to help, and threads of several processes on few cores get in each
# other's way so badly that a test of 0.4 s takes 30 s. What tests start has one thread as well, if it does not choose.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with slow tests, and in the middle, where the second of two workers begins: none is left to the end."""
    slow = [item for item in items if item.get_closest_marker("slow")]
    others = [item for item in items if item not in slow]
    half = len(others) // 2
    items[:] = [*slow[::2], *others[:half], *slow[1::2], *others[half:]]


@pytest.fixture
def float64():
    """Everything in double precision, from a fixed seed: for tests of mathematics, not of rounding."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def relative_error():
    """The function (actual, expected) -> ‖actual − expected‖ / ‖expected‖, computed in double precision."""

    def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
        assert actual.shape == expected.shape
        actual, expected = actual.detach().to(torch.float64), expected.detach().to(torch.float64)
        return (torch.linalg.vector_norm(actual - expected) / torch.linalg.vector_norm(expected)).item()

    return relative_error


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data that HIPPO_DATA names, or data/; tests that need it are skipped where it is empty."""
    root = Path(os.environ.get("HIPPO_DATA", "data"))
    if not (root / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").is_file():
        pytest.skip(f"MNIST is not in {root}; set HIPPO_DATA to the folder that holds MNIST/raw")
    return root


@pytest.fixture(scope="session")
def trajectories_root(data_root) -> Path:
    """The folder of real data, if it holds Character Trajectories; tests that need them are skipped elsewhere."""
    if not (data_root / "CharacterTrajectories" / "CharacterTrajectories_TRAIN.ts").is_file():
        pytest.skip(f"{data_root} holds no CharacterTrajectories; set HIPPO_DATA to the folder that holds them")
    return data_root
