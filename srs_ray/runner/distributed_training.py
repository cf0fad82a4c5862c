"""A training by several processes through Ray Train: they share each batch, and process 0 reports to the driver."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from srs_ray.errors import JobError, SrsRayError
from srs_ray.models.mdeq.checkpoints import read_weights
from srs_ray.runner.connection import attach, named_address, nodes_alive
from srs_ray.training import EpochReport, StepReport, Training, TrainingResult
from srs_ray.training.settings import TrainJob
from srs_ray.training.share import Share

RESTARTS = 5
"""How often a training whose processes fail goes on from its last checkpoint by itself."""
_COLLECTIVE_SECONDS = 7 * 24 * 3600  # while process 0 evaluates, the others wait for it; Ray notices a lost one itself
_POLL_SECONDS = 0.5
_RAY_TRAIN = {
    "OMP_WAIT_POLICY": "PASSIVE",  # as in `srs_ray.cli`
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # It would only end a training early on a node that is about to go; all go on from the last checkpoint in any case.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Processes that are ended in the midst of an all_reduce leave no process group to shut down in order.
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",
}


def train_on_ray(
    job: TrainJob,
    command: str | None,
    address: str | None,
    report: Callable[[StepReport | EpochReport], object],
    stopped: Callable[[], bool],
    worker_logs: bool = False,
) -> TrainingResult | None:
    """Trains by `execution.workers` processes over a running Ray cluster if there is one, else over a local Ray.

    Promises, result and errors are those of `Training.run`; `report` and `stopped` are called in this process. Each
    process takes `execution.cpus_per_worker` CPUs and, on CUDA, a GPU of its own. When one is lost, all go on from the
    last checkpoint. The output's folder is written by process 0 and read here: several nodes need a file system that
    they share. Data and initial weights are read by each process from the paths of the job.

    Raises JobError where there is no room for the processes; a cluster that `address` names is waited for instead.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    place = attach(address, worker_logs)
    try:
        for number, handler in handlers.items():  # Ray has put its own in place of what `stopped` relies on
            signal.signal(number, handler)
        placed, resources = _placed(job, place, waits=named_address(address) not in (None, "local"))
        # On the driver's node, so that it is lost only when all is.
        beside = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        coordinator_class = ray.remote(_Coordinator).options(
            num_cpus=0, max_concurrency=8, scheduling_strategy=beside, runtime_env={"env_vars": _RAY_TRAIN}
        )
        coordinator: Any = coordinator_class.remote()
        if not _follow(coordinator, coordinator.fit.remote(placed, command, resources), report, stopped):
            return None
    except RayActorError as error:
        reason = str(error).splitlines()[0]
        raise SrsRayError(f"Ray is lost ({reason}); the same command goes on from the last checkpoint") from error
    finally:
        ray.shutdown()
    return TrainingResult(Path(job.output), read_weights(job.output))


def _placed(job: TrainJob, place: str, waits: bool) -> tuple[TrainJob, dict[str, float]]:
    """The job as the processes get it, with its device and absolute paths, and what each of them takes."""
    nodes, execution = nodes_alive(), job.execution
    device = execution.device
    if device == "auto":
        device = "cuda" if any(node["Resources"].get("GPU") for node in nodes) else "cpu"
    resources: dict[str, float] = {"CPU": execution.cpus_per_worker}
    if device == "cuda":
        resources["GPU"] = 1
    room = sum(min(int(node["Resources"].get(name, 0) / share) for name, share in resources.items()) for node in nodes)
    if room < execution.workers and not waits:
        each = " and ".join(f"{share:g} {name}" for name, share in resources.items())
        raise JobError(
            f"execution.workers is {execution.workers}, but {place} has room for {room}, with {each} each; ask for "
            f"fewer, or name a cluster (--address) whose nodes join"
        )

    def absolute(path: str | None) -> str | None:
        return None if path is None else str(Path(path).expanduser().absolute())

    weights = job.model.weights
    found = weights is not None and Path(weights).exists()  # else the name of shipped weights
    update = {
        "execution": execution.model_copy(update={"device": device}),
        "model": job.model.model_copy(update={"weights": absolute(weights) if found else weights}),
        "data": job.data.model_copy(update={"path": absolute(job.data.path)}),
        "evaluation": job.evaluation.model_copy(update={"path": absolute(job.evaluation.path)}),
        "output": absolute(job.output),
    }
    return job.model_copy(update=update), resources


