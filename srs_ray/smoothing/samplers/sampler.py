"""The interface of a sampling method: the sampler of a point, the plan of its estimation, and the settings of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, Self

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from srs_ray.settings import Radius, Settings
from srs_ray.smoothing.audit import AuditRule, Fixed
from srs_ray.smoothing.bounds import Bound
from srs_ray.smoothing.certificate import CertificateSettings
from srs_ray.smoothing.plan import Goal, Plan
from srs_ray.smoothing.radius import target_p
from srs_ray.solvers.settings import SolverSettings

if TYPE_CHECKING:  # results are read without torch
    from srs_ray.smoothing.base_classifier import BaseClassifier, Predictions
    from srs_ray.smoothing.domain import Domain
    from srs_ray.smoothing.noise import NoisyPoint
    from srs_ray.solvers.iteration import SolverSetting

Row = Mapping[str, Any]


def _unset_for_selection(candidate: Any) -> Any:
    return None if candidate == "selection" else candidate


class Sampler(Protocol):
    """Draws the samples first, first + 1, ..., first + count - 1 of a domain of one point, in the order of domains.

    `method` is what rows call it. Sample i is of chain i mod `chains`; with one chain samples are independent. `steps`
    are the solver's for an estimation sample, None where it is the base classifier's own.
    """

    @property
    def method(self) -> str: ...

    @property
    def chains(self) -> int: ...

    @property
    def steps(self) -> int | None: ...

    def draw(self, domain: Domain, count: int, first: int = 0) -> Predictions: ...


@dataclass(frozen=True)
class Selection:
    """A point's candidate class, which of the selection samples said it, and what they cost (none: it is the label)."""

    selected: int
    hit_N: np.ndarray
    evaluations: int = 0


@dataclass(frozen=True)
class Cost:
    """What part of a point took: evaluations, naive steps instead of Anderson's, solves that missed the tolerance."""

    evaluations: int = 0
    fallbacks: int = 0
    unconverged: int = 0

    @classmethod
    def of(cls, drawn: Predictions) -> Cost:
        """That of samples."""
        return cls(drawn.evaluations, drawn.fallbacks, drawn.unconverged)

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.evaluations + other.evaluations,
            self.fallbacks + other.fallbacks,
            self.unconverged + other.unconverged,
        )


class LookSettings(Settings):
    """The looks: sample counts n, n/growth, n/growth^2, ..., not below `first`, at which sampling of a point may stop.

    docs/statistics.md says why the certificate holds whenever sampling ends.
    """

    first: int = Field(100, ge=1, description="Smallest sample count of a look.")
    growth: float = Field(1.25, gt=1, description="Ratio of the sample counts of two neighbouring looks.")
    power: float = Field(
        2.0, gt=0, description="alpha is spent over the looks as (size / n)^power; `mixture` spends none."
    )
    futility: float = Field(
        0.01, gt=0, lt=1, description="Risk of giving up a radius that all n samples would certify."
    )


class Looks(LookSettings):
    """Looks with their target radii, as Python callers give them together."""

    target_radii: Annotated[tuple[Radius, ...], Field(min_length=1)]

    def __init__(self, target_radii: Any, **settings: Any) -> None:
        super().__init__(**{"target_radii": target_radii, **settings})


