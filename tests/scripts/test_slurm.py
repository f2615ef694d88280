"""A table through a real SLURM: a cluster of one node, this machine, started for the test."""

import csv
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import slurm_cluster
import yaml

TABLE = {
    "title": "One small network",
    "source": "nowhere",
    "seeds": [0, 1, 2],
    "columns": {"plain": {"label": "digits", "overrides": ["experiment=digits", "model.hidden_size=4"]}},
    "rows": {"gru": {"label": "GRU", "overrides": ["model=gru", "trainer.max_epochs=20"]}},
}
SMALL = [f"hydra.launcher.{option}" for option in ("gpus_per_node=null", "cpus_per_task=1", "mem_gb=1")]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    pytest.importorskip("submitit", reason="hydra-submitit-launcher is not installed")
    if reason := slurm_cluster.missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("slurm")
    for parent in (folder, *folder.parents):  # munge wants to reach its socket
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o755)
    yield slurm_cluster.start(folder)
    slurm_cluster.stop(folder)


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "results" / "tables" / "small.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def wait_for(condition, what: str, seconds: float = 400) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"no {what} within {seconds} s"
        time.sleep(0.2)


@pytest.mark.slow
def test_a_table_through_slurm_with_jobs_preempted_and_killed_is_that_of_undisturbed_runs(checkout, python, cluster):
    (checkout / "small.yaml").write_text(yaml.safe_dump(TABLE))

    def reproduce(where: str, *more: str) -> subprocess.Popen:
        folders = ["--outputs", f"{where}/outputs", "--results", f"{where}/results"]
        return python("scripts/reproduce.py", "small.yaml", *folders, *more, **cluster)

    def slurm_does(*command: str) -> str:
        return subprocess.run(command, env=os.environ | cluster, check=True, capture_output=True, text=True).stdout

    first = reproduce("slurm", "--launcher", "slurm", *SMALL)
    runs = {0: next_folder(checkout, 0, first)}
    jobs = next((checkout / "slurm" / "outputs" / ".slurm").glob("*/*_submission.sh")).parent.name
    slurm_does("scancel", "--signal=USR2", f"{jobs}_0")  # as before a job's time is up: it goes back to the queue
    runs[1] = next_folder(checkout, 1, first)
    slurm_does("scancel", "--signal=KILL", f"{jobs}_1")  # as the kernel does when memory runs out: it has failed
    wait_for(lambda: "BeginTime" in slurm_does("squeue", "--noheader", "--format=%r"), "job that is back in the queue")
    slurm_does("scontrol", "update", f"jobid={jobs}_0", "starttime=now")  # it would wait there for two minutes
    _, stderr = first.communicate()
    assert first.returncode != 0
    assert "1 of 3 runs failed" in stderr
    assert f"SLURM ended job {jobs}_1" in stderr
    assert "3/3" in stderr
    assert not (runs[1] / "record.json").exists()
    assert (runs[0] / "record.json").exists()

    second = reproduce("slurm", "--launcher", "slurm", *SMALL)
    stdout, stderr = second.communicate()
    assert second.returncode == 0, stderr
    assert re.search(r"1 job\(s\), from \d+\S* on; .* They go on without this terminal\n.*job \S+ is done", stdout), (
        stdout
    )
    assert all('"resumed": 1' in (run / "record.json").read_text() for run in runs.values())

    undisturbed = reproduce("local", "--jobs", "2")
    _, stderr = undisturbed.communicate()
    assert undisturbed.returncode == 0, stderr
    assert table(checkout / "slurm") == table(checkout / "local")
    assert table(checkout / "local")[0]["missing"] == "0"
    shutil.rmtree(checkout / "slurm")


def next_folder(checkout: Path, seed: int, driver: subprocess.Popen) -> Path:
    """Wait until the run of a seed has a checkpoint; return its folder."""
    found: list[Path] = []

    def trained() -> bool:
        assert driver.poll() is None, driver.communicate()
        found.extend((checkout / "slurm" / "outputs").glob(f"*/*-seed{seed}/checkpoints/last.ckpt"))
        return bool(found)

    wait_for(trained, "checkpoint")
    return found[0].parents[1]
