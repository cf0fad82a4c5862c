"""Which n, K or audit share certify a point at a wanted radius, on the counts that such a point is expected to have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import floor

from scipy.special import ndtr, ndtri

from srs_ray.job import Job
from srs_ray.planning.fresh_seed import SEED, fresh_seed
from srs_ray.runs.claims import hits_of
from srs_ray.runs.schema import Row
from srs_ray.smoothing.audit import AuditRule, Fixed, Share
from srs_ray.smoothing.bounds import p_lower
from srs_ray.smoothing.radius import target_p
from srs_ray.smoothing.samplers.standard import STANDARD

MOST_SAMPLES = 10**7
MARGIN = 1.1  # true radius of the certified point, divided by the target
_ROUND_NUMBERS = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
_FEWEST_NEIGHBOURS = 5


@dataclass(frozen=True)
class Disagreement:
    """Of so many audited hits, of so many points, so many were not F's; of audited misses so many were."""

    points: int
    audited: int
    disagreed: int
    audited_misses: int = 0
    found: int = 0

    @property
    def rate(self) -> float:
        """0 where nothing was audited."""
        return self.disagreed / self.audited if self.audited else 0.0

    @property
    def missed(self) -> float:
        """The share of the misses that are F's hits; 0 where none was audited."""
        return self.found / self.audited_misses if self.audited_misses else 0.0


@dataclass(frozen=True)
class Proposal:
    """Settings, by dotted name, that certify the point, with a seed of their own; `evaluations` is what it costs: with
    looks, at most."""

    settings: dict[str, int | float | list[float]]
    evaluations: float

    @property
    def options(self) -> str:
        """As options of the command line."""
        return " ".join(f"--set {name}={str(value).replace(' ', '')}" for name, value in self.settings.items())


@dataclass(frozen=True)
class TargetPlan:
    """What certifies a point whose true radius is MARGIN times `radius`, so that its p_A is `p_true`.

    `p_needed` is what the bound is to exceed, `enough_now` whether the job's own settings suffice, `proposal` the
    cheapest that do with at most MOST_SAMPLES (None: none do), and `standard` what standard sampling of fixed n would
    need instead. A job that is not `audited` has no disagreement, and no other way to sample.
    """

    radius: float
    true_radius: float
    p_needed: float
    p_true: float
    audited: bool
    disagreement: Disagreement
    enough_now: bool
    proposal: Proposal | None
    standard: Proposal | None


def plan_target(job: Job, sample: Sequence[Row], radius: float) -> TargetPlan:
    """The cheapest settings that certify at `radius`, above 0. Rows of the sample say how often chains disagree with F,
    and what a sample and an audit cost; without any, chains are taken to agree, and solvers to take all their steps.

    Raises ValueError for a radius that no probability below 1 earns.
    """
    sigma = job.noise.sigma
    p_needed, p_true = target_p(radius, sigma), float(ndtr(MARGIN * radius / sigma))
    audited = job.smoothing.plan.bound.audited
    disagreement = disagreement_near(sample, p_true) if audited else Disagreement(0, 0, 0)

    def enough(candidate: Job) -> bool:
        return expected_bound(candidate, p_true, disagreement.rate, disagreement.missed) > p_needed

    per_sample, per_audit = _prices(job, sample)
    proposal = _cheapest(job, enough, p_true, per_sample, per_audit) if audited else _fewest(job, enough, per_sample)
    if proposal is not None and job.sampling.target_radii is not None and radius not in job.sampling.target_radii:
        radii = [*job.sampling.target_radii, radius]
        proposal = Proposal({**proposal.settings, "sampling.target_radii": radii}, proposal.evaluations)
    return TargetPlan(
        radius=radius,
        true_radius=MARGIN * radius,
        p_needed=p_needed,
        p_true=p_true,
        audited=audited,
        disagreement=disagreement,
        enough_now=enough(job),
        proposal=_with_seed(job, proposal),
        standard=_with_seed(job, _by_standard_sampling(job, p_true, p_needed, per_audit)) if audited else None,
    )


def _with_seed(job: Job, proposal: Proposal | None) -> Proposal | None:
    """The proposal with a seed that no result has been seen of."""
    if proposal is None:
        return None
    seed = fresh_seed(job, proposal.settings)
    return Proposal({**proposal.settings, SEED: seed}, proposal.evaluations)


def expected_bound(job: Job, p: float, disagreement: float, missed: float = 0.0) -> float:
    """The bound of the job's certificate where a share p of n samples are hits.

    They are hits of the base classifier for `standard` and `auto`, else of the chains. The base classifier does not
    confirm a share `disagreement` of these, and a share `missed` of the misses are its hits.

    Counts are rounded against the point. By looks it is the bound of the last one.
    """
    plan = job.smoothing.plan
    return plan.p_lower([plan.expected(p, disagreement, missed=missed)])


def with_settings(job: Job, n: int, audits: AuditRule | None = None) -> Job:
    """The job with another n and, if given, another rule of audits."""
    sampling = job.sampling.model_copy(update={"n": n})
    certificate = job.certificate.model_copy(update={} if audits is None else audits.settings)
    return job.model_copy(update={"sampling": sampling, "certificate": certificate})


