"""Attacks one certified point: PGD on the base classifier, Smooth-PGD on the smoothed one, each image checked.

Shapes: M noisy copies, C channels, H and W pixels.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from srs_ray.attacks.gradients import LogProbability, State
from srs_ray.attacks.pgd import Ball, ascend, l2_norm, smoothed_slope
from srs_ray.attacks.row import AttackRow
from srs_ray.attacks.settings import AttackSettings
from srs_ray.attacks.valid_images import as_it_is, on_the_grid
from srs_ray.errors import PointError
from srs_ray.models.devices import device_name, use_exact_float32
from srs_ray.models.opened import Opened
from srs_ray.smoothing.base_classifier import NO_CLASS, BaseClassifier, predicted_classes
from srs_ray.smoothing.candidate import ABSTAIN
from srs_ray.smoothing.judge import image_fault
from srs_ray.smoothing.noise import Domain, GridNoise, NoiseGenerator, NoisyPoint
from srs_ray.smoothing.predict import prediction_of
from srs_ray.smoothing.row import pixel_digest
from srs_ray.solvers.iteration import solve

AT_ONCE = {
    "cpu": 16,
    "cuda": 256,
}  # noisy samples of a gradient that are in memory together, if the batch is no smaller
INSIDE = 1.0 - 1e-6  # of the certified radius: a certificate holds below it
SCREENED = 64  # noisy samples by which the best found image is chosen, and whether a check of it is worth its cost
PROMISING = 48  # of them, of the attacked class: where it is the less frequent one, more have a probability of 3e-5


@dataclass(frozen=True)
class Certified:
    """What a run says of a point: its class (-1: abstains), its radius, and the digest of its pixels if known."""

    predicted: int
    radius: float
    pixels: str | None = None


@dataclass(frozen=True)
class Attacker:
    """All that attacks need, but the point. `settings` have their radii; `batch` is as certification has it.

    Rows of the same settings on the same kind of device are equal, whatever process made them.
    """

    model: Opened
    sigma: float
    generator: NoiseGenerator
    settings: AttackSettings
    batch: int

    def attack(self, x_CHW: Tensor, index: int, label: int, certified: Certified) -> AttackRow:
        """The row of one point: image in [0, 1], its position in the data set (it keys the noise), its true class.

        Raises PointError for what is no such image, or another than the certified one, and a label that is no class.
        """
        started = time.perf_counter()
        model = self.model
        fault = image_fault(x_CHW, model.input_shape) or self.generator.fault(x_CHW)
        if fault is None and not 0 <= label < model.classes:
            fault = f"label is {label}, expected 0 to {model.classes - 1}"
        digest = pixel_digest(x_CHW)
        if fault is None and certified.pixels not in (None, digest):
            fault = "its pixels are not those that were certified: attack with the data of the run"
        if fault is not None:
            raise PointError(fault)
        use_exact_float32()
        x_CHW = x_CHW.to(model.device, torch.float32)
        attacked = label if certified.predicted == ABSTAIN else certified.predicted
        search = _Search(self, x_CHW, index, attacked)
        if "pgd" in self.settings.kinds:
            search.base()
        if "smooth-pgd" in self.settings.kinds:
            search.smoothed(certified.radius if certified.predicted != ABSTAIN else 0.0)
        certain = certified.predicted != ABSTAIN and search.distance is not None and search.distance < certified.radius
        return AttackRow(
            index=index,
            label=label,
            pixels=digest,
            predicted=certified.predicted,
            radius=certified.radius,
            attacked=attacked,
            correct=attacked == label,
            contradicts=certain,
            **search.columns(),
            sigma=self.sigma,
            seconds=time.perf_counter() - started,
            device=device_name(model.device),
            dtype=str(model.network_dtype).removeprefix("torch."),
            batch=self.batch,
        )


@dataclass
class _Checked:
    """The images that were checked, as lists by the order of checks."""

    distances: list[float] = field(default_factory=list)
    hits: list[int] = field(default_factory=list)
    classes: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    p_values: list[float] = field(default_factory=list)


class _Search:
    """One point under attack: what was found, and at what cost."""

    def __init__(self, attacker: Attacker, x_CHW: Tensor, index: int, attacked: int) -> None:
        self.attacker, self.x_CHW, self.index, self.attacked = attacker, x_CHW, index, attacked
        self.settings, self.model = attacker.settings, attacker.model
        self.at_once = min(attacker.batch, AT_ONCE.get(self.model.device.type, attacker.batch))
        self.drawn = self.checked_samples = 0  # numbers of the samples of both domains that are used up
        self.evaluations = self.gradients = 0
        self.tried: list[float] = []
        self.screened: list[int] = []
        self.checked = _Checked()
        self.distance: float | None = None
        self.found_class: int | None = None
        self.base_class: int | None = None
        self.base_distance: float | None = None

    def columns(self) -> dict[str, Any]:
        """What was found, by the columns of a row."""
        return {
            "tried_radii": self.tried,
            "screened_hits": self.screened,
            "check_distances": self.checked.distances,
            "check_hits": self.checked.hits,
            "check_classes": self.checked.classes,
            "check_counts": self.checked.counts,
            "check_p_values": self.checked.p_values,
            "evaluations": self.evaluations,
            "gradients": self.gradients,
            "distance": self.distance,
            "found_class": self.found_class,
            "base_class": self.base_class,
            "base_distance": self.base_distance,
        }

    def base(self) -> None:
        """PGD on the base classifier without noise, at each radius until its class changes."""
        self.base_class = self._class_of(self.x_CHW)
        if self.base_class == NO_CLASS:
            return
        for radius in self.settings.radii or ():
            found = self._candidates(radius, self.base_class, smoothed=False)
            changed = [distance for image_CHW, distance in found if self._class_of(image_CHW) != self.base_class]
            if changed:
                self.base_distance = min(changed)
                return

    def smoothed(self, certified_radius: float) -> None:
        """Checks the image itself, then Smooth-PGD at each radius until the smoothed classifier is broken."""
        self.tried.append(0.0)
        if self._breaks([(self.x_CHW, 0.0)]):
            return
        radii = {*(self.settings.radii or ())} | ({INSIDE * certified_radius} if certified_radius > 0 else set())
        for radius in sorted(radii):
            self.tried.append(radius)
            if self._breaks(self._candidates(radius, self.attacked, smoothed=True)):
                return

    def _candidates(self, radius: float, label: int, smoothed: bool) -> list[tuple[Tensor, float]]:
        """Found images at this radius with their distances, one for each start and each kind of gradient."""
        ball = Ball(self.x_CHW, radius, self.settings.pixels == "clipped")
        states: tuple[State, ...] = ("final",)
        if self.model.parts and self.settings.states != "final":
            states = ("final", "intermediate") if self.settings.states == "both" else ("intermediate",)
        place = on_the_grid if isinstance(self.attacker.generator, GridNoise) else as_it_is
        found = []
        for state in states:
            log_p = LogProbability(self.model, state)
            for restart in range(self.settings.restarts):
                start_CHW = torch.zeros_like(self.x_CHW) if restart == 0 else self._on_the_sphere(radius)
                slope_of = partial(self._slope, partial(log_p, label=label), smoothed)
                moved_CHW = ascend(slope_of, ball, start_CHW, self.settings.steps)
                found.append(place(self.x_CHW, moved_CHW, radius, ball.clipped))
            self.evaluations += log_p.evaluations
        return found

    def _slope(self, log_p: Any, smoothed: bool, image_CHW: Tensor) -> Tensor:
        """The gradient of the loss at an image, by fresh noise where the loss is smoothed."""
        self.gradients += self.settings.draws if smoothed else 1
        return smoothed_slope(
            log_p, image_CHW, self._noise() if smoothed else iter([torch.zeros_like(image_CHW[None])])
        )

    def _noise(self) -> Iterator[Tensor]:
        """The noise of one gradient, in parts (M, C, H, W)."""
        numbers = self._numbers(self.settings.draws)
        point = self._noisy(self.x_CHW)
        for first in range(0, len(numbers), self.at_once):
            yield point.samples(Domain.ATTACK, numbers[first : first + self.at_once]) - self.x_CHW

    def _on_the_sphere(self, radius: float) -> Tensor:
        """A random movement as long as the radius."""
        [noise_CHW] = self._noisy(self.x_CHW).samples(Domain.ATTACK, self._numbers(1)) - self.x_CHW
        return radius * noise_CHW / l2_norm(noise_CHW)

    def _numbers(self, count: int) -> range:
        """Numbers of that many samples of the attack's noise that were not drawn yet."""
        self.drawn += count
        return range(self.drawn - count, self.drawn)

    def _noisy(self, image_CHW: Tensor) -> NoisyPoint:
        attacker = self.attacker
        return NoisyPoint(image_CHW, attacker.sigma, self.settings.seed, self.index, attacker.generator)

    def _breaks(self, found: Sequence[tuple[Tensor, float]]) -> bool:
        """Whether the best of the found images breaks the smoothed classifier, as fresh noise shows.

        The best is the one whose noisy copies are least often of the attacked class, by the same noise for all. The
        check, on fresh noise, is the test of PREDICT (Cohen et al. 2019, proposition 2), at the level of one of the
        point's checks: it shows another class than the attacked one.
        """
        numbers = self._numbers(SCREENED)
        hits = [
            int((self._classify(image_CHW, Domain.ATTACK, numbers) == self.attacked).sum()) for image_CHW, _ in found
        ]
        best = int(np.argmin(hits))
        self.screened.append(hits[best])
        return hits[best] <= PROMISING and self._check(*found[best])

    def _check(self, image_CHW: Tensor, distance: float) -> bool:
        first = self.checked_samples
        self.checked_samples += self.settings.n_check
        classes_N = self._classify(image_CHW, Domain.ATTACK_CHECK, range(first, self.checked_samples))
        said = prediction_of(classes_N, self.settings.alpha_of_a_check)
        others = [
            (count, known)
            for known, count in zip(said.classes, said.counts, strict=True)
            if known not in (self.attacked, NO_CLASS)
        ]
        count, other = max(others, default=(0, NO_CLASS))
        self.checked.distances.append(distance)
        self.checked.hits.append(int((classes_N == self.attacked).sum()))
        self.checked.classes.append(other)
        self.checked.counts.append(count)
        self.checked.p_values.append(said.p_value)
        if said.predicted in (self.attacked, NO_CLASS):
            return False
        self.distance, self.found_class = distance, said.predicted
        return True

    def _classify(self, image_CHW: Tensor, domain: Domain, numbers: Sequence[int]) -> np.ndarray:
        """The classes of noisy copies by the base classifier, as certification draws and classifies them."""
        said = BaseClassifier.of(self.model, self.attacker.batch).predict(self._noisy(image_CHW), domain, numbers)
        self.evaluations += said.evaluations
        return said.classes_N

    @torch.inference_mode()
    def _class_of(self, image_CHW: Tensor) -> int:
        """The class of an image by the base classifier, without noise."""
        model = self.model
        injection = model.inject(image_CHW.unsqueeze(0).to(model.dtype))
        solution = solve(lambda z_BD: model.f(z_BD, injection), model.start_state(1), model.reference)
        self.evaluations += int(solution.evaluations_B.sum())
        return int(predicted_classes(model.head(solution.z_BD), solution.finite_B)[0])
