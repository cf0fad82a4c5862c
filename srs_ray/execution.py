"""The job's section `execution`: where and how a run is done."""

from __future__ import annotations

import shlex
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer

from srs_ray.settings import Settings

# The slowest network on the slowest GPU that is in use takes less; one that hangs is found out all the same.
CUDA_POINT_SECONDS = 900.0
CUDA_SAMPLE_SECONDS = 0.5


def _share_that_ray_grants(gpus: float) -> float:
    if gpus > 1 and not gpus.is_integer():
        raise ValueError("Ray shares one GPU only; above 1, expected a whole number")
    if abs(gpus - round(gpus, 4)) > 1e-9:
        raise ValueError("Ray shares a GPU by ten-thousandths; expected a multiple of 0.0001")
    return gpus


def _words(command: Any) -> Any:
    """A command in one text as its words, as a shell splits them; nothing else of a shell is meant by it."""
    return shlex.split(command) if isinstance(command, str) else command


def _startable(command: tuple[str, ...]) -> tuple[str, ...]:
    if not command or not command[0] or any("\0" in word for word in command):
        raise ValueError("expected a program and its arguments, without a NUL among them")
    return command


class ExecutionSettings(Settings):
    """Where and how the job runs. Of these only dtype and seed can change a count.

    Solves in bfloat16 do not get below a relative residual of some 3e-3. A point that takes longer than `point_seconds`
    becomes an error row. On a cluster, let that be more than a minute: Ray takes as long to notice that a node is lost.
    """

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Device of the workers.")
    workers: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", description="Number of workers; `auto`: one per GPU, or per CPU core."
    )
    gpus_per_worker: Annotated[float, AfterValidator(_share_that_ray_grants)] = Field(
        1.0, gt=0, description="GPUs of a worker; a fraction lets workers share one."
    )
    cpus_per_worker: int = Field(1, ge=1, description="CPU cores, and threads, of a worker.")
    batch: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto",
        description="Samples in the network at once; `auto`: measured at the first start of a long run, and kept.",
    )
    attempts: int = Field(3, ge=1, description="Attempts at a point that ends its worker, before it becomes an error.")
    point_seconds: Literal["unlimited"] | Annotated[float, Field(gt=0)] | None = Field(
        None, description="Longest time of a point; null: no limit on a CPU, 900 s plus 0.5 s a sample on a GPU."
    )
    dtype: Literal["float32", "float64", "bfloat16"] = Field(
        "float32", description="Number format of the network. bfloat16 makes another base classifier."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of all noise and audits.")
    on_end: Annotated[tuple[str, ...], BeforeValidator(_words), AfterValidator(_startable)] | None = Field(
        None,
        description="Command that the driver runs when the run ends: a list of words, or a text that is split into "
        "words; no shell. SRS_RAY_STATUS and other variables say how it ended.",
    )
    on_end_seconds: float = Field(60.0, gt=0, description="Longest time of that command; then it is killed.")

    @model_serializer(mode="wrap")
    def _without_unset(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Stored jobs of older runs, which know no such command, stay equal."""
        settings: dict[str, Any] = serialize(self)
        of_command = ("on_end", "on_end_seconds") if self.on_end is None else ()
        return {name: value for name, value in settings.items() if name not in of_command}

    def seconds_of_a_point(self, device: str, samples: int) -> float | None:
        """The longest that a point of at most so many samples may take on that kind of device; None: any time."""
        if self.point_seconds == "unlimited":
            return None
        if self.point_seconds is None and device == "cuda":
            return CUDA_POINT_SECONDS + CUDA_SAMPLE_SECONDS * samples
        return self.point_seconds
