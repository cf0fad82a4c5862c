"""What rows claim, held against their own counts by the settings of their run's fingerprint.

A run directory may come from anybody. A certificate is not what a row says, but what its counts give.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import inf, isclose
from typing import Any

from scipy.special import bdtr, bdtrc

from srs_ray.runs.parts import ROWS_OF_A_PART
from srs_ray.runs.schema import Row, check_columns
from srs_ray.smoothing.audit import Fixed, Share, ShareOfAll
from srs_ray.smoothing.bounds import EXACT, MIXTURE, Evidence
from srs_ray.smoothing.candidate import ABSTAIN, NO_CLASS, winner
from srs_ray.smoothing.law import Law, float_law
from srs_ray.smoothing.plan import Plan
from srs_ray.smoothing.smoothing import Smoothing, smoothing_of

_ROUNDING = 1e-9  # bounds and radii by other versions of SciPy, and on other machines, differ by less
_OLDER_SIGMA = 1e-7  # float noise is of a float32, and radii of older programs were of the sigma that it rounds
_WONDER = 1e-15  # probability: of 50,000 rows none has such a number of audits
_SIGMAS = (1e-9, 1e9)  # in pixel units of [0, 1]: no run has any other
_GRID_NOISE = "grid"  # before the names of its generators
_MOST_SAMPLES = 10**12  # of one point
_EVALUATIONS = 10**15  # the same
MOST_ATTEMPTS = 10  # at a point, on average over a run
LIMITS = (
    ("attempt", 1, 10**6),
    ("seconds", 0.0, 1e9),
    ("batch", 1, 2**20),
    ("function_evaluations", 0, _EVALUATIONS),
    ("reference_evaluations", 0, _EVALUATIONS),
    ("fallbacks", 0, _EVALUATIONS),
    ("unconverged", 0, _EVALUATIONS),
)
_NOT_SAMPLING = ("version",)  # entries of a fingerprint under `sampling.` that are no settings


@dataclass(frozen=True)
class Claims:
    """The settings that give a row's counts their meaning, and how many images there are (None: not recorded)."""

    smoothing: Smoothing
    images: int | None = None
    current: bool = False  # whether samples were drawn as this program draws them

    @property
    def most_rows(self) -> float:
        """How many rows a part can have: several attempts at each point, and always as many as compaction joins."""
        return inf if self.images is None else max(ROWS_OF_A_PART, MOST_ATTEMPTS * self.images)

    @classmethod
    def by(cls, fingerprint: Mapping[str, Any]) -> Claims | None:
        """Of a run's fingerprint; None where it names no certificate. ValueError for settings that cannot be."""
        if "certificate.kind" not in fingerprint:
            return None
        sections = sections_of(fingerprint)
        sampling = {name: value for name, value in sections["sampling"].items() if name not in _NOT_SAMPLING}
        sigma = sections.get("noise", {}).get("sigma")
        smoothing = smoothing_of(sigma, sampling, sections["certificate"])
        images = fingerprint.get("data.points")
        deviation, generator = fingerprint.get("noise.deviation"), fingerprint.get("noise.generator")
        if deviation is not None and not str(generator).startswith(_GRID_NOISE):
            raise ValueError(f"noise.deviation is {deviation!r}, and {generator!r} draws no noise on the image grid")
        law = law_of(smoothing.sigma, deviation)
        if smoothing.sampling.n > _MOST_SAMPLES:
            raise ValueError(f"sampling.n is {smoothing.sampling.n!r:.40}, more than any run draws")
        version = fingerprint.get("sampling.version", 0)
        if not isinstance(version, int):
            raise ValueError(f"sampling.version is {version!r}, expected a whole number")
        return cls(replace(smoothing, law=law), images, version >= smoothing.sampling.version)

    def fault(self, rows: Iterable[Row]) -> str | None:
        """What is wrong with the first row that is not what its counts say; None where all are."""
        for row in rows:
            try:
                self._check(row)
            except (ValueError, TypeError, KeyError, ArithmeticError) as error:
                return f"its row of point {row.get('index')} is not what its counts say: {error}"
        return None

    def _check(self, row: Row) -> None:
        check_columns(row)
        index, status = row["index"], row["status"]
        expect(index is not None and index >= 0 and (self.images is None or index < self.images), "its index")
        expect(status in ("ok", "error"), f"status {status!r}")
        for name, least, most in LIMITS:
            expect(row[name] is None or least <= row[name] <= most, f"{name} {row[name]}")
        if status == "ok":
            self._check_counts(row)
            self._check_claim(row)

    def _check_counts(self, row: Row) -> None:
        sampling = self.smoothing.sampling
        expect(row["sigma"] == self.smoothing.sigma, f"sigma {row['sigma']}, the run's is {self.smoothing.sigma}")
        expect(row["n0"] == sampling.n0, f"n0 {row['n0']}, the run's is {sampling.n0}")
        for classes, counts, total in (("selection_classes", "selection_counts", "n0"), ("classes", "counts", "n")):
            here, often = row[classes], row[counts]
            expect(len(here) == len(often) == len(set(here)) and min(here, default=0) >= NO_CLASS, classes)
            expect(min(often, default=1) >= 1 and sum(often) == row[total], f"{counts} do not sum to {total}")
        selected = row["label"]
        if sampling.candidate is None:
            selected = winner(row["selection_classes"], row["selection_counts"])
        expect(row["selected"] == selected, f"selected {row['selected']}, by its selection {selected}")
        self._check_way(row)
        drawn = 0 if selected == NO_CLASS else sampling.n
        expect(row["n"] == drawn or (sampling.by_looks and 1 <= row["n"] <= drawn), f"n {row['n']}")
        self._check_audits(row)

    def _check_way(self, row: Row) -> None:
        """That the row was sampled by the run's method; of `auto` and its like, each row says its own."""
        sampling, audits = self.smoothing.sampling, self.smoothing.certificate.audits
        if self.current and row["selected"] != NO_CLASS:
            fault = sampling.fault_of(row["method"], row["steps"], row["audit_share"])
            expect(fault is None, str(fault))
        if not sampling.by_looks:
            return
        if row["selected"] != NO_CLASS and sampling.default_audit_share is not None:
            expect(row["audit_share"] == audits.share, f"audit_share {row['audit_share']}, the run's is {audits.share}")
        if not sampling.audited:
            expect(not row["audit_share"], f"audit_share {row['audit_share']}, of samples that need no audit")

    def _check_audits(self, row: Row) -> None:
        """That audits are as many as the run's rule has them, and no more deny or confirm than there are."""
        hits, certificate = hits_of(row), self.smoothing.certificate
        misses = row["n"] - hits
        of_misses = row["audited_misses"], row["found"]
        if certificate.bound.misses:
            expect(of_misses == (None, None) or None not in of_misses, "audited_misses and found")
        else:
            expect(of_misses == (None, None), f"audited_misses {of_misses[0]}, of a certificate that audits none")
        audited_misses, found = (value or 0 for value in of_misses)
        expect(
            0 <= row["disagreed"] <= row["audited"] <= hits, f"disagreed {row['disagreed']} of {row['audited']} audited"
        )
        expect(0 <= found <= audited_misses <= misses, f"found {found} of {audited_misses}")
        if not self.smoothing.sampling.by_looks:
            due = certificate.audits.expected(hits, misses) if row["selected"] != NO_CLASS else (0, 0)
            expect((row["audited"], audited_misses) == due, f"audited {(row['audited'], audited_misses)}, due {due}")
        elif row["look_n"]:
            self._check_last_look(row, hits, audited_misses, found)

    def _check_last_look(self, row: Row, hits: int, audited_misses: int, found: int) -> None:
        """That the row goes on from its last look, and that audits at it are about the share that is its own."""
        n, hits_then, audited = row["look_n"][-1], row["look_hits"][-1], row["look_audited"][-1]
        expect(0 <= hits - hits_then <= row["n"] - n, f"{hits} hits of {row['n']}, {hits_then} of {n} at its last look")
        totals = [("audited", audited, row["audited"]), ("disagreed", row["look_disagreed"][-1], row["disagreed"])]
        checked = [("audited", audited, hits_then)]
        if row["look_audited_misses"]:
            then = row["look_audited_misses"][-1]
            totals += [("audited_misses", then, audited_misses), ("found", row["look_found"][-1], found)]
            checked.append(("audited_misses", then, n - hits_then))
        for name, at_look, in_all in totals:
            expect(
                at_look <= in_all and (n < row["n"] or at_look == in_all),
                f"{name} {in_all}, {at_look} at its last look",
            )
        for name, drawn, of in checked:
            expect(_likely(drawn, of, row["audit_share"]), f"{name} {drawn} of {of} by a share of {row['audit_share']}")

    def _check_claim(self, row: Row) -> None:
        bound, radius = row["p_lower"], row["radius"]
        expect(0.0 <= bound < 1.0, f"p_lower {bound}")
        found = self._bound_near(row, bound)
        expect(isclose(bound, found, rel_tol=_ROUNDING, abs_tol=_ROUNDING), f"p_lower {bound}, by its counts {found}")
        certified = self.smoothing.radius(bound)
        alike = (radius > 0) == (certified > 0) and isclose(radius, certified, rel_tol=_OLDER_SIGMA)
        expect(alike, f"radius {radius}, by its counts {certified}")
        predicted = row["selected"] if radius > 0 else ABSTAIN
        expect(row["predicted"] == predicted, f"predicted {row['predicted']}, by its counts {predicted}")
        correct = predicted == row["label"]
        if row["label"] >= 0:
            correct = correct and predicted != ABSTAIN
            expect(row["correct"] is correct, f"correct {row['correct']}, by its label {correct}")
        else:  # older programs took other labels, and abstentions for them
            expect(correct or not row["correct"], f"correct {row['correct']}, of label {row['label']}")

    def _bound_near(self, row: Row, claimed: float) -> float:
        """The bound that the counts give, of one look if that gives what is claimed: the last ones mostly do."""
        if not self.smoothing.sampling.by_looks or row["selected"] == NO_CLASS:
            return p_lower_of(row, self.smoothing)
        plan, read = looks_of(row, self.smoothing)
        plan.check(read)
        found = 0.0
        for evidence in reversed(read):
            found = max(found, self.smoothing.drawn.p_lower(plan.p_lower([evidence])))
            if found >= claimed - _ROUNDING:
                break
        return found


