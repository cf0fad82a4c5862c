"""Log-probabilities of noisy images by the base classifier, with gradients to the images.

Shapes: M images, C channels, H and W pixels, K classes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from srs_ray.errors import JobError, UserCodeError
from srs_ray.models.opened import PHANTOM_STEPS, Opened
from srs_ray.solvers.gradients import unroll
from srs_ray.solvers.iteration import solve
from srs_ray.solvers.naive import Naive

State = Literal["final", "intermediate"]
MOST_UNROLLED = 8  # naive steps of a base classifier that are unrolled as they are
INTERMEDIATE_STATES = 6  # of an unrolled solve, at which the loss is averaged (Yang et al. 2022)


class LogProbability:
    """log p of a class for images in [0, 1], by the base classifier; `evaluations` counts f, summed over images.

    `final`: read off the state at which the base classifier ends. Naive steps up to MOST_UNROLLED are unrolled from the
    base classifier's start as they are, so that the gradient is exact; a longer solve has the phantom gradient of its
    last PHANTOM_STEPS evaluations (Geng et al. 2021, arXiv 2111.05177). `intermediate`: the mean of log p over the
    first states of a naive solve, unrolled (Yang et al. 2022, arXiv 2306.01429). A classifier without an equilibrium
    has one state.
    """

    def __init__(self, model: Opened, state: State) -> None:
        self.model, self.state = model, state
        self.evaluations = 0

    def __call__(self, x_MCHW: Tensor, label: int) -> Tensor:
        """Shape (M,)."""
        logits = self._logits(x_MCHW.to(self.model.device, self.model.dtype))
        return torch.stack([F.log_softmax(each_MK, dim=1)[:, label] for each_MK in logits]).mean(dim=0)

    def _logits(self, x_MCHW: Tensor) -> list[Tensor]:
        model, setting = self.model, self.model.reference
        injection = model.inject(x_MCHW)
        z_MD = model.start_state(len(x_MCHW))
        if not model.parts:
            return [model.head(self._steps(z_MD, injection, 1))]
        if self.state == "intermediate":
            logits = []
            for _ in range(min(setting.steps, INTERMEDIATE_STATES)):
                z_MD = self._steps(z_MD, injection, 1)
                logits.append(model.head(z_MD))
            return logits
        exact = setting.solver.name == Naive.name and setting.tolerance is None and setting.steps <= MOST_UNROLLED
        if exact:
            return [model.head(self._steps(z_MD, injection, setting.steps))]
        constant = injection.detach()
        solution = solve(lambda z_BD: model.f(z_BD, constant), z_MD, setting)
        self.evaluations += int(solution.evaluations_B.sum())
        moved_MD = self._steps(solution.z_BD, injection, min(PHANTOM_STEPS, setting.steps))
        return [model.head(solution.z_BD + (moved_MD - moved_MD.detach()))]

    def _steps(self, z_MD: Tensor, injection: Tensor, steps: int) -> Tensor:
        self.evaluations += steps * len(z_MD)
        return unroll(lambda z_BD: self.model.f(z_BD, injection), z_MD, steps)


def refuse_without_gradient(model: Opened, state: State) -> None:
    """Raise JobError for a model whose logits carry no gradient to its images, as of code that leaves torch."""
    x_MCHW = torch.full((1, *model.input_shape), 0.5, device=model.device, dtype=model.dtype)
    reason = "its logits do not depend on the image through torch's autograd"
    try:
        with torch.enable_grad():
            leaf_MCHW = x_MCHW.requires_grad_()
            log_p_M = LogProbability(model, state)(leaf_MCHW, 0)
            if log_p_M.requires_grad:
                torch.autograd.grad(log_p_M.sum(), leaf_MCHW)
                return
    except (UserCodeError, RuntimeError, TypeError, NotImplementedError) as error:
        if isinstance(error, MemoryError) or "out of memory" in str(error):
            raise
        reason = " ".join(str(error).split())
    raise JobError(
        f"{model.label} gives no gradient, and PGD climbs by gradients ({reason}): attack a model that computes its "
        "logits by torch operations, without no_grad, inference_mode, detach or numpy on the way"
    )
