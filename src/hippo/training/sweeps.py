"""Many runs: planned, trained side by side on one machine, and none of them stopped by another's failure.

Tables plan runs that they do not train: what only training needs is imported where it is used.
"""

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, NoReturn, cast

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from hippo import locks, project
from hippo.errors import UserError
from hippo.training import records, sources
from hippo.training.config import check, check_seed, outline, resolved

EPOCH = re.compile(r"^epoch +(\d+)/\d+ +train loss .*")
_POLL = 0.2  # seconds


class SweepFailed(UserError):
    """Some runs came to nothing; the message gives the command of each, and why."""

    def __init__(self, failures: Mapping[str, str], total: int) -> None:
        lines = (f"\n  {command}\n    {why}" for command, why in failures.items())
        super().__init__(f"{len(failures)} of {total} runs failed:{''.join(lines)}")


@dataclass(frozen=True)
class Run:
    """One run, before it takes place.

    Attributes:
        overrides: For `hippo train`.
        name: Folder of its experiment.
        id: Folder of the run.
        config: Its resolved configuration.
        composed: The same as Hydra composed it, where settings follow from the seed (`dataset.data_seed=${seed}`); None
            where none does.
        own: The folder of configurations whose classes are admitted beside the package's, of a run that a file from
            elsewhere may have asked for; None where the user did, who may name any class.
        checked: Whether it can be trained as it is; else it may only be looked for.
    """

    overrides: tuple[str, ...]
    name: str
    id: str
    config: dict[str, Any] = field(compare=False)
    composed: DictConfig | None = field(default=None, compare=False, repr=False)
    own: Path | None = field(default=None, compare=False, repr=False)
    checked: bool = field(default=True, compare=False, repr=False)

    @classmethod
    def planned(
        cls, overrides: Iterable[str], composed: DictConfig, own: Path | None = None, checked: bool = True
    ) -> "Run":
        """Return the run that a configuration describes, as Hydra composed it, its own node included.

        One that is not checked is known by its name and id, and imports nothing that the configuration names.

        Raises:
            ConfigError: If it cannot be run, or names a class that is not admitted.
        """
        # Names of experiments are made of choices, which Hydra's own configuration knows; it can be set, and not unset,
        # by a method.
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(composed)
        try:
            config = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
            if checked and own is not None:
                from hippo.training import foreign

                # Before the check, which imports what it is to check the arguments of.
                foreign.admit(resolved(config), own)
            values = check(config) if checked else outline(config)
        finally:
            HydraConfig.instance().cfg = before
        seeded = composed if "${seed}" in str(OmegaConf.to_container(config)) else None
        return cls(tuple(overrides), values["name"], records.identity(values), values, seeded, own, checked)

    def with_seed(self, seed: int) -> "Run":
        """Return the same run under another seed, with all that follows from it.

        Raises:
            ConfigError: If no run can have this seed.
        """
        check_seed(seed)
        config = self.config | {"seed": seed}
        overrides = (*(o for o in self.overrides if not o.startswith("seed=")), f"seed={seed}")
        if self.composed is not None:
            composed = self.composed.copy()
            composed.seed = seed
            return Run.planned(overrides, composed, self.own, self.checked)
        return replace(self, overrides=overrides, id=records.identity(config), config=config)

    def at(self, outputs: Path) -> "Run":
        """Return the same run, with its folder in other outputs."""
        config = self.config | {"paths": self.config["paths"] | {"outputs": str(outputs)}}
        return replace(self, overrides=(*self.overrides, f"paths.outputs={outputs}"), config=config)

    @property
    def command(self) -> str:
        """The command line, but for the folder of its outputs."""
        return project.command(override for override in self.overrides if not override.startswith("paths.outputs="))

    @property
    def epochs(self) -> int:
        return self.config["trainer"]["max_epochs"]

    @property
    def folder(self) -> Path:
        return Path(self.config["paths"]["outputs"]).expanduser() / self.name / self.id

    @property
    def state(self) -> str:
        """One of "done", "running", "cut" and "missing"."""
        if (self.folder / "record.json").is_file():
            return "done"
        if locks.is_held(self.folder):
            return "running"
        return "cut" if (self.folder / "checkpoints" / "last.ckpt").is_file() else "missing"


def through(launcher: str, runs: Iterable[Run], configs: Path, options: Iterable[str] = ()) -> dict[Run, str]:
    """Train runs by one of Hydra's launchers, and wait for them.

    Args:
        launcher: Its name, as in `hydra/launcher=slurm`.
        runs: What to train.
        configs: The folder of configurations.
        options: Overrides for the launcher, such as `hydra.launcher.partition=gpu`.

    Returns:
        Why they failed, of those that did.
    """
    from hippo.training.run import run as train

    runs = list(dict.fromkeys(runs))
    _warn(runs)
    with hydra.initialize_config_dir(str(configs.absolute()), version_base="1.3"):
        config = hydra.compose("train", [f"hydra/launcher={launcher}", *options], return_hydra_config=True)
        context = HydraContext(GlobalHydra.instance().config_loader(), callbacks=cast(Any, Callback()))
        HydraConfig.instance().set_config(config)
        plugin = Plugins.instance().instantiate_launcher(context, train, config)
        returns = plugin.launch([list(run.overrides) for run in runs], initial_job_idx=0)
    failures = {run: failure(back) for run, back in zip(runs, returns, strict=True)}
    return {run: why for run, why in failures.items() if why is not None}


