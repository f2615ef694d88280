"""What is installed from a wheel, where neither the checkout nor git is in sight."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from hippo.training import records, sources

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The function (program, *arguments, cwd=…) -> what it prints, of an environment with the wheel.

    What the wheel needs is that of this environment, which `.pth` files lead to; its own `.pth` files, such as that of
    the checkout, are not read there.
    """
    folder = tmp_path_factory.mktemp("wheel")
    source, environment = folder / "source", folder / "environment"
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

    def run(program: str, *arguments: str, cwd: Path = folder) -> str:
        command = [environment / "bin" / program, *arguments]
        done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_a_wheel_carries_the_configurations(installed):
    code = "from hippo.project import shipped; print(shipped())"
    where = Path(installed("python", "-c", code).strip())
    assert where.parts[-3:] == ("site-packages", "hippo", "configs")
    ours = {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml")}
    assert {path.relative_to(where) for path in where.rglob("*.yaml")} == ours


def test_the_program_says_what_it_does_before_anything_heavy_is_imported(installed):
    assert "reproduce" in installed("hippo", "--help")
    code = "import sys, hippo.commands; print(*{'torch', 'hydra', 'pytorch_lightning', 'wandb'} & set(sys.modules))"
    assert installed("python", "-c", code) == "\n"


@pytest.mark.slow
def test_a_project_goes_from_nothing_to_its_report(installed, tmp_path):
    """The template, under a commit of its own."""
    project = Path(shutil.copytree(ROOT / "examples" / "project", tmp_path / "project"))
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "mine"]):
        subprocess.run(["git", *command], cwd=project, check=True)
    said = installed("hippo", "reproduce", "waves", "--rows", "leaky", "--seeds", "0", cwd=project)
    assert "uncommitted" not in said
    assert "(1 of 2)" in (project / "results" / "tables" / "waves.md").read_text()
    assert "A leaky integrator beside a GRU" in (project / "results" / "report.html").read_text()
    (path,) = (project / "results" / "records").rglob("*.json")
    record = records.read(path)
    assert record["metrics"]["best"]["test"]["accuracy"] > 0.7
    assert list(record["code"]) == ["hippo", "leaky", "waves", "configs"]
    assert record["code"]["hippo"]["version"]
    assert record["code"]["hippo"]["commit"] is None
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=project, capture_output=True, text=True, check=True)
    assert {record["code"][name]["commit"] for name in ("leaky", "waves", "configs")} == {head.stdout.strip()}
    assert sources.uncommitted(record) == []
    assert sources.uncommitted(record, published=True) == ["hippo"]
    own = "dataset=waves model.hidden_size=32 optimizer.lr=1e-2 trainer.max_epochs=10 model=leaky seed=0"
    assert record["command"] == f"hippo train {own}"