class SamplingSettings(Settings):
    """Settings of every sampling method: n0 samples select the class, n estimate its rate.

    With `candidate: label` a row certifies the label or abstains; it certifies no other class.

    A subclass declares the parts that a model `needs`, whether its samples are `audited`, the default share of hits
    audited by looks (None: chosen for each point), the `version` of sampling that last changed what this method draws,
    and its `former` settings, which are read only for older runs.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    audited: ClassVar[bool] = False
    default_audit_share: ClassVar[float | None] = None
    version: ClassVar[int] = 0
    former: ClassVar[tuple[str, ...]] = ()

    n0: int = Field(100, ge=0, description="Selection samples; with `candidate: label`: 0.")
    n: int = Field(10_000, ge=1, description="Estimation samples; with target radii: the most that are drawn.")
    target_radii: Annotated[tuple[Radius, ...], Field(min_length=1)] | None = Field(
        None,
        description="Radii to decide; sampling of a point stops when each is certified or futile. null: draw all n "
        "samples.",
    )
    looks: LookSettings | None = Field(None, description="When sampling may stop; only with target radii.")
    max_nonfinite: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Largest share of a stage's samples without finite logits; above it the point is an error.",
    )
    reference: SolverSettings | None = Field(None, description="Solver of the base classifier; default: the model's.")
    candidate: Annotated[Literal["label"] | None, BeforeValidator(_unset_for_selection)] = Field(
        None, description="Where the class comes from: `selection` samples (null), or the `label`."
    )

    @model_validator(mode="before")
    @classmethod
    def _draws_no_selection_for_labels(cls, raw: Any) -> Any:
        return {"n0": 0, **raw} if isinstance(raw, Mapping) and raw.get("candidate") == "label" else raw

    @model_validator(mode="after")
    def _selects_a_class(self) -> Self:
        if (self.n0 == 0) != (self.candidate == "label"):
            raise ValueError(
                f"n0 is {self.n0}: with candidate label no samples select a class, leave n0 out"
                if self.candidate
                else "n0 is 0: without samples nothing selects a class; candidate: label takes the label for it"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _has_looks_for_targets(cls, raw: Any) -> Any:
        if isinstance(raw, Mapping):
            targets, looks = raw.get("target_radii"), raw.get("looks")
            if targets is not None and looks is None:
                return {**raw, "looks": {}}
            if targets is None and looks is not None:
                raise ValueError("looks are for target_radii: name these, or leave looks out")
        return raw

    @property
    def method_name(self) -> str:
        """The method's name in job files."""
        return str(type(self).model_fields["method"].default)

    @property
    def by_looks(self) -> bool:
        """Whether a point may be done before all n samples are drawn."""
        return self.looks is not None

    @property
    def without_effect(self) -> tuple[str, ...]:
        """The former settings that are set, and mean nothing for a new run."""
        return tuple(name for name in self.former if getattr(self, name) is not None)

    @property
    def at_once(self) -> int | None:
        """How many samples can be drawn side by side; None: any number."""
        return None

    @property
    def steps_of_a_sample(self) -> SolverSetting | None:
        """The solver's steps that a sample takes; None: those of the base classifier."""
        return None

    def sampler(self, base: BaseClassifier, point: NoisyPoint) -> Sampler:
        """What draws the selection samples of this point."""
        raise TypeError(f"{type(self).__name__} draws no samples")

    def plan(self, certificate: CertificateSettings) -> Plan:
        """The plan of a point's estimation; of several, the one with the largest bound. ValueError if there is none."""
        return self.plan_by(certificate.bound, certificate)

    def plan_by(self, bound: Bound, certificate: CertificateSettings, audit: AuditRule | None = None) -> Plan:
        """A plan by this bound at the certificate's alpha; `audit` None: the certificate's."""
        if audit is None:
            audit = certificate.audits if bound.audited else Fixed(0)
        if self.looks is None:
            return Plan.fixed(bound, certificate.alpha, self.n, audit)
        looks = self.looks
        return Plan.geometric(
            bound, certificate.alpha, self.n, first=looks.first, growth=looks.growth, power=looks.power, audit=audit
        )

    def describe_audit(self, certificate: CertificateSettings) -> str:
        """The audit in words."""
        return certificate.audits.describe()

    def goal(self, sigma: float) -> Goal:
        """The bounds to pass for the target radii; ValueError for a radius that no bound earns."""
        if self.looks is None or self.target_radii is None:
            return Goal()
        return Goal(tuple(target_p(radius, sigma) for radius in self.target_radii), self.looks.futility)

    def decide(
        self, certificate: CertificateSettings, goal: Goal, base: BaseClassifier, point: NoisyPoint, sampler: Sampler,
        selection: Selection,
    ) -> tuple[Sampler, Plan, Cost]:  # fmt: skip
        """How a point is estimated once its class is selected, and what it took to decide that."""
        return sampler, self.plan(certificate), Cost()

    def title(self, reference: str) -> str:
        """As the literature writes it, such as 'SRS 3A', with the base classifier's solver setting."""
        raise TypeError(f"{type(self).__name__} has no title")

    def former_title(self, reference: str) -> str:
        """The title of a run that was sampled before `version`."""
        return self.title(reference)

    def fault_of(self, method: str | None, steps: int | None, audit_share: float | None) -> str | None:
        """What keeps a row of that method, steps and share from being one of these settings; None where nothing does.

        Rows of older programs name neither.
        """
        own = getattr(self, "steps", None)
        if method is not None and method != self.method_name:
            return f"method {method!r}, the run's is {self.method_name}"
        if steps is not None and steps != own:
            return f"steps {steps}, the run's are {'of the base classifier' if own is None else own}"
        return None

    def price(self, row: Row) -> tuple[float, int]:
        """Evaluations of a row's point that were spent on samples of one kind, and how many these are."""
        return row["function_evaluations"], row["n0"] + row["n"]

    def evaluations_of(self, row: Row, n: int) -> float:
        """The sampler's evaluations of a row's point, had at most n estimation samples been drawn."""
        return row["function_evaluations"] * (row["n0"] + n) / (row["n0"] + row["n"])

    def evaluations_by_steps(self, row: Row, steps: int) -> float:
        """The sampler's evaluations of a row's point, had its solves taken so many steps each."""
        return row["function_evaluations"]
