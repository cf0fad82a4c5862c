"""The job's section `execution`: where and how a run is done."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

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


class ExecutionSettings(Settings):
    """Where and how the job runs. Of these only dtype and seed can change a count.

    `batch` is how many samples go through the network at once. A long run with `auto` measures which is fastest, on one
    worker at its first start, and keeps to that; run.json has it.

    With dtype bfloat16 the network computes in it: another F, whose solves do not get below a residual of some 3e-3.

    A point that takes longer than `point_seconds` becomes an error row. Let that be more than a minute on a cluster: a
    node that is lost is silent for as long until Ray knows, and its points seem slow. With null a point on a CPU may
    take any time, and one on a GPU, which may hang for ever, a time far above what it needs; with `unlimited` any time.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    gpus_per_worker: Annotated[float, AfterValidator(_share_that_ray_grants)] = Field(1.0, gt=0)
    cpus_per_worker: int = Field(1, ge=1)
    batch: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    attempts: int = Field(3, ge=1)
    point_seconds: Literal["unlimited"] | Annotated[float, Field(gt=0)] | None = None
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    seed: int = Field(0, ge=0, lt=2**63)

    def seconds_of_a_point(self, device: str, samples: int) -> float | None:
        """The longest that a point of at most so many samples may take on that kind of device; None: any time."""
        if self.point_seconds == "unlimited":
            return None
        if self.point_seconds is None and device == "cuda":
            return CUDA_POINT_SECONDS + CUDA_SAMPLE_SECONDS * samples
        return self.point_seconds
