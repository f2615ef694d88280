"""What is installed from a wheel, where neither the checkout nor git is in sight."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The function (program, *arguments) -> what it prints, of an environment with the wheel, in an empty folder.

    What the wheel needs is that of this environment, which `.pth` files lead to; its own `.pth` files, such as that of
    the checkout, are not read there.
    """
    folder = tmp_path_factory.mktemp("wheel")
    source, environment, home = folder / "source", folder / "environment", folder / "home"
    home.mkdir()
    source.mkdir()
    for name in ("src", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    uv = [sys.executable, "-m", "uv", "--quiet", "--offline", "--no-config"]
    build = ["build", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", folder, source]
    subprocess.run([*uv, *build], check=True)
    shutil.rmtree(source)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*uv, "pip", "install", "--no-deps", "--python", environment / "bin" / "python", wheel], check=True)
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "HIPPO"))}

    def run(program: str, *arguments: str, **more) -> subprocess.CompletedProcess:
        command = [environment / "bin" / program, *arguments]
        return subprocess.run(command, cwd=home, env=clean, capture_output=True, text=True, check=True, **more)

    return run


def test_a_wheel_carries_the_configurations(installed):
    code = "from hippo.project import shipped; print(shipped())"
    where = Path(installed("python", "-c", code).stdout.strip())
    assert where.parts[-3:] == ("site-packages", "hippo", "configs")
    ours = {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml")}
    assert {path.relative_to(where) for path in where.rglob("*.yaml")} == ours


def test_the_program_says_what_it_does_before_anything_heavy_is_imported(installed):
    assert "reproduce" in installed("hippo", "--help").stdout
    code = "import sys, hippo.commands; print(*{'torch', 'hydra', 'pytorch_lightning', 'wandb'} & set(sys.modules))"
    assert installed("python", "-c", code).stdout == "\n"
