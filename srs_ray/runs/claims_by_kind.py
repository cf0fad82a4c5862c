"""Which claims the rows of a run make: by counts of samples, or by a deterministic certificate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf, isclose, isfinite
from typing import Any

from srs_ray.lipschitz.settings import LIPSCHITZ, LIPSCHITZ_VERSION, LipschitzCertificate, lipschitz_radius
from srs_ray.runs.claims import LIMITS, MOST_ATTEMPTS, Claims, expect, sections_of
from srs_ray.runs.parts import ROWS_OF_A_PART
from srs_ray.runs.schema import EVIDENCE, Row, check_columns

_ROUNDING = 1e-9
_ABSTAIN = -1


def claims_of(fingerprint: Mapping[str, Any]) -> Claims | DeterministicClaims | None:
    """Of a run's fingerprint; None where it names no certificate. ValueError for settings that cannot be."""
    if fingerprint.get("certificate.kind") == LIPSCHITZ:
        return DeterministicClaims.by(fingerprint)
    return Claims.by(fingerprint)


@dataclass(frozen=True)
class DeterministicClaims:
    """A row's radius follows from its margin, allowance and constant; certifying its point again proves those."""

    images: int | None = None

    @property
    def most_rows(self) -> float:
        """As of `Claims`."""
        return inf if self.images is None else max(ROWS_OF_A_PART, MOST_ATTEMPTS * self.images)

    @classmethod
    def by(cls, fingerprint: Mapping[str, Any]) -> DeterministicClaims:
        """Of a run's fingerprint; ValueError for settings that cannot be."""
        LipschitzCertificate.model_validate(sections_of(fingerprint)["certificate"])
        version = fingerprint.get("lipschitz.version")
        if not isinstance(version, int) or not 1 <= version <= LIPSCHITZ_VERSION:
            raise ValueError(f"lipschitz.version is {version!r}, expected 1 to {LIPSCHITZ_VERSION}")
        return cls(fingerprint.get("data.points"))

    def fault(self, rows: Iterable[Row]) -> str | None:
        """What is wrong with the first row whose radius does not follow from its evidence; None where all do."""
        for row in rows:
            try:
                self._check(row)
            except (ValueError, TypeError, KeyError, ArithmeticError) as error:
                return f"its row of point {row.get('index')} is not what its evidence says: {error}"
        return None

    def _check(self, row: Row) -> None:
        check_columns(row)
        index = row["index"]
        expect(index is not None and index >= 0 and (self.images is None or index < self.images), "its index")
        for name, least, most in LIMITS:
            expect(row[name] is None or least <= row[name] <= most, f"{name} {row[name]}")
        if row["status"] != "ok":
            return
        expect(all(row[name] is None for name in (*EVIDENCE["sampling"], "sigma")), "evidence of samples")
        leading, runner_up = row["leading"], row["runner_up"]
        expect(leading >= 0 and runner_up >= 0 and leading != runner_up, f"leading {leading}, runner_up {runner_up}")
        numbers = [row[name] for name in ("logit_margin", "allowance", "pair_constant")]
        expect(all(map(isfinite, numbers)) and min(numbers[1:]) >= 0, "logit_margin, allowance and pair_constant")
        expect(row["layer_evaluations"] >= 1, f"layer_evaluations {row['layer_evaluations']}")
        found = max(lipschitz_radius(*numbers), 0.0)
        alike = (row["radius"] > 0) == (found > 0) and isclose(row["radius"], found, rel_tol=_ROUNDING)
        expect(alike, f"radius {row['radius']}, by its evidence {found}")
        predicted = leading if row["radius"] > 0 else _ABSTAIN
        expect(row["predicted"] == predicted, f"predicted {row['predicted']}, by its evidence {predicted}")
        correct = predicted == row["label"]
        expect(row["label"] >= 0 and row["correct"] is correct, f"correct {row['correct']}, by its label {correct}")
