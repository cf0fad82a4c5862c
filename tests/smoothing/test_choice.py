"""Which way a point goes: the cheapest that loses few targets, judged by its selection samples and nothing else."""

from __future__ import annotations

import dataclasses
from itertools import product

import numpy as np
import pytest
import torch

import srs_ray
from srs_ray import Looks
from srs_ray.models.mdeq.family import opened_mdeq
from srs_ray.smoothing.audit import Audit, AuditRule, Fixed, Share, ShareOfAll
from srs_ray.smoothing.base_classifier import BaseClassifier
from srs_ray.smoothing.bounds import Evidence, bound_named
from srs_ray.smoothing.certificate import AuditedCertificate
from srs_ray.smoothing.choice import RATES, Way, choose, forecast
from srs_ray.smoothing.judge import SmoothingJudge
from srs_ray.smoothing.noise import Domain, GridNoise, NoisyPoint, Philox4x64
from srs_ray.smoothing.plan import Goal, Plan
from srs_ray.smoothing.radius import target_p
from srs_ray.smoothing.row import PointRow
from srs_ray.smoothing.samplers import AutoSampling, LookSettings, SerializedSampler, auto
from srs_ray.smoothing.samplers.auto import AUDIT_SHARES, SELECTION_AUDITS
from srs_ray.smoothing.samplers.sampler import Selection
from srs_ray.smoothing.smoothing import Smoothing
from srs_ray.solvers.iteration import SolverSetting

N, ALPHA, SIGMA = 10_000, 0.001, 0.5


LOOKS = LookSettings()


def plan_of(kind: str, audit: AuditRule = Fixed(0)) -> Plan:
    """A plan by the usual looks."""
    looks = {"first": LOOKS.first, "growth": LOOKS.growth, "power": LOOKS.power}
    return Plan.geometric(bound_named(kind), ALPHA, N, **looks, audit=audit)


def goal_of(*radii: float) -> Goal:
    return Goal(tuple(target_p(radius, SIGMA) for radius in radii), LOOKS.futility)


def ways(reference: float, steps: float = 1.0) -> list[Way]:
    """Standard sampling, and chains with each share of audits."""
    serialized = [Way(plan_of("exact", Share(share)), steps, reference) for share in AUDIT_SHARES]
    return [Way(plan_of("mixture"), reference), *serialized]


def chosen(radii: tuple[float, ...], shown: Evidence, reference: float, most_lost: float = 0.02) -> str:
    return choose(ways(reference), shown, goal_of(*radii), most_lost).plan.bound.name


@pytest.mark.parametrize("radii", [(0.0,), (0.0, 0.25), (0.25,)])
def test_chains_where_an_evaluation_of_theirs_is_cheap_and_hardly_ever_denied(radii):
    assert chosen(radii, Evidence(100, 80, 16, 0), reference=18) == "exact"


@pytest.mark.parametrize("disagreed", [8, 14])
def test_standard_where_audits_deny_so_many_hits_that_chains_need_more_than_they_save(disagreed):
    shown = Evidence(100, 95, 16, disagreed)
    assert chosen((0.0,), shown, reference=2) == "mixture"
    assert chosen((0.0,), dataclasses.replace(shown, disagreed=0), reference=18) == "exact"


def test_misses_are_audited_where_that_makes_up_for_hits_that_are_denied():
    """F says c on as many of the chains' misses as it denies of their hits: one sees it, the other loses the radius."""
    two_sided = [Way(plan_of("two-sided", ShareOfAll(share)), 1.0, 18.0) for share in AUDIT_SHARES]
    all_ways, goal = [*ways(18), *two_sided], goal_of(0.0, 0.25, 0.5)
    shown = Evidence(100, 75, 16, 3)
    chosen = choose(all_ways, shown, goal, 0.02)
    assert chosen.plan.bound.name == "two-sided"
    of_it = forecast(chosen, shown, goal, True)
    for way in ways(18):
        other = forecast(way, shown, goal, True)
        assert other.evaluations > 1.3 * of_it.evaluations or other.certified < of_it.certified - 0.02 * 3
    assert choose(all_ways, Evidence(100, 97, 16, 0), goal_of(0.0), 0.02).plan.bound.name == "exact"


def test_standard_where_p_is_near_1_and_a_radius_is_wanted_that_audits_cap():
    """3.1 sigma: with three quarters of all hits audited p is bounded below that, and by standard sampling above."""
    sure, wanted = Evidence(100, 100, 16, 0), (0.0, 1.55)
    assert all(way.plan.p_cap < goal_of(*wanted).p_targets[1] for way in ways(18)[1:])
    assert chosen(wanted, sure, reference=18, most_lost=0.01) == "mixture"
    assert chosen(wanted, sure, reference=18, most_lost=1.0) == "exact", "who may lose it all takes what is cheapest"
    assert chosen((0.0, 0.25), sure, reference=18) == "exact"


