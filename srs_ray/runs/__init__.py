"""The run directory: what a run was asked to do and the rows it has finished, kept through any crash."""

from srs_ray.runs.beside import SameNoise, runs_on_the_same_noise
from srs_ray.runs.directory import RunDirectory
from srs_ray.runs.lease import Lease
from srs_ray.runs.writer import RowWriter

__all__ = ["Lease", "RowWriter", "RunDirectory", "SameNoise", "runs_on_the_same_noise"]
