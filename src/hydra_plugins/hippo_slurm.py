"""`train.py -m hydra/launcher=slurm`: Hydra's submitit launcher, but one job's end is not everyone's."""

import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from tqdm import tqdm

_POLL = 5  # seconds


class SlurmLauncher(Launcher):
    """Each run is a job of SLURM, in one array. Arguments are those of hydra-submitit-launcher.

    A job that was killed, and not put back into the queue, has failed; the others are waited for all the same. (That
    launcher stops waiting at the first one, and never does where SLURM keeps no accounts.)
    """

    def __init__(self, **params: Any) -> None:
        self.params = params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        try:
            from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher as Submitit
        except ImportError as error:
            from hippo.training.config import ConfigError

            raise ConfigError("hydra/launcher=slurm needs hydra-submitit-launcher: pip install -e .[slurm]") from error
        self.launcher = Submitit(**self.params)
        self.launcher.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        import submitit

        results, total = submitit.SlurmJob.results, len(job_overrides)
        with tqdm(total=total, unit="job", desc="SLURM") as progress:

            def wait(job: Any) -> list[JobReturn]:
                if not progress.n:
                    where = f"from {job.job_id} on; logs: {job.paths.folder.parent}"
                    progress.write(f"{total} job(s), {where}. They go on without this terminal")
                found = _results(job, results)
                failed = found[0].status != JobStatus.COMPLETED
                progress.write(f"job {job.job_id} {'failed' if failed else 'is done'}")
                progress.update()
                return found

            with patch.object(submitit.SlurmJob, "results", wait):
                return self.launcher.launch(job_overrides, initial_job_idx)


def _results(job: Any, results: Callable[[Any], list[JobReturn]]) -> list[JobReturn]:
    """Wait for a job of one task; return what its function did, or why it came to nothing."""
    while not job.paths.result_pickle.exists() and _is_queued(job.job_id):
        time.sleep(_POLL)
    if not job.paths.result_pickle.exists():
        time.sleep(_POLL)  # a shared file system may be late
    failed = JobReturn(status=JobStatus.FAILED)
    if not job.paths.result_pickle.exists():
        failed.return_value = RuntimeError(f"SLURM ended job {job.job_id}, without a result (log: {job.paths.stderr})")
        return [failed]
    try:
        return results(job)
    except Exception as error:
        failed.return_value = error
        return [failed]


def _is_queued(job: str) -> bool:
    asked = subprocess.run(["squeue", "--noheader", "--jobs", job], capture_output=True, text=True)
    if asked.returncode:
        return "Invalid job id" not in asked.stderr  # the controller may be out of reach for a while
    return bool(asked.stdout.strip())
