"""Certifies one point: select a class, sample, audit, bound, and lay it all down in a row."""

from __future__ import annotations

import math
import os
import socket
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from srs_ray.errors import PointError
from srs_ray.models.mdeq.model import MDEQ
from srs_ray.smoothing.audit import NO_AUDIT, Audit, audit_samples
from srs_ray.smoothing.base_classifier import NO_CLASS, BaseClassifier
from srs_ray.smoothing.batch_size import default_batch
from srs_ray.smoothing.certificates import certified_radius, p_lower
from srs_ray.smoothing.choice import Pilot, Way, choose
from srs_ray.smoothing.estimation import Estimation, Goal, estimate, estimate_by_looks, refuse_nonfinite
from srs_ray.smoothing.looks import UNAUDITED, LookPlan
from srs_ray.smoothing.noise import NoiseGenerator, NoisyPoint, Stage, noise_generator
from srs_ray.smoothing.samplers import Sampler, SerializedSampler, StandardSampler
from srs_ray.smoothing.sampling import AutoSampling, Certificate, Looks, SerializedSampling, StandardSampling
from srs_ray.solvers.iteration import SolverSetting

ABSTAIN = -1
AUDIT_SHARES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75)  # of which a point is given one by its selection samples
PILOT_AUDITS = 16  # of selection's hits, to choose by


@dataclass(frozen=True)
class PointRow:
    """One row of a run directory; its columns are described in the README. Result columns are None in error rows."""

    index: int
    label: int | None
    status: str = "ok"
    error: str | None = None
    predicted: int | None = None
    radius: float | None = None
    correct: bool | None = None
    selected: int | None = None
    p_lower: float | None = None
    n0: int | None = None
    n: int | None = None
    selection_classes: list[int] | None = None
    selection_counts: list[int] | None = None
    classes: list[int] | None = None
    counts: list[int] | None = None
    audited: int | None = None
    disagreed: int | None = None
    function_evaluations: int | None = None
    reference_evaluations: int | None = None
    fallbacks: int | None = None
    unconverged: int | None = None
    method: str | None = None
    stopped: str | None = None
    audit_share: float | None = None
    look_n: list[int] | None = None
    look_hits: list[int] | None = None
    look_audited: list[int] | None = None
    look_disagreed: list[int] | None = None
    sigma: float | None = None
    seconds: float | None = None
    worker: str = field(default_factory=lambda: f"{socket.gethostname()}/{os.getpid()}")
    device: str | None = None
    dtype: str | None = None
    batch: int | None = None
    attempt: int = 1
    finished_at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True)