def _follow(
    coordinator: Any,
    fit: ray.ObjectRef,
    report: Callable[[StepReport | EpochReport], object],
    stopped: Callable[[], bool],
) -> bool:
    """Passes on what the processes tell until they have ended: True if the model is trained, False if stopped."""
    ended = False
    while not ended:
        ended = bool(ray.wait([fit], timeout=_POLL_SECONDS)[0])
        stopping = stopped()
        told, begun = ray.get(coordinator.exchange.remote(stopping))
        for message in told:
            if isinstance(message, SrsRayError):
                raise message
            report(message)
        if stopping and not begun:  # the processes may still wait for nodes
            return False
    return bool(ray.get(fit))


class _Coordinator:
    """Runs Ray Train in a process beside the driver, and stands between the driver and the training processes."""

    def __init__(self) -> None:
        self._told: SimpleQueue[StepReport | EpochReport | SrsRayError] = SimpleQueue()
        self._stopping = False
        self._begun = False

    def fit(self, job: TrainJob, command: str | None, resources: dict[str, float]) -> bool:
        """Trains; whether to the end."""
        from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.torch import TorchConfig, TorchTrainer

        here = ray.get_runtime_context().current_actor
        with tempfile.TemporaryDirectory() as folder:  # checkpoints are ours; Ray Train keeps nothing here of use
            process: Any = partial(_train, job, command, here)
            trainer = TorchTrainer(
                process,
                torch_config=TorchConfig(timeout_s=_COLLECTIVE_SECONDS),
                scaling_config=ScalingConfig(
                    num_workers=job.execution.workers, use_gpu="GPU" in resources, resources_per_worker=resources
                ),
                run_config=RunConfig(storage_path=folder, failure_config=FailureConfig(max_failures=RESTARTS)),
            )
            try:
                result: Any = trainer.fit()
                return bool(result.return_value)
            except TrainingFailedError as error:
                self.tell(SrsRayError(_given_up(error)))
                return False

    def tell(self, message: StepReport | EpochReport | SrsRayError) -> None:
        """Takes a message of a training process to the driver."""
        self._told.put(message)

    def is_stopping(self) -> bool:
        """Whether the training processes are to stop."""
        self._begun = True
        return self._stopping

    def end(self) -> None:
        """The training processes have failed; others may have to be waited for."""
        self._begun = False

    def exchange(self, stopping: bool) -> tuple[list[StepReport | EpochReport | SrsRayError], bool]:
        """What the training processes told since the last time, and whether they have begun."""
        self._stopping = stopping
        return [self._told.get() for _ in range(self._told.qsize())], self._begun


def _train(job: TrainJob, command: str | None, coordinator: Any) -> bool:
    """One process of the training; whether it came to the end, which process 0 knows."""
    from ray.train import get_context

    share = Share(get_context().get_world_rank(), get_context().get_world_size())
    torch.set_num_threads(job.execution.cpus_per_worker)
    try:
        result = Training(job, command, share).run(
            report=lambda message: ray.get(coordinator.tell.remote(message)),
            stopped=lambda: share.rank == 0 and ray.get(coordinator.is_stopping.remote()),
        )
    except SrsRayError as error:
        # The driver ends the training when it hears of this; Ray Train would only try again.
        ray.get(coordinator.tell.remote(error))
        raise
    except Exception:
        ray.get(coordinator.end.remote())
        raise
    return result is not None


def _given_up(error: Exception) -> str:
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    reasons = [f"process {rank}: {_last_line(failure)}" for rank, failure in sorted(failures.items())]
    return (
        f"training was given up after {RESTARTS} restarts ({'; '.join(reasons) or _last_line(error)}); the same "
        f"command goes on from the last checkpoint"
    )


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