def test_chains_that_must_be_warmed_up_first_cost_that_much_more():
    goal, plan = goal_of(0.0, 0.25), plan_of("exact", Share(0.15))
    few, many = (Way(plan, 1.0, 5.0, warm_up=9.0, chains=chains) for chains in (100, 10**6))
    shown = Evidence(100, 80, 16, 0)
    free = forecast(Way(plan, 1.0, 5.0), shown, goal).evaluations
    samples = forecast(Way(plan, 1.0), shown, goal).evaluations
    assert forecast(few, shown, goal).evaluations == pytest.approx(free), "selection has warmed them up"
    assert forecast(many, shown, goal).evaluations == pytest.approx(free + 9.0 * (samples - 100))


@pytest.mark.parametrize("most_lost", [0.0, 0.02, 0.3, 1.0])
def test_what_is_chosen_loses_no_more_than_it_may_and_nothing_cheaper_does(most_lost):
    goal = goal_of(0.0, 0.25, 0.5, 1.0, 1.5)
    for hits, disagreed in product((55, 80, 100), (0, 4)):
        shown = Evidence(100, hits, 16, disagreed)
        all_ways = ways(18)
        at = {way: forecast(way, shown, goal) for way in all_ways}
        way = choose(all_ways, shown, goal, most_lost)
        needed = max(forecast.certified for forecast in at.values()) - most_lost * 5
        assert at[way].certified >= needed
        assert all(at[other].evaluations >= at[way].evaluations for other in all_ways if at[other].certified >= needed)


@pytest.mark.parametrize(("kind", "share"), [("mixture", 0.0), ("exact", 0.15)])
@pytest.mark.parametrize("rate", RATES[[8, 13, 18]])  # 0.58, 0.83, 0.96
def test_a_forecast_is_within_two_looks_of_what_points_of_that_rate_draw(kind, share, rate):
    goal, plan = goal_of(0.0, 0.25), plan_of(kind, Share(share) if share else Fixed(0))
    way = Way(plan, 1.0)
    expected = forecast(way, Evidence(10**7, int(rate * 10**7), 10**7, 0), goal).evaluations
    rng = np.random.default_rng(3)
    drawn = []
    for _ in range(40):
        sums = np.cumsum(rng.random(N) < rate)
        u_N = np.cumsum((rng.random(N) < share) & (np.diff(sums, prepend=0) > 0))
        for n in plan.sizes:
            counts = Evidence(n, int(sums[n - 1]), int(u_N[n - 1]) if plan.bound.audited else 0)
            if plan.verdict([counts], goal.p_targets, goal.futility) is not None:
                break
        drawn.append(n)
    assert np.mean(drawn) / LOOKS.growth**2 < expected < np.mean(drawn) * LOOKS.growth**2


HERE = {"alpha": 0.01, "index": 12, "label": 6, "n0": 30, "n": 600}
CHAINS = {"chains": 20, "steps": 1}
HOW = ("seconds", "finished_at", "worker")
PILOTED = ("reference_evaluations", "fallbacks", "unconverged")


def results(row: PointRow, without: tuple[str, ...] = ()) -> dict[str, object]:
    return {name: value for name, value in dataclasses.asdict(row).items() if name not in (*HOW, *without)}


def test_a_point_that_goes_by_chains_is_that_of_srs_with_the_share_it_was_given(model, digit):
    here = HERE | CHAINS | {"sigma": 0.5, "looks": Looks((0.0, 0.25), first=50)}
    auto = srs_ray.certify_point(model, digit, **here, method="auto")
    assert (auto.method, auto.stopped) == ("srs", "resolved")
    assert auto.audit_share in AUDIT_SHARES
    alone = srs_ray.certify_point(model, digit, **here, method="srs", audit_share=auto.audit_share)
    assert results(auto, PILOTED) == results(alone, PILOTED)
    point = NoisyPoint(digit, 0.5, 0, 12, GridNoise(torch.device("cpu")))
    sampler = SerializedSampler(model, point, SolverSetting.named("anderson", 1), 10, 20, 64)
    hits = np.flatnonzero(sampler.draw(Domain.SELECTION, 30).classes_N == auto.selected)
    chained = hits[hits >= 20][-SELECTION_AUDITS:]  # not a chain's first sample, which is warmed up
    pilot = BaseClassifier(model, model.config.reference, 64).predict(point, Domain.SELECTION, chained)
    assert auto.reference_evaluations == alone.reference_evaluations + pilot.evaluations


