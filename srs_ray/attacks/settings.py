"""The job's section `attack`: what `srs-ray attack` tries on each point, read without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from srs_ray.errors import JobError
from srs_ray.settings import Probability, Radius, Settings

Kind = Literal["pgd", "smooth-pgd"]
States = Literal["final", "intermediate", "both"]
_OTHER_CHECKS = 2  # that of the unmoved image, and that at the point's own certified radius


class AttackSettings(Settings):
    """What is tried on each point. All of it is in the fingerprint of an attack's directory."""

    kinds: tuple[Kind, ...] = Field(
        ("pgd", "smooth-pgd"),
        min_length=1,
        description="`pgd` attacks the base classifier without noise, `smooth-pgd` the smoothed classifier.",
    )
    radii: tuple[Annotated[Radius, Field(gt=0)], ...] | None = Field(
        None,
        min_length=1,
        description="l2 radii, in pixel units of [0, 1]; null: the radii of `report` above 0. Smooth-PGD also tries "
        "just inside each point's own certified radius.",
    )
    steps: int = Field(20, ge=1, description="Steps of PGD, each 2.5 radius / steps long.")
    restarts: int = Field(1, ge=1, description="Starts at each radius: the image, then random places on the sphere.")
    draws: int = Field(16, ge=1, description="Noise draws of a gradient of Smooth-PGD, fresh at each step.")
    states: States = Field(
        "final",
        description="Where the gradient of an equilibrium is taken: at its `final` state, averaged over "
        "`intermediate` states of an unrolled solve, or `both`, one after the other.",
    )
    n_check: int = Field(1000, ge=1, description="Fresh noisy samples by which a found image is checked.")
    alpha: Probability = Field(
        0.001, description="Largest probability, for each point, that an image which breaks nothing passes a check."
    )
    pixels: Literal["clipped", "any"] = Field(
        "clipped", description="`clipped` keeps the pixels of found images in [0, 1]; `any` lets them leave it."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of all noise of attacks and checks.")

    @field_validator("kinds", "radii")
    @classmethod
    def _in_order(cls, given: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        return None if given is None else tuple(sorted(set(given)))

    def with_radii(self, report: Sequence[float]) -> AttackSettings:
        """The same with its radii, by default those above 0 of a report.

        Raises JobError where there are none, and where no outcome of `n_check` samples could pass a check.
        """
        radii = self.radii or tuple(sorted({radius for radius in report if radius > 0}))
        if not radii:
            raise JobError("attack.radii: the job's report has no radius above 0 to attack at: set attack.radii")
        made = self.model_copy(update={"radii": radii})
        least = 2 * 0.5**self.n_check
        if least > made.alpha_of_a_check:
            raise JobError(
                f"attack.n_check is {self.n_check}, and even if all samples were of another class the test would not "
                f"reach attack.alpha {self.alpha:g} over {made.checks} checks a point: set attack.n_check higher"
            )
        return made

    @property
    def checks(self) -> int:
        """The most checks of one point."""
        return len(self.radii or ()) + _OTHER_CHECKS

    @property
    def alpha_of_a_check(self) -> float:
        """The level of each test, so that all of a point together keep `alpha` (Bonferroni)."""
        return self.alpha / self.checks

    @property
    def samples(self) -> int:
        """About how many noisy samples one point takes at most, a gradient counted as three."""
        variants = (2 if self.states == "both" else 1) * self.restarts
        return self.checks * (self.n_check + 3 * variants * self.steps * self.draws)

    def fingerprint(self) -> dict[str, Any]:
        """The settings by their dotted names."""
        return {f"attack.{name}": value for name, value in self.model_dump(mode="json").items()}