class PointCertifier:
    """Everything that the certification of a point needs, but the point.

    `sigma` is in pixel units of [0, 1]; `batch` is how many samples go through the network at once. Rows of the same
    settings on the same kind of device are equal bit for bit, whatever process made them. Raises ValueError for
    settings that are out of range or do not go together.
    """

    model: MDEQ
    sampling: StandardSampling | SerializedSampling
    certificate: Certificate
    sigma: float
    generator: NoiseGenerator
    seed: int
    batch: int

    def __post_init__(self) -> None:
        if (self.certificate.kind in UNAUDITED) != isinstance(self.sampling, StandardSampling):
            raise ValueError(f"certificate {self.certificate.kind!r} does not go with {type(self.sampling).__name__}")
        if self.model.training:
            raise ValueError("the model is in training mode, in which samples depend on each other: call model.eval()")
        self._check_ranges()
        use_exact_float32()

    def _check_ranges(self) -> None:
        sampling = self.sampling
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"sigma is {self.sigma}, expected above 0 and finite")
        if not 0 <= sampling.max_nonfinite <= 1:
            raise ValueError(f"max_nonfinite is {sampling.max_nonfinite}, expected a share of 0 to 1")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}, expected 0 to 2^63 - 1")
        counts = {"n0": sampling.n0, "n": sampling.n, "batch": self.batch}
        if isinstance(sampling, SerializedSampling):
            counts |= {"chains": sampling.chains, "warmup_steps": sampling.warmup_steps}
        for name, found in counts.items():
            if found < 1:
                raise ValueError(f"{name} is {found}, expected at least 1")
        if self.certificate.audit < 0:
            raise ValueError(f"audit is {self.certificate.audit}, expected at least 0")
        if sampling.looks is None:
            p_lower(self.certificate.kind, 0, sampling.n, 0, 0, self.certificate.alpha)  # refuses its arguments by name
        elif not 0 < sampling.looks.futility < 1:
            raise ValueError(f"futility is {sampling.looks.futility}, expected above 0 and below 1")
        elif not self._ways(1.0) or not self._goal.p_targets:  # which refuse what they are given by name
            raise ValueError("looks need at least one target radius")
        if isinstance(sampling, AutoSampling) and sampling.looks is None:
            raise ValueError("auto chooses between ways to sample by looks: name their target radii")
        if isinstance(sampling, AutoSampling) and not 0 <= sampling.most_lost <= 1:
            raise ValueError(f"most_lost is {sampling.most_lost}, expected a share of 0 to 1")

    def certify(self, x_CHW: Tensor, index: int, label: int | None) -> PointRow:
        """The row of one point: image in [0, 1], its position in the data set (it keys the noise), its true class.

        Raises PointError for what is no such image, and where more samples than `max_nonfinite` have no finite answer.
        """
        started = time.perf_counter()
        sampling = self.sampling
        fault = image_fault(x_CHW, self.model.config.input_shape)
        if fault is not None:
            raise PointError(fault)
        x_CHW = x_CHW.to(self.model.device, torch.float32)
        point = NoisyPoint(x_CHW, self.sigma, self.seed, index, self.generator)
        base = BaseClassifier(self.model, sampling.reference, self.batch)
        sampler = self._sampler(base, point)

        selection = sampler.draw(Stage.SELECTION, sampling.n0)
        refuse_nonfinite(Stage.SELECTION, selection.classes_N, sampling.max_nonfinite)
        selected = selected_class(selection.classes_N)
        estimation = Estimation(0.0, np.empty(0, dtype=np.int64))
        if selected != NO_CLASS:
            hits = np.flatnonzero(selection.classes_N == selected)
            sampler, estimation = self._estimate(base, point, sampler, selected, hits)
        audit, bound, classes_N, looks = estimation.audit, estimation.p_lower, estimation.classes_N, estimation.looks
        radius = certified_radius(bound, self.sigma)
        predicted = selected if radius > 0 else ABSTAIN
        selection_classes, selection_counts = sparse_counts(selection.classes_N)
        classes, counts = sparse_counts(classes_N)
        return PointRow(
            index=index,
            label=label,
            predicted=predicted,
            radius=radius,
            correct=None if label is None else predicted == label,
            selected=selected,
            p_lower=bound,
            n0=sampling.n0,
            n=len(classes_N),
            selection_classes=selection_classes,
            selection_counts=selection_counts,
            classes=classes,
            counts=counts,
            audited=audit.audited,
            disagreed=audit.disagreed,
            method="standard" if isinstance(sampler, StandardSampler) else "srs",
            stopped=estimation.stopped,
            audit_share=estimation.audit_share,
            look_n=None if looks is None else [look.n for look in looks],
            look_hits=None if looks is None else [look.hits for look in looks],
            look_audited=None if looks is None else [look.audited for look in looks],
            look_disagreed=None if looks is None else [look.disagreed for look in looks],
            function_evaluations=selection.evaluations + estimation.evaluations,
            reference_evaluations=audit.evaluations + estimation.pilot.evaluations,
            fallbacks=sum(part.fallbacks for part in (selection, estimation, audit, estimation.pilot)),
            unconverged=sum(part.unconverged for part in (selection, estimation, audit, estimation.pilot)),
            sigma=self.sigma,
            seconds=time.perf_counter() - started,
            device=device_name(self.model.device),
            dtype=str(self.model.network_dtype).removeprefix("torch."),
            batch=self.batch,
        )

    def _sampler(self, base: BaseClassifier, point: NoisyPoint) -> Sampler:
        sampling = self.sampling
        if isinstance(sampling, StandardSampling):
            return StandardSampler(base, point)
        return SerializedSampler(
            self.model, point, sampling.setting, sampling.warmup_steps, sampling.chains, self.batch
        )

    def _estimate(
        self, base: BaseClassifier, point: NoisyPoint, sampler: Sampler, selected: int, selection_hits: np.ndarray
    ) -> tuple[Sampler, Estimation]:
        """The estimation stage by the sampler that drew the selection, or by another that this speaks for."""
        sampling, certificate, most = self.sampling, self.certificate, self.sampling.max_nonfinite
        if sampling.looks is None:
            bound = certificate.kind, certificate.alpha, certificate.audit
            return sampler, estimate(sampler, base, point, selected, sampling.n, most, *bound)
        pilot = NO_AUDIT
        if isinstance(sampling, AutoSampling):
            chained = selection_hits[selection_hits >= sampling.chains]  # not the first of a chain, which is warmed up
            audited = (chained if len(chained) else selection_hits)[-PILOT_AUDITS:]
            pilot = audit_samples(base, point, audited, selected, Stage.SELECTION)
            plan = self._chosen(len(selection_hits), pilot, chained=len(chained) > 0)
            if not plan.is_audited:
                sampler = StandardSampler(base, point)
        else:
            plan = self._ways(1.0)[0].plan
        chains = sampling.chains if isinstance(sampling, SerializedSampling) else 1
        done = estimate_by_looks(sampler, base, point, selected, most, plan, self._goal, chains)
        return sampler, replace(done, pilot=pilot)

    @cached_property
    def _goal(self) -> Goal:
        looks = self.sampling.looks
        assert looks is not None
        return Goal(looks.p_targets(self.sigma), looks.futility)

    def _ways(self, reference_evaluations: float) -> list[Way]:
        """How a point may be certified by looks, where one run of the base classifier costs that much."""
        sampling, certificate = self.sampling, self.certificate
        assert sampling.looks is not None
        kind, alpha, n = certificate.kind, certificate.alpha, sampling.n
        if isinstance(sampling, StandardSampling):
            return [Way(sampling.looks.plan(kind, alpha, n), reference_evaluations)]
        steps = float(sampling.setting.steps)
        if not isinstance(sampling, AutoSampling):
            return [Way(sampling.looks.plan(kind, alpha, n, certificate.audit_share), steps, reference_evaluations)]
        plans = (sampling.looks.plan(kind, alpha, n, share) for share in AUDIT_SHARES)
        warm_up = sampling.warmup_steps - steps
        serialized = [Way(plan, steps, reference_evaluations, warm_up, sampling.chains) for plan in plans]
        return [Way(sampling.looks.plan("mixture", alpha, n), reference_evaluations), *serialized]

    def _chosen(self, hits: int, audit: Audit, chained: bool) -> LookPlan:
        """The plan that the point's selection speaks for, by its hits and the audit of some.

        An audit of samples that are not `chained` says what F costs, and nothing of how often chains disagree with it.
        """
        sampling = self.sampling
        assert isinstance(sampling, AutoSampling)
        reference = audit.evaluations / audit.audited if audit.audited else float(sampling.reference.steps)
        pilot = Pilot(sampling.n0, hits, *((audit.audited, audit.disagreed) if chained else (0, 0)))
        return choose(self._ways(reference), pilot, self._goal, sampling.most_lost).plan


