"""PREDICT (Cohen et al. 2019): the smoothed classifier's class of one image, or abstention."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor

from srs_ray.models.devices import use_exact_float32
from srs_ray.models.opened import Opened
from srs_ray.smoothing.base_classifier import NO_CLASS, BaseClassifier
from srs_ray.smoothing.bounds.tails import check_alpha
from srs_ray.smoothing.judge import check_seed_and_batch
from srs_ray.smoothing.noise import Domain, NoiseGenerator, NoisyPoint


@dataclass(frozen=True)
class Prediction:
    """The class of one image (-1: abstains), and the samples that it rests on.

    `classes` and `counts` say how often each class was predicted (-1: no finite logits), the most frequent first.
    `p_value` is that of the test that the two most frequent classes are equally likely.
    """

    predicted: int
    p_value: float
    n: int
    classes: list[int]
    counts: list[int]

    @property
    def abstains(self) -> bool:
        """Whether no class could be told from the second one."""
        return self.predicted == NO_CLASS


def predict_point(
    model: Opened, x_CHW: Tensor, sigma: float, n: int, alpha: float, seed: int, index: int, batch: int,
    generator: NoiseGenerator,
) -> Prediction:  # fmt: skip
    """The smoothed classifier's class of an image in [0, 1], or abstention.

    n noisy copies are classified by the base classifier; a two-sided binomial test of the most frequent class against
    the second decides. With probability at least 1 - alpha over the sampling it is the smoothed classifier's own class,
    argmax_c P(F(x + e) = c), or an abstention. The noise has a domain of its own: no certificate shares it. Source:
    Cohen, Rosenfeld, Kolter, ICML 2019, proposition 2. Raises ValueError for settings that are out of range.
    """
    if not 0 < sigma < inf:
        raise ValueError(f"sigma is {sigma}, expected above 0 and finite")
    if n < 1:
        raise ValueError(f"n is {n}, expected at least 1")
    if index < 0:
        raise ValueError(f"index is {index}, expected at least 0")
    check_alpha(alpha)
    check_seed_and_batch(seed, batch)
    generator.law(sigma, x_CHW.numel())  # which refuses a sigma that it cannot draw
    fault = generator.fault(x_CHW)
    if fault is not None:
        raise ValueError(f"the image: {fault}")
    use_exact_float32()
    point = NoisyPoint(x_CHW.to(model.device, torch.float32), sigma, seed, index, generator)
    said = BaseClassifier.of(model, batch).predict(point, Domain.PREDICTION, np.arange(n))
    return prediction_of(said.classes_N, alpha)


def prediction_of(classes_N: np.ndarray, alpha: float) -> Prediction:
    """What these predictions of independent noisy copies say. A copy without a class counts for none."""
    check_alpha(alpha)
    classes, counts = np.unique(classes_N, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    classes, counts = classes[order], counts[order]
    of_classes = counts[classes != NO_CLASS]
    first = int(of_classes[0]) if len(of_classes) else 0
    second = int(of_classes[1]) if len(of_classes) > 1 else 0
    p_value = float(binomtest(first, first + second, 0.5).pvalue) if first else 1.0
    known = classes[classes != NO_CLASS]
    predicted = int(known[0]) if p_value <= alpha else NO_CLASS
    return Prediction(predicted, p_value, len(classes_N), classes.tolist(), counts.tolist())
