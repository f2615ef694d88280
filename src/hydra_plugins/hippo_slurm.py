"""`hippo train -m hydra/launcher=slurm`: the jobs of Hydra's submitit launcher, but one job's end is not everyone's."""

import subprocess
import time
from collections.abc import Sequence
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from hippo.extras import require

_POLL = 5  # seconds
# Parameters that submitit has for any cluster; it wants "slurm_" before the others.
_ANY_CLUSTER = (
    "name",
    "timeout_min",
    "mem_gb",
    "nodes",
    "cpus_per_task",
    "gpus_per_node",
    "tasks_per_node",
    "stderr_to_stdout",
)


class SlurmLauncher(Launcher):
    """Each run is a job of SLURM, in one array. Arguments are those of hydra-submitit-launcher.

    A job that was killed, and not put back into the queue, has failed; the others are waited for all the same. (That
    launcher stops waiting at the first one, and never does where SLURM keeps no accounts.)

    Args:
        submitit_folder: For scripts, logs and results of the jobs.
        max_num_timeout: How often a job whose time is up goes back to the queue.
        params: What `sbatch` is told of each job.
    """

    def __init__(self, submitit_folder: str, max_num_timeout: int, **params: Any) -> None:
        self.folder, self.max_num_timeout, self.params = submitit_folder, max_num_timeout, params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        require("slurm", "hydra/launcher=slurm")
        from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher as Submitit

        self.job = Submitit()  # what a job calls, and what puts it back into the queue
        self.job.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        import submitit

        params = OmegaConf.to_container(OmegaConf.create(self.params), resolve=True)
        assert isinstance(params, dict)
        executor = submitit.AutoExecutor(self.folder, cluster="slurm", slurm_max_num_timeout=self.max_num_timeout)
        executor.update_parameters(**{k if k in _ANY_CLUSTER else f"slurm_{k}": v for k, v in params.items()})
        numbers, total = range(initial_job_idx, initial_job_idx + len(job_overrides)), len(job_overrides)
        jobs = executor.map_array(
            self.job,
            [list(overrides) for overrides in job_overrides],
            ["hydra.sweep.dir"] * total,
            numbers,
            [f"job_id_for_{number}" for number in numbers],
            [Singleton.get_state()] * total,
        )
        where = f"from {jobs[0].job_id} on; logs: {jobs[0].paths.folder.parent}"
        results = []
        with tqdm(total=total, unit="job", desc="SLURM") as progress:
            progress.write(f"{total} job(s), {where}. They go on without this terminal")
            for job in jobs:
                results.append(_result(job))
                failed = results[-1].status != JobStatus.COMPLETED
                progress.write(f"job {job.job_id} {'failed' if failed else 'is done'}")
                progress.update()
        return results


def _result(job: Any) -> JobReturn:
    """Wait for a job of SLURM; return what its function did, or why it came to nothing."""
    while not job.paths.result_pickle.exists() and _is_queued(job.job_id):
        time.sleep(_POLL)
    if not job.paths.result_pickle.exists():
        time.sleep(_POLL)  # a shared file system may be late
    failed = JobReturn(status=JobStatus.FAILED)
    if not job.paths.result_pickle.exists():
        failed.return_value = RuntimeError(f"SLURM ended job {job.job_id}, without a result (log: {job.paths.stderr})")
        return failed
    try:
        return job.results()[0]
    except Exception as error:
        failed.return_value = error
        return failed


def _is_queued(job: str) -> bool:
    asked = subprocess.run(["squeue", "--noheader", "--jobs", job], capture_output=True, text=True)
    if asked.returncode:
        return "Invalid job id" not in asked.stderr  # the controller may be out of reach for a while
    return bool(asked.stdout.strip())