def image_fault(x_CHW: Tensor, shape: tuple[int, int, int]) -> str | None:
    """What keeps a tensor from being an image of that shape with pixels in [0, 1]; None if nothing does."""
    if tuple(x_CHW.shape) != shape:
        return f"the model takes images of shape {shape}, found {tuple(x_CHW.shape)}"
    if not x_CHW.is_floating_point():
        return f"pixels are floating-point numbers in [0, 1], found {x_CHW.dtype}: divide 8-bit pixels by 255"
    low, high = x_CHW.min().item(), x_CHW.max().item()  # NaN where any pixel is
    if not (low >= 0 and high <= 1):
        return f"pixels lie in [0, 1] and are finite, found {low:g} to {high:g}"
    return None


def selected_class(classes_N: np.ndarray) -> int:
    """The most frequent class, the lowest of those tied; NO_CLASS if samples without a prediction outnumber it."""
    predicted = classes_N[classes_N != NO_CLASS]
    if not len(predicted):
        return NO_CLASS
    counts = np.bincount(predicted)
    winner = int(counts.argmax())
    return winner if counts[winner] >= len(classes_N) - len(predicted) else NO_CLASS


def sparse_counts(classes_N: np.ndarray) -> tuple[list[int], list[int]]:
    """The classes that occur (NO_CLASS among them), ascending, and how often each does."""
    classes, counts = np.unique(classes_N, return_counts=True)
    return classes.tolist(), counts.tolist()