@pytest.mark.parametrize(("sigma", "kind"), [(0.5, "two-sided"), (0.62, "exact")])
def test_by_two_sided_a_point_goes_as_its_selection_speaks_for_and_its_row_says_how(model, digit, sigma, kind):
    here = HERE | CHAINS | {"sigma": sigma, "looks": Looks((0.0, 0.25), first=50)}
    auto = srs_ray.certify_point(model, digit, **here, method="auto", certificate="two-sided")
    assert (auto.method, auto.look_audited_misses is None) == ("srs", kind == "exact")
    share = auto.audit_share
    alone = srs_ray.certify_point(model, digit, **here, method="srs", certificate=kind, audit_share=share)
    assert results(auto, PILOTED) == results(alone, PILOTED)


def auto_judge(model, chains: int, sigma: float = 0.5, generator: Philox4x64 | None = None) -> SmoothingJudge:
    """Of points that go either way, as their selection speaks for."""
    sampling = AutoSampling(
        solver="anderson", steps=1, chains=chains, n0=30, n=600, target_radii=(0.0, 0.25), looks={"first": 50}
    )
    smoothing = Smoothing(sigma, sampling, AuditedCertificate(kind="exact", alpha=0.01, audit=0))
    return SmoothingJudge(opened_mdeq(model), smoothing, generator or Philox4x64(), 0, 64)


def test_a_selection_without_chained_samples_says_nothing_of_disagreement_but_what_f_costs(model, digit, monkeypatch):
    judge = auto_judge(model, chains=30)
    smoothing = judge.smoothing
    point, asked = NoisyPoint(digit, 0.5, 0, 12, Philox4x64()), []
    base = BaseClassifier(judge.model, judge.model.reference, 64)

    def planned(hits: np.ndarray, audit: Audit) -> Plan:
        def made(base, point, numbers, selected, domain):
            asked.append((numbers.tolist(), selected, domain))
            return audit

        with monkeypatch.context() as patched:
            patched.setattr(auto, "audit_samples", made)
            shown, sampler = Selection(6, hits), smoothing.sampling.sampler(base, point)
            _, plan, made_audit = smoothing.sampling.decide(
                smoothing.certificate, smoothing.goal, base, point, sampler, shown
            )
        assert made_audit == audit, "what it cost is the point's"
        return plan

    denied, agreed = Audit(16, 8, evaluations=160), Audit(16, 0, evaluations=160)
    firsts, chained = np.arange(25), np.arange(25) + 30
    assert planned(chained, denied).bound.name == "mixture"
    assert planned(chained, agreed).bound.name == "exact"
    assert planned(firsts, denied) == planned(firsts, agreed)
    assert planned(firsts, agreed) != planned(firsts, dataclasses.replace(agreed, evaluations=16)), "what F costs"
    assert asked[0] == (chained[-16:].tolist(), 6, Domain.SELECTION)
    assert asked[2] == (firsts[-16:].tolist(), 6, Domain.SELECTION)
    assert judge.certify(digit, 12, 6).status == "ok"


def test_a_point_that_goes_by_standard_sampling_is_that_of_standard_but_for_its_selection(model, digit):
    here = HERE | {"sigma": 0.25, "looks": Looks((0.3,), first=50)}
    auto = srs_ray.certify_point(model, digit, **here, **CHAINS, method="auto")
    assert (auto.method, auto.stopped, auto.audit_share) == ("standard", "resolved", 0.0)
    assert auto.look_audited == [0] * len(auto.look_n)
    alone = srs_ray.certify_point(model, digit, **here, method="standard")
    others = ("selection_classes", "selection_counts", "function_evaluations", *PILOTED)
    assert results(auto, others) == results(alone, others)


class OtherEstimation(Philox4x64):
    """Other noise in the estimation samples alone, and much more of it."""

    def normals(self, seed, point, stage, samples, size):
        if stage == Domain.ESTIMATION:
            return 3.0 * super().normals(seed + 1, point, stage, samples, size)
        return super().normals(seed, point, stage, samples, size)


@pytest.mark.parametrize("sigma", [0.25, 0.5])
def test_way_share_and_class_are_the_selections_whatever_estimation_says(model, digit, sigma):
    rows = [
        auto_judge(model, 20, sigma, generator).certify(digit, 12, 6) for generator in (Philox4x64(), OtherEstimation())
    ]
    assert rows[0].counts != rows[1].counts
    assert rows[0].p_lower > 0.5 > rows[1].p_lower
    made = [(row.method, row.audit_share, row.selected, row.selection_counts) for row in rows]
    assert made[0] == made[1]
    assert rows[0].method == ("standard" if sigma == 0.25 else "srs")
    assert rows[1].predicted == -1, "the class that estimation says more often is not another candidate"
