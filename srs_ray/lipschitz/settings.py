"""The job's section `certificate` of a deterministic certificate, and the sentences that stand by its numbers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from srs_ray.settings import Settings

LIPSCHITZ = "lipschitz"
LIPSCHITZ_VERSION = 1  # raised when a change to the program can change a radius beyond rounding

GUARANTEE = (
    "each certificate holds for certain, for the exact equilibrium in real arithmetic of the model that the stored "
    "weights are; the distance of the solver here to the equilibrium and a bound on the rounding of this computation "
    "(float64, unit 2^-53) are subtracted from the margin. A solver that is deployed has a distance of its own"
)


class LipschitzCertificate(Settings):
    """`lipschitz`: the margin of the exact equilibrium's logits over proved Lipschitz constants; no noise, no alpha."""

    kind: Literal["lipschitz"] = Field(description="A deterministic certificate of a model with proved constants.")
    steps: int = Field(500, ge=1, description="Largest number of solver steps of a point, in float64.")
    tolerance: float = Field(
        1e-6, gt=0, description="Proved error of logit differences at which a point's solve stops; it is subtracted."
    )

    def describe(self) -> str:
        """The line that stands beside every number."""
        return (
            "lipschitz: least over other classes of (difference of logits, less the proved error of solver and "
            f"rounding) / proved pair constant; at most {self.steps:,} steps, to a proved error of {self.tolerance:g}; "
            "no noise, no alpha"
        )

    def fingerprint(self) -> dict[str, Any]:
        """The settings that can change a row, by dotted name."""
        return {
            "certificate.kind": self.kind,
            "certificate.steps": self.steps,
            "certificate.tolerance": self.tolerance,
            "lipschitz.version": LIPSCHITZ_VERSION,
        }


def lipschitz_radius(margin: float, allowance: float, constant: float) -> float:
    """(margin - allowance) / constant, rounded towards 0; 0.0 where nothing is left.

    The factor covers the roundings of these three operations, and is far below what any reader of a radius sees.
    """
    if not constant > 0 or not margin - allowance > 0:
        return 0.0
    return (margin - allowance) / constant * (1.0 - 2.0**-48) - 2.0**-48 * margin / constant