def audited_of(row: Row) -> int:
    """How many samples were audited, hits and misses."""
    return int(row["audited"] + (row["audited_misses"] or 0))


def disagreement_near(sample: Sequence[Row], p: float) -> Disagreement:
    """The disagreement of the third of the audited points, but at least five, whose rates of hits are nearest to p.

    Chains err where the classifier is undecided: points far from p would speak of others. Near is on the scale of
    radii, Phi^-1 of the rate.
    """
    audited = [row for row in sample if row["audited"]]
    quantile = float(ndtri(p))
    audited.sort(key=lambda row: abs(float(ndtri((hits_of(row) + 0.5) / (row["n"] + 1))) - quantile))
    near = audited[: max(_FEWEST_NEIGHBOURS, len(audited) // 3)]
    names = ("audited", "disagreed", "audited_misses", "found")
    return Disagreement(len(near), *(sum(row[name] or 0 for row in near) for name in names))


def _prices(job: Job, sample: Sequence[Row]) -> tuple[float, float]:
    """Evaluations for a sample and for an audited one: means of the points sampled as is meant, or else all steps.

    For `auto` that is standard sampling, which needs no audit.
    """
    sampling = job.sampling
    by_reference = 1.0 if sampling.reference is None else float(sampling.reference.steps)
    per_sample = by_reference
    if not job.smoothing.plan.bound.audited:
        sample = [row for row in sample if row["method"] in (None, STANDARD)]
    elif sampling.steps_of_a_sample is not None:
        per_sample = float(sampling.steps_of_a_sample.steps)
    prices = [sampling.price(row) for row in sample]
    drawn = sum(samples for _, samples in prices)
    audited = sum(map(audited_of, sample))
    return (
        sum(evaluations for evaluations, _ in prices) / drawn if drawn else per_sample,
        sum(row["reference_evaluations"] for row in sample) / audited if audited else by_reference,
    )


def _sizes() -> Iterator[int]:
    """Round numbers of samples, ascending from 10 to MOST_SAMPLES."""
    for exponent in range(1, len(str(MOST_SAMPLES)) - 1):
        yield from (round(number * 10**exponent) for number in _ROUND_NUMBERS)
    yield MOST_SAMPLES


def _cheapest(
    job: Job, enough: Callable[[Job], bool], p: float, per_sample: float, per_audit: float
) -> Proposal | None:
    """The cheapest of all round numbers of samples, each with the fewest audits that are enough: K, or a whole percent
    of the hits."""
    best: Proposal | None = None
    by_looks = job.sampling.by_looks
    for n in _sizes():
        if best is not None and n * per_sample >= best.evaluations:
            break
        hits = floor(n * p)
        audits = _fewest_audits(job, enough, n, 100 if by_looks else hits)
        if audits is None:
            continue
        rule = _rule(audits, by_looks)
        cost = n * per_sample + (hits * audits / 100 if by_looks else audits) * per_audit
        if best is None or cost < best.evaluations:
            chosen = {f"certificate.{name}": value for name, value in rule.settings.items()}
            best = Proposal({"sampling.n": n, **chosen}, cost)
    return best


def _rule(audits: int, by_looks: bool) -> AuditRule:
    """So many audits, or by looks so many percent of the hits."""
    return Share(audits / 100) if by_looks else Fixed(audits)


def _fewest_audits(job: Job, enough: Callable[[Job], bool], n: int, most: int) -> int | None:
    """The least K, to two digits, or by looks the least percentage, that is enough at n; None if `most` is not."""
    by_looks = job.sampling.by_looks

    def suffices(audits: int) -> bool:
        return enough(with_settings(job, n, _rule(audits, by_looks)))

    least = _least(suffices, most)
    if least is None or by_looks:
        return least
    return rounded if suffices(rounded := min(_round_up(least), most)) else least


def _fewest(job: Job, enough: Callable[[Job], bool], per_sample: float) -> Proposal | None:
    """The fewest samples, to two digits, that are enough where nothing is audited."""
    n = _least(lambda n: enough(with_settings(job, n)), MOST_SAMPLES)
    if n is None:
        return None
    n = rounded if enough(with_settings(job, rounded := min(_round_up(n), MOST_SAMPLES))) else n
    return Proposal({"sampling.n": n}, n * per_sample)


def _by_standard_sampling(job: Job, p: float, p_needed: float, per_sample: float) -> Proposal | None:
    alpha = job.certificate.alpha
    n = _least(lambda n: p_lower("cohen", floor(n * p), n, 0, 0, alpha) > p_needed, MOST_SAMPLES)
    return None if n is None else Proposal({"sampling.n": n}, n * per_sample)


def _least(enough: Callable[[int], bool], most: int) -> int | None:
    """A number from 1 to `most` that is enough while one less is not; None if `most` is not enough."""
    if most < 1 or not enough(most):
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _round_up(number: int) -> int:
    """To two digits."""
    unit = 10 ** max(0, len(str(number)) - 2)
    return -(-number // unit) * unit