def failure(job: JobReturn) -> str | None:
    """Return why a job that Hydra launched failed, or None if it did not."""
    from hippo.training.errors import reason

    if job.status == JobStatus.COMPLETED:
        return None
    try:
        with redirect_stderr(io.StringIO()):  # Hydra writes the overrides there, which are told with the reason
            job.return_value  # noqa: B018 - it raises what the job did
    except Exception as error:
        return reason(error)
    raise AssertionError(f"{job} has failed without an error")


def train_all(
    runs: Iterable[Run],
    jobs: int | None = None,
    after_each: Callable[[], Any] = lambda: None,
    program: Sequence[str] = ("-m", "hippo", "train"),
) -> dict[Run, str]:
    """Train runs, some at a time, each in a process of its own with its share of the cores.

    What is done is not repeated; what another process is at work on is waited for. Output goes to `log.txt` in each
    run's folder. An interrupt, or SIGTERM, is passed on to the runs, which stop at their last epoch.

    Args:
        runs: What to train.
        jobs: Runs at a time; None for one on each GPU, or without GPUs one on each core.
        after_each: Called after each run.
        program: What Python is to start for each.

    Returns:
        Why they failed, of those that did.
    """
    waiting = list(dict.fromkeys(runs))
    _warn(waiting)
    slots = share_out(jobs, len(waiting))
    total, threads = sum(run.epochs for run in waiting), max(1, cores() // len(slots))
    failures: dict[Run, str] = {}
    children: dict[int, _Child] = {}
    interval = 1 if sys.stderr.isatty() else 60
    progress = tqdm(total=total, unit="epoch", mininterval=interval, desc=f"{len(waiting)} runs")
    with _terminated_as_interrupted():
        try:
            while waiting or children:
                for slot, child in list(children.items()):
                    over = child.process.poll() is not None
                    if epochs := child.news():
                        progress.set_postfix_str(child.last, refresh=False)
                        progress.update(epochs)
                    if over:
                        del children[slot]
                        progress.update(child.run.epochs - child.epochs)
                        if why := child.failure():
                            failures[child.run] = why
                        _tell(f"{child.run.name} {child.run.id}   {f'failed: {why}' if why else child.result}")
                        after_each()
                free = [slot for slot in slots if slot not in children]
                if free and waiting:
                    elsewhere = [run for run in waiting if run.state == "running"]
                    for run in [run for run in waiting if run not in elsewhere]:
                        if run.state == "done" and not run.config["force"]:
                            waiting.remove(run)
                            progress.update(run.epochs)
                        elif len(free) > len(elsewhere):
                            waiting.remove(run)
                            slot = free.pop(0)
                            children[slot] = _Child(run, program, threads, slots[slot])
                time.sleep(_POLL)
        except (KeyboardInterrupt, SystemExit):
            for child in children.values():
                child.process.terminate()  # and not SIGINT, which what nohup starts in the background ignores
            for child in children.values():
                child.process.wait()
            _tell("interrupted; the same command goes on where its runs were left")
            raise
        finally:
            progress.close()
    return failures


class _Child:
    """A run in a process of its own, and what its log says."""

    def __init__(self, run: Run, program: Sequence[str], threads: int, environment: dict[str, str]) -> None:
        self.run, self.last, self.epochs = run, "", 0
        self._lines: list[str] = []
        run.folder.mkdir(parents=True, exist_ok=True)
        path = run.folder / "log.txt"
        threads = run.config["threads"] or threads
        environment = os.environ | environment | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        with open(path, "a", encoding="utf-8") as log:
            self._log: IO[str] = open(path, encoding="utf-8", errors="replace")  # noqa: SIM115
            self._log.seek(0, os.SEEK_END)
            self.process = subprocess.Popen(
                [sys.executable, *program, *run.overrides, f"threads={threads}"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # interrupts reach it once, from the parent
            )

    def news(self) -> int:
        """Read on in the log; return how many epochs were completed, by this process or by those before it."""
        before = self.epochs
        for line in self._log:
            self._lines = [*self._lines[-20:], line.strip()]
            if match := EPOCH.match(line):
                self.epochs = int(match[1])
                self.last = f"{self.run.name} {self.run.id}: {line.strip()}"
        return self.epochs - before

    @property
    def result(self) -> str:
        """What it came to."""
        return next((line for line in self._lines if line.startswith("best epoch")), "")

    def failure(self) -> str | None:
        """Return why the finished process failed, or None if it did not."""
        self._log.close()
        if self.process.returncode == 0:
            return None
        said = [line for line in self._lines if line]
        status = f"exit status {self.process.returncode}"
        why = next((line for line in said if line.startswith("error:")), said[-1] if said else status)
        return f"{why} (log: {self.run.folder / 'log.txt'})"


def _warn(runs: list[Run]) -> None:
    if warning := sources.warning(sources.used([run.config for run in runs])):
        _tell(warning)


def _tell(line: str) -> None:
    try:
        tqdm.write(line)
    except OSError as error:
        from hippo.training.processes import mute

        mute(error)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_out(jobs: int | None, runs: int) -> dict[int, dict[str, str]]:
    """Return what each of the runs side by side finds in its environment: GPUs are dealt out among them.

    Args:
        jobs: Runs at a time; None for one on each GPU, or without GPUs one on each core.
        runs: How many there are.
    """
    import torch

    count = torch.cuda.device_count()
    every = ",".join(map(str, range(count)))
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", every).split(",")[:count]
    jobs = min(jobs or len(gpus) or cores(), max(runs, 1))
    return {i: {"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {} for i in range(jobs)}


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM end this process in good order, so that it reaches the children."""

    def leave(*_: Any) -> NoReturn:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
