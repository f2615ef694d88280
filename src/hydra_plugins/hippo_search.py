"""`hippo train -m hydra/sweeper=search`: Optuna chooses the values, a batch of runs at a time."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Transformer
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from hippo import project
from hippo.extras import require


class Search(Sweeper):
    """Runs that Optuna proposes; what it found is written to `optimization_results.yaml` among the outputs.

    A batch is proposed from the results of those before it and from a seed of its own. So a stored study that was
    stopped, in whatever way, proposes what it would have proposed; the trials that were under way are taken up.

    Args:
        n_trials: How many there are to be in all, those that a stored study has already among them.
        n_jobs: Trials of a batch.
        direction: What is best.
        max_failure_rate: Of a batch; where more fail, the search stops.
        sampler: The configuration of one of Optuna's samplers, with its seed.
        storage: Where the study is kept, as in `sqlite:///search.db`; None keeps none.
        study_name: Its name there; None makes one of what is searched, so that the same command goes on.
        params: Overrides, as on the command line, by their keys; the command line's come after them.
    """

    def __init__(
        self,
        n_trials: int,
        n_jobs: int,
        direction: Literal["maximize", "minimize"],
        max_failure_rate: float,
        sampler: DictConfig,
        storage: str | None = None,
        study_name: str | None = None,
        params: dict[str, str] | None = None,
    ) -> None:
        self.n_trials, self.n_jobs, self.direction = n_trials, n_jobs, direction
        self.max_failure_rate, self.sampler, self.params = max_failure_rate, sampler, params or {}
        self.storage, self.study_name = storage, study_name

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> None:
        """Run all trials.

        Raises:
            hippo.training.sweeps.SweepFailed: If too many of a batch failed, or all did.
            hippo.training.config.ConfigError: If nothing is left to choose, or the study cannot be kept.
        """
        from hippo.files import write_atomically
        from hippo.training.config import ConfigError
        from hippo.training.processes import say
        from hippo.training.sweeps import SweepFailed

        assert self.hydra_context is not None
        assert self.config is not None
        require("search", "hydra/sweeper=search")
        import optuna

        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        lines = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        last = {override.get_key_element(): override for override in parser.parse_overrides(lines)}
        space = {key: distribution(override) for key, override in last.items() if override.is_sweep_override()}
        fixed = [
            f"{key}={override.get_value_element_as_str()}"
            for key, override in last.items()
            if not override.is_sweep_override()
        ]
        if not space:
            raise ConfigError("nothing is left to choose: hydra.sweeper.params, or 'optimizer.lr=interval(1e-4, 1e-2)'")
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        name = self.study_name or self._name(sorted(f"{key}={space[key]!r}" for key in space), sorted(fixed))
        try:
            study = optuna.create_study(
                storage=self.storage, study_name=name, direction=self.direction, load_if_exists=True
            )
        except Exception as error:  # of Optuna, of the database, or of what connects to it
            raise ConfigError(
                f"hydra.sweeper: no study can be kept with storage={self.storage} and direction={self.direction} "
                f"({str(error).partition(chr(10))[0]}). A file is storage=sqlite:///FILE; null keeps none"
            ) from error
        failures: dict[str, str] = {}
        while batch := self._next(study, space):
            failed = self._run(study, batch, fixed)
            failures |= failed
            if len(failed) > self.max_failure_rate * len(batch):
                raise SweepFailed(failed, len(batch))
        if len(failures) == len(study.trials):
            raise SweepFailed(failures, len(study.trials))
        best = {"name": "optuna", "best_params": study.best_params, "best_value": study.best_value}
        write_atomically(folder / "optimization_results.yaml", OmegaConf.to_yaml(OmegaConf.create(best)))
        chosen = [*fixed, *(f"{key}={value}" for key, value in study.best_params.items())]
        say(f"best of {len(study.trials)} trials, {study.best_value:.4g} in validation: {project.command(chosen)}")

    def _name(self, space: list[str], fixed: list[str]) -> str:
        what = [self.direction, OmegaConf.to_container(self.sampler), space, fixed]
        return f"search-{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:8]}"

    def _next(self, study: Any, space: dict[str, Any]) -> list[Any]:
        """Return the trials that a driver before this one left under way or, if there are none, new ones."""
        from optuna.trial import TrialState

        from hippo.training.records import derive_seed

        under_way = study.get_trials(states=(TrialState.RUNNING,))
        for trial in under_way:
            if trial.params.keys() != space.keys():  # its driver was stopped before it had chosen
                study.tell(trial.number, state=TrialState.FAIL)
        if whole := [trial for trial in under_way if trial.params.keys() == space.keys()]:
            return whole
        made = len(study.trials)
        seed = derive_seed(self.sampler.seed, "batch", made)
        study.sampler = instantiate(self.sampler, seed=seed)
        return [study.ask(space) for _ in range(min(self.n_jobs, self.n_trials - made))]

    def _run(self, study: Any, batch: Sequence[Any], fixed: list[str]) -> dict[str, str]:
        """Run trials and tell the study what they come to; return the commands of those that failed, and why."""
        from optuna.trial import TrialState

        from hippo.training.sweeps import failure

        assert self.launcher is not None
        overrides = [[*fixed, *(f"{key}={value}" for key, value in trial.params.items())] for trial in batch]
        self.validate_batch_is_legal(overrides)
        results: Sequence[JobReturn] = self.launcher.launch(overrides, initial_job_idx=batch[0].number)
        failures = {}
        for trial, own, result in zip(batch, overrides, results, strict=True):
            if (why := failure(result)) is None:
                study.tell(trial.number, float(result.return_value), skip_if_finished=True)
            else:
                failures[project.command(own)] = why
                study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        return failures


def distribution(override: Override) -> Any:
    """Return what Optuna may choose of an override with several values: a list, a range or an interval."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value: Any = override.value()
    if override.is_interval_sweep():
        kind = IntDistribution if isinstance(value.start, int) and isinstance(value.end, int) else FloatDistribution
        return kind(value.start, value.end, log="log" in value.tags)
    choices: list[Any] = list(override.sweep_iterator(transformer=Transformer.encode))
    if override.is_range_sweep() and not value.shuffle and len(choices) > 1:
        kind = IntDistribution if all(isinstance(choice, int) for choice in choices) else FloatDistribution
        return kind(min(choices), max(choices), step=abs(value.step))
    return CategoricalDistribution(choices)
