"""Judges one point without noise: the proved margin of its logits over proved Lipschitz constants."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from srs_ray.errors import PointError
from srs_ray.lipschitz.row import LipschitzRow
from srs_ray.lipschitz.settings import LipschitzCertificate, lipschitz_radius
from srs_ray.models.image_fault import image_fault
from srs_ray.models.opened import Opened
from srs_ray.models.protocols import Lipschitz
from srs_ray.solvers.iteration import FixedPointIteration, SolverSetting

ABSTAIN = -1
BETWEEN_PROOFS = 8  # solver steps; a proof costs about one


@dataclass(frozen=True)
class LipschitzJudge:
    """A model that `is_lipschitz`, opened in float64 on a CPU, and how far its solves go.

    A row is a function of weights, image and settings alone, up to rounding. `batch` is always 1: a point is solved by
    itself. Raises ValueError for a model without proved constants.
    """

    model: Opened
    certificate: LipschitzCertificate
    batch: int = 1

    def __post_init__(self) -> None:
        if not is_lipschitz(self.model):
            raise ValueError(lacking_constants(self.model.label))

    @torch.no_grad()
    def certify(self, x_CHW: Tensor, index: int, label: int | None) -> LipschitzRow:
        """The row of one point: image in [0, 1], its position in the data set, its true class.

        Raises PointError for what is no such image, and for a label that is no class of the model.
        """
        started = time.perf_counter()
        model = self.model
        fault = image_fault(x_CHW, model.input_shape)
        if fault is None and label is not None and not 0 <= label < model.classes:
            fault = f"label is {label}, expected 0 to {model.classes - 1}"
        if fault is not None:
            raise PointError(fault)
        logits_K, error_KK, evaluations = self._solved(x_CHW.to("cpu", torch.float64).unsqueeze(0))
        leading = int(logits_K.argmax()) if bool(torch.isfinite(logits_K).all()) else 0
        constants_KK: Tensor = model.network.lipschitz()
        found = []
        for other in range(model.classes):
            if other != leading:
                margin, error = float(logits_K[leading] - logits_K[other]), float(error_KK[leading, other])
                constant = float(constants_KK[leading, other])
                margin, error = (margin, error) if error < torch.inf else (0.0, 0.0)  # nothing is proved: abstains
                found.append((lipschitz_radius(margin, error, constant), margin, error, constant, other))
        radius, margin, error, constant, runner_up = min(found)
        predicted = leading if radius > 0 else ABSTAIN
        return LipschitzRow(
            index=index,
            label=label,
            predicted=predicted,
            radius=max(radius, 0.0),
            correct=None if label is None else predicted == label,
            leading=leading,
            runner_up=runner_up,
            logit_margin=margin,
            allowance=error,
            pair_constant=constant,
            layer_evaluations=evaluations,
            seconds=time.perf_counter() - started,
        )

    def _solved(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor, int]:
        """Logits, bounds on the errors of their differences, and evaluations, of one image."""
        model, setting = self.model, self.certificate
        injection = model.inject(x_BCHW)
        solver = SolverSetting(model.reference.solver, setting.steps)
        iteration = FixedPointIteration(lambda z_BD: model.f(z_BD, injection), model.zero_state(1), solver)
        best: tuple[Tensor, Tensor] | None = None
        proofs = 0
        for step in range(1, setting.steps + 1):
            iteration.advance()
            if step % BETWEEN_PROOFS and step < setting.steps:
                continue
            logits_BK, error_BKK = model.network.proved_logits(iteration.z_BD, x_BCHW)
            proofs += 1
            if best is None or float(error_BKK.max()) < float(best[1].max()):
                best = logits_BK[0], error_BKK[0]
            if float(error_BKK.max()) <= setting.tolerance or not bool(iteration.active_B.any()):
                break
        assert best is not None
        return *best, int(iteration.k_B) + proofs


def is_lipschitz(model: Opened) -> bool:
    """Whether a model proves what this judge needs, as it was opened."""
    return isinstance(model.network, Lipschitz) and model.dtype == torch.float64 and model.device.type == "cpu"


def lacking_constants(label: str) -> str:
    """Why a model cannot be certified so, and what can be done."""
    return (
        f"certificate.kind lipschitz needs proved Lipschitz constants, and {label} has none: take a monotone model "
        "(mondeq-..., lben-...), or certify by smoothing"
    )
