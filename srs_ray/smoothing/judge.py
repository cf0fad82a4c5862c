"""Judges one point: select a class, sample, audit, bound, and lay it all down in a row."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from srs_ray.errors import PointError
from srs_ray.models.devices import device_name, use_exact_float32
from srs_ray.models.image_fault import image_fault
from srs_ray.models.opened import Opened, refuse_training
from srs_ray.smoothing.base_classifier import NO_CLASS, BaseClassifier, Predictions
from srs_ray.smoothing.candidate import ABSTAIN, winner
from srs_ray.smoothing.estimation import NOTHING_ESTIMATED, Estimation, estimate, refuse_nonfinite
from srs_ray.smoothing.noise import Domain, NoiseGenerator, NoisyPoint
from srs_ray.smoothing.plan import Plan
from srs_ray.smoothing.row import PointRow, pixel_digest
from srs_ray.smoothing.samplers.sampler import Cost, Selection
from srs_ray.smoothing.smoothing import Smoothing

NO_SELECTION = Predictions(np.empty(0, dtype=np.int64), evaluations=0, fallbacks=0, unconverged=0)


@dataclass(frozen=True)
class SmoothingJudge:
    """All that the certification of a point by smoothing needs, but the point.

    `batch` is how many samples go through the network at once. Rows of the same settings on the same kind of device
    are equal bit for bit, whatever process made them. Raises ValueError for settings that are out of range, and where
    the model lacks a part that the sampling method needs.
    """

    model: Opened
    smoothing: Smoothing
    generator: NoiseGenerator
    seed: int
    batch: int

    def __post_init__(self) -> None:
        check_seed_and_batch(self.seed, self.batch)
        sampling = self.smoothing.sampling
        missing = [part for part in sampling.needs if part not in self.model.parts]
        if missing:
            raise ValueError(lacking_parts(self.model.label, sampling.method_name, sampling.needs, missing))
        refuse_training(self.model.network)
        law = self.generator.law(self.smoothing.sigma, prod(self.model.input_shape))
        object.__setattr__(self, "smoothing", replace(self.smoothing, law=law))
        use_exact_float32()

    def certify(self, x_CHW: Tensor, index: int, label: int | None) -> PointRow:
        """The row of one point: image in [0, 1], its position in the data set (it keys the noise), its true class.

        Raises PointError for what is no such image, for a label that is no class of the model, and where more samples
        than `max_nonfinite` have no finite answer.
        """
        started = time.perf_counter()
        model, smoothing, sampling = self.model, self.smoothing, self.smoothing.sampling
        fault = image_fault(x_CHW, model.input_shape) or self.generator.fault(x_CHW)
        if fault is None and label is not None and not 0 <= label < model.classes:
            fault = f"label is {label}, expected 0 to {model.classes - 1}"
        if fault is not None:
            raise PointError(fault)
        point = NoisyPoint(x_CHW.to(model.device, torch.float32), smoothing.sigma, self.seed, index, self.generator)
        base = BaseClassifier.of(model, self.batch)
        sampler = sampling.sampler(base, point)

        if sampling.candidate is None:
            selection = sampler.draw(Domain.SELECTION, sampling.n0)
            refuse_nonfinite(Domain.SELECTION, selection.classes_N, sampling.max_nonfinite)
            selected = selected_class(selection.classes_N)
        elif label is None:
            raise PointError("the point has no label, and sampling.candidate is label")
        else:
            selection, selected = NO_SELECTION, label
        done, plan, deciding = NOTHING_ESTIMATED, None, Cost()
        if selected != NO_CLASS:
            shown = Selection(selected, selection.classes_N == selected, selection.evaluations)
            certificate, goal = smoothing.certificate, smoothing.goal
            sampler, plan, deciding = sampling.decide(certificate, goal, base, point, sampler, shown)
            done = estimate(sampler, base, point, selected, sampling.max_nonfinite, plan, goal)
        p_lower = smoothing.drawn.p_lower(done.p_lower)
        radius = smoothing.radius(p_lower)
        predicted = selected if radius > 0 else ABSTAIN
        selection_classes, selection_counts = sparse_counts(selection.classes_N)
        classes, counts = sparse_counts(done.classes_N)
        return PointRow(
            index=index,
            label=label,
            pixels=pixel_digest(x_CHW),
            predicted=predicted,
            radius=radius,
            correct=None if label is None else predicted != ABSTAIN and predicted == label,
            selected=selected,
            p_lower=p_lower,
            n0=sampling.n0,
            n=len(done.classes_N),
            selection_classes=selection_classes,
            selection_counts=selection_counts,
            classes=classes,
            counts=counts,
            audited=done.audit.audited,
            disagreed=done.audit.disagreed,
            **self._misses(plan, done),
            method=sampler.method,
            steps=None if plan is None else sampler.steps,
            **self._looks(plan, done),
            function_evaluations=selection.evaluations + deciding.evaluations + done.evaluations,
            reference_evaluations=done.audit.evaluations,
            fallbacks=sum(part.fallbacks for part in (selection, deciding, done, done.audit)),
            unconverged=sum(part.unconverged for part in (selection, deciding, done, done.audit)),
            sigma=smoothing.sigma,
            seconds=time.perf_counter() - started,
            device=device_name(model.device),
            dtype=str(model.network_dtype).removeprefix("torch."),
            batch=self.batch,
        )

    def _misses(self, plan: Plan | None, done: Estimation) -> dict[str, Any]:
        """The columns of a point whose misses are audited too; of others they are null."""
        if not (plan or self.smoothing.plan).bound.misses:
            return {}
        columns = {"audited_misses": done.audit.audited_misses, "found": done.audit.found}
        if plan is None or not self.smoothing.sampling.by_looks:
            return columns
        by_looks = {
            "look_audited_misses": [look.audited_misses for look in done.read],
            "look_found": [look.found for look in done.read],
        }
        return columns | by_looks

    def _looks(self, plan: Plan | None, done: Estimation) -> dict[str, Any]:
        """The columns of a point that was sampled by looks; of others they are null."""
        if plan is None or not self.smoothing.sampling.by_looks:
            return {}
        return {
            "stopped": done.stopped,
            "audit_share": plan.audit.share,
            "look_n": [look.n for look in done.read],
            "look_hits": [look.hits for look in done.read],
            "look_audited": [look.audited for look in done.read],
            "look_disagreed": [look.disagreed for look in done.read],
        }


def check_seed_and_batch(seed: int, batch: int) -> None:
    """Raise ValueError for a seed that generators do not take, and for a batch without samples."""
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed is {seed}, expected 0 to 2^63 - 1")
    if batch < 1:
        raise ValueError(f"batch is {batch}, expected at least 1")


def lacking_parts(label: str, method: str, needs: Sequence[str], missing: Sequence[str]) -> str:
    """Why a model cannot be sampled so, and what can be done."""
    parts = " and ".join(filter(None, [", ".join(needs[:-1]), needs[-1]]))
    has = "has none of them" if set(missing) == set(needs) else f"lacks {', '.join(missing)}"
    return f"{method} needs {parts}; {label} {has}: use method: standard"


def selected_class(classes_N: np.ndarray) -> int:
    """The most frequent class, the lowest of those tied; NO_CLASS if samples without a prediction outnumber it."""
    return winner(*sparse_counts(classes_N))


def sparse_counts(classes_N: np.ndarray) -> tuple[list[int], list[int]]:
    """The classes that occur (NO_CLASS among them), ascending, and how often each does."""
    classes, counts = np.unique(classes_N, return_counts=True)
    return classes.tolist(), counts.tolist()