def _likely(drawn: int, of: int, share: float) -> bool:
    """Whether so many of them, each drawn with that probability, are no wonder."""
    return bool(bdtr(drawn, of, share) > _WONDER and (drawn == 0 or bdtrc(drawn - 1, of, share) > _WONDER))


def expect(holds: bool, what: str) -> None:
    """Raises ValueError that names what does not hold."""
    if not holds:
        raise ValueError(what)


def sections_of(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a fingerprint by section, as a job has them: `a.b.c` becomes a, b, c."""
    sections: dict[str, Any] = {}
    for dotted, value in fingerprint.items():
        *path, name = dotted.split(".")
        here = sections
        for key in path:
            here = here.setdefault(key, {})
            if not isinstance(here, dict):
                raise ValueError(f"{dotted} lies in a setting that is none of its own")
        here[name] = value
    return sections


def law_of(sigma: float, deviation: Any) -> Law:
    """How a run's noise stands to the Gaussian of its certificates, by the deviation that its fingerprint has (None:
    float noise); ValueError for what cannot be.
    """
    if not _SIGMAS[0] <= sigma <= _SIGMAS[1]:
        raise ValueError(f"noise.sigma is {sigma!r}, expected {_SIGMAS[0]:g} to {_SIGMAS[1]:g}")
    if deviation is None:
        return float_law(sigma)
    if not isinstance(deviation, int | float) or not 0.0 < deviation < 1.0:
        raise ValueError(f"noise.deviation is {deviation!r}, expected a probability")
    return Law(sigma, deviation)


def p_lower_of(row: Mapping[str, Any], smoothing: Smoothing) -> float:
    """The bound on p_A under the run's noise that a row's counts give by these settings, at its own n."""
    if row["selected"] == NO_CLASS:  # selection's winner was 'no class': abstain, whatever the counts
        return 0.0
    certificate = smoothing.certificate
    if not smoothing.sampling.by_looks:
        of_misses = (int(row["audited_misses"]), int(row["found"])) if certificate.bound.misses else ()
        counts = Evidence(int(row["n"]), hits_of(row), int(row["audited"]), int(row["disagreed"]), *of_misses)
        return smoothing.drawn.p_lower(certificate.bound.p_lower(counts, certificate.alpha))
    plan, read = looks_of(row, smoothing)
    return smoothing.drawn.p_lower(plan.p_lower(read))


def looks_of(row: Mapping[str, Any], smoothing: Smoothing) -> tuple[Plan, list[Evidence]]:
    """The plan of a row that was sampled by looks, and what was read; ValueError where that is not the row's counts."""
    plan, hits = plan_of(row, smoothing), hits_of(row)
    columns = [row["look_n"], row["look_hits"], row["look_audited"], row["look_disagreed"]]
    columns += [row["look_audited_misses"], row["look_found"]] if plan.bound.misses else []
    read = [Evidence(*map(int, counts)) for counts in zip(*columns, strict=True)]
    if read and (read[-1].n > row["n"] or read[-1].hits > hits or (read[-1].n == row["n"] and read[-1].hits != hits)):
        raise ValueError(f"its last look has {read[-1].hits} hits of {read[-1].n}, its counts {hits} of {row['n']}")
    return plan, read


def hits_of(row: Mapping[str, Any]) -> int:
    """How often estimation said the selected class of a row."""
    return sum(int(count) for c, count in zip(row["classes"], row["counts"], strict=True) if c == row["selected"])


def plan_of(row: Mapping[str, Any], smoothing: Smoothing) -> Plan:
    """The plan by which the row's point is estimated; by looks its audit share, if any, is the row's own.

    Where the sampling chose among bounds, the row shows which: standard sampling has no audits, and a point that was
    certified by hits alone has none of misses.
    """
    sampling, certificate = smoothing.sampling, smoothing.certificate
    if not sampling.by_looks:
        return smoothing.plan
    share, bound = float(row["audit_share"]), certificate.bound
    if bound.audited != (share > 0):
        return sampling.plan_by(MIXTURE, certificate, Fixed(0))
    if not bound.misses:
        return sampling.plan_by(bound, certificate, Share(share) if share else Fixed(0))
    if row["look_audited_misses"] is None:
        return sampling.plan_by(EXACT, certificate, Share(share))
    return sampling.plan_by(bound, certificate, ShareOfAll(share))
