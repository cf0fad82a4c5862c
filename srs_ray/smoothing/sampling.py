"""How a point is to be sampled and certified, as the certifier takes it: values, checked where they go together."""

from __future__ import annotations

from dataclasses import dataclass

from srs_ray.smoothing.looks import LookPlan, target_p
from srs_ray.solvers.iteration import SolverSetting


@dataclass(frozen=True)
class Looks:
    """Sampling ends when each of `target_radii` (l2, pixel units of [0, 1]) is certified or futile, at a planned look.

    The looks are at `first` samples or a little above and grow by `growth` up to n; alpha is spent over them by
    `power`; `futility` is the risk of giving up a radius that all n samples would certify (srs_ray.smoothing.looks).
    """

    target_radii: tuple[float, ...]
    first: int = 100
    growth: float = 1.25
    power: float = 2.0
    futility: float = 0.01

    def plan(self, kind: str, alpha: float, n: int, audit_share: float = 0.0) -> LookPlan:
        """The looks of a certificate; ValueError for what does not go together."""
        return LookPlan.geometric(
            kind, alpha, n, first=self.first, growth=self.growth, power=self.power, audit_share=audit_share
        )

    def p_targets(self, sigma: float) -> tuple[float, ...]:
        """What the bound is to pass for each target radius."""
        return tuple(target_p(radius, sigma) for radius in self.target_radii)


@dataclass(frozen=True)
class StandardSampling:
    """Standard sampling: n0 samples select the class, n estimate its rate, all by the base classifier `reference`.

    A stage in which more than a share `max_nonfinite` of the samples have no finite answer makes the point an error.
    With `looks` fewer than n samples may be enough.
    """

    reference: SolverSetting
    n0: int = 100
    n: int = 10_000
    max_nonfinite: float = 0.1
    looks: Looks | None = None


@dataclass(frozen=True)
class SerializedSampling:
    """Serialized sampling by `setting` on `chains` chains; the base classifier `reference` is what is certified.

    `max_nonfinite` and `looks` are as in StandardSampling.
    """

    setting: SolverSetting
    reference: SolverSetting
    n0: int = 100
    n: int = 10_000
    chains: int = 400
    warmup_steps: int = 10
    max_nonfinite: float = 0.1
    looks: Looks | None = None


@dataclass(frozen=True)
class AutoSampling(SerializedSampling):
    """By each point's selection samples, serialized or standard sampling, whichever is expected to cost less.

    A way that is expected to lose more than a share `most_lost` of the target radii is not taken.
    """

    most_lost: float = 0.02


@dataclass(frozen=True)
class Certificate:
    """Which bound, at which error probability alpha.

    `audit` is K, how many hits are audited (0 for cohen); by looks, `audit_share` is the share of them instead.
    """

    kind: str
    alpha: float = 0.001
    audit: int = 0
    audit_share: float = 0.0
