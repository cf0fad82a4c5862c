"""A rehearsal: before its first point a worker runs every part of the model once, in the shapes of the run.

A GPU that is too old for the installed torch, or full, shows here and not at a point; and workers whose base classifier
is not the same function show too, by its logits on fixed noise.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from srs_ray.errors import UserCodeError
from srs_ray.lipschitz.judge import LipschitzJudge
from srs_ray.models.device_failure import is_device_failure
from srs_ray.models.opened import equilibrium_logits
from srs_ray.smoothing.base_classifier import BaseClassifier
from srs_ray.smoothing.judge import SmoothingJudge
from srs_ray.smoothing.noise import Domain, NoisyPoint
from srs_ray.solvers.iteration import SolverSetting

POINT = 2**32 - 1  # no data set has so many: no point's own noise is drawn
PIXEL = 128 / 255
STEPS = 2  # of a solve


@dataclass(frozen=True)
class Rehearsal:
    """Where a worker rehearsed, and a digest of the logits there.

    Workers of the same `kind` (device, libraries, batch and dtype) have the same `logits`, or the rows that they make
    are not those of one function.
    """

    kind: str
    logits: str


@torch.inference_mode()
def rehearse(judge: SmoothingJudge | LipschitzJudge) -> Rehearsal:
    """Runs stem, layer and head of the base classifier, and the sampler, once each at the judge's batch.

    What the device raises comes through, a lack of memory too. What a network of the user's own raises on an image
    that is none of the job's does not.
    """
    try:
        logits = _layer_digest(judge) if isinstance(judge, LipschitzJudge) else _logits_digest(judge)
    except UserCodeError as error:
        if is_device_failure(error):
            raise
        logits = "none"
    dtype = str(judge.model.network_dtype).removeprefix("torch.")
    return Rehearsal(f"{processor(judge.model.device)}, batch {judge.batch}, {dtype}", logits)


def _layer_digest(judge: LipschitzJudge) -> str:
    """Of the logits of two steps on an image of one gray."""
    model = judge.model
    x_BCHW = torch.full((1, *model.input_shape), PIXEL, dtype=model.dtype)
    injection, z_BD = model.inject(x_BCHW), model.zero_state(1)
    for _ in range(STEPS):
        z_BD = model.f(z_BD, injection)
    return hashlib.sha256(model.head(z_BD).contiguous().numpy().tobytes()).hexdigest()[:16]


def _logits_digest(judge: SmoothingJudge) -> str:
    model, sampling, batch = judge.model, judge.smoothing.sampling, judge.batch
    x_CHW = torch.full(model.input_shape, PIXEL, device=model.device)
    point = NoisyPoint(x_CHW, judge.smoothing.sigma, 0, POINT, judge.generator)
    reference = model.reference
    steps = min(STEPS, reference.steps)
    x_BCHW = point.samples(Domain.SELECTION, range(batch)).to(model.dtype)
    logits_BK = equilibrium_logits(model, x_BCHW, SolverSetting(reference.solver, steps), model.start_state(batch))
    # Watched and refilled, as F runs: one step of each.
    watched = None if reference.tolerance is None else math.inf
    setting = SolverSetting(reference.solver, reference.steps if watched else steps, watched)
    base = BaseClassifier(model, setting, batch, model.start_D)
    base.predict(point, Domain.SELECTION, [0])
    sampling.sampler(base, point).draw(Domain.SELECTION, min(batch, max(1, sampling.n0)))
    return hashlib.sha256(logits_BK.contiguous().cpu().numpy().tobytes()).hexdigest()[:16]


def processor(device: torch.device) -> str:
    """The device by name, with the libraries that choose its kernels."""
    if device.type == "cuda":
        return (
            f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}"
        )
    return f"{_cpu_name()} ({torch.backends.cpu.get_cpu_capability()}), torch {torch.__version__}"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "cpu"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "cpu")