def device_name(device: torch.device) -> str:
    """`cpu`, or the GPU's own name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def use_exact_float32() -> None:
    """On CUDA, float32 means float32 (no TF32), and the same kernels are chosen every time."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def certify_point(
    model: MDEQ,
    x_CHW: Tensor,
    *,
    sigma: float,
    method: str = "srs",
    solver: str | None = None,
    steps: int = 3,
    warmup_steps: int = 10,
    chains: int = 400,
    reference: SolverSetting | None = None,
    n0: int = 100,
    n: int = 10_000,
    max_nonfinite: float = 0.1,
    audit: int = 400,
    alpha: float = 0.001,
    certificate: str | None = None,
    looks: Looks | None = None,
    audit_share: float = 0.15,
    most_lost: float = 0.02,
    seed: int = 0,
    index: int = 0,
    label: int | None = None,
    batch: int | None = None,
    noise: str = "auto",
) -> PointRow:
    """Certifies one image in [0, 1], shape (C, H, W), in this process; the row has the columns of a run directory.

    `method` is `srs`, `standard`, which ignores what belongs to chains and audits, or `auto`, either of them as the
    point's selection speaks for. `looks` (which `auto` needs) ends sampling when its target radii are certified or
    futile, and then `audit_share` of the hits are audited instead of `audit`. What is certified is the base
    classifier `reference` (the architecture's own where None) smoothed by noise `sigma`: with probability at least
    1 - alpha over the sampling, it predicts `row.predicted` everywhere within l2 distance `row.radius` of the image.
    `index` keys the noise: the row of a run's point has its position in the data set here. `certificate` where None is
    `exact` for srs and auto, for standard `cohen`, with looks `mixture`. `auto` chooses the audit share itself, and by
    its own forecast loses at most a share `most_lost` of the targets. Raises ValueError for settings that are out of
    range or do not go together and for what is no image in [0, 1]; PointError where more than a share `max_nonfinite`
    of the samples of a stage have no finite logits.
    """
    fault = image_fault(x_CHW, model.config.input_shape)
    if fault is not None:
        raise ValueError(fault)
    if index < 0:
        raise ValueError(f"index is {index}, expected at least 0")
    reference = reference or model.config.reference
    sampling: StandardSampling | SerializedSampling
    if method == "standard":
        sampling = StandardSampling(reference, n0, n, max_nonfinite, looks)
        settings = Certificate(certificate or ("cohen" if looks is None else "mixture"), alpha)
    elif method in ("srs", "auto"):
        setting = SolverSetting.named(reference.solver.name if solver is None else solver, steps)
        settings_of_chains = (setting, reference, n0, n, chains, warmup_steps, max_nonfinite, looks)
        if method == "srs":
            sampling = SerializedSampling(*settings_of_chains)
        else:
            sampling = AutoSampling(*settings_of_chains, most_lost=most_lost)
        audits = {"audit": audit} if looks is None else {"audit_share": audit_share}
        settings = Certificate(certificate or "exact", alpha, **audits)
    else:
        raise ValueError(f"no sampling method {method!r}; there are srs, standard and auto")
    certifier = PointCertifier(
        model=model,
        sampling=sampling,
        certificate=settings,
        sigma=sigma,
        generator=noise_generator(noise, model.device),
        seed=seed,
        batch=default_batch(model.config, model.device.type) if batch is None else batch,
    )
    return certifier.certify(x_CHW, index, label)
