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
from srs_ray.smoothing import choice
from srs_ray.smoothing.audit import AuditRule, Fixed, Share, ShareOfAll
from srs_ray.smoothing.base_classifier import BaseClassifier
from srs_ray.smoothing.bounds import Evidence, bound_named
from srs_ray.smoothing.certificate import AuditedCertificate
from srs_ray.smoothing.choice import DISAGREEMENTS, RATES, Shown, Way, choose, forecast
from srs_ray.smoothing.judge import SmoothingJudge
from srs_ray.smoothing.noise import Domain, GridNoise, NoisyPoint, Philox4x64
from srs_ray.smoothing.plan import Goal, Plan
from srs_ray.smoothing.radius import target_p
from srs_ray.smoothing.row import PointRow
from srs_ray.smoothing.samplers import AutoSampling, LookSettings, auto
from srs_ray.smoothing.samplers.anchor import ANCHOR_SAMPLES, mean_state
from srs_ray.smoothing.samplers.auto import AUDIT_SHARES, MOST_STEPS
from srs_ray.smoothing.smoothing import Smoothing, smoothing_of
from srs_ray.solvers.iteration import SolverSetting

N, ALPHA, SIGMA = 10_000, 0.001, 0.5


LOOKS = LookSettings()


def plan_of(kind: str, audit: AuditRule = Fixed(0)) -> Plan:
    """A plan by the usual looks."""
    looks = {"first": LOOKS.first, "growth": LOOKS.growth, "power": LOOKS.power}
    return Plan.geometric(bound_named(kind), ALPHA, N, **looks, audit=audit)


def goal_of(*radii: float) -> Goal:
    return Goal(tuple(target_p(radius, SIGMA) for radius in radii), LOOKS.futility)


def ways(reference: float) -> list[Way]:
    """Standard sampling, and one step from the anchor with each share of audits."""
    anchored = [Way(plan_of("exact", Share(share)), 1.0, reference, steps=1) for share in AUDIT_SHARES]
    return [Way(plan_of("mixture"), reference), *anchored]


def shown_by(hits: int, differed: int = 0, n: int = 100) -> Shown:
    """Of 32 of the samples, on so many did one step from the anchor say otherwise than F."""
    return Shown(n, hits, compared=(round(64 * hits / n),), differed=(differed,))


SURE_OF_BOTH = 10**7


def known(rate: float, disagreement: float) -> Shown:
    """After so many samples that nothing is left to guess."""
    compared = 2 * SURE_OF_BOTH
    return Shown(
        SURE_OF_BOTH, round(rate * SURE_OF_BOTH), (compared,) * 3, (round(2 * disagreement * SURE_OF_BOTH),) * 3
    )


def chosen(radii: tuple[float, ...], shown: Shown, reference: float, most_lost: float = 0.02) -> str:
    return choose(ways(reference), shown, goal_of(*radii), most_lost).plan.bound.name


@pytest.mark.parametrize("radii", [(0.0,), (0.0, 0.25)])
def test_few_steps_where_they_are_cheap_and_hardly_ever_denied(radii):
    assert chosen(radii, shown_by(80), reference=18) == "exact"


@pytest.mark.parametrize("differed", [16, 28])
def test_standard_where_so_many_hits_are_denied_that_few_steps_need_more_than_they_save(differed):
    shown = shown_by(95, differed)
    assert chosen((0.0,), shown, reference=2) == "mixture"
    assert chosen((0.0,), shown_by(95), reference=18) == "exact"


def test_misses_are_audited_where_that_makes_up_for_hits_that_are_denied():
    """F says c on as many of the sampler's misses as it denies of its hits: one sees it, the other loses the radius."""
    two_sided = [Way(plan_of("two-sided", ShareOfAll(share)), 1.0, 18.0, steps=1) for share in AUDIT_SHARES]
    all_ways, goal = [*ways(18), *two_sided], goal_of(0.0, 0.25, 0.5)
    shown = known(0.75, 0.1)
    chosen = choose(all_ways, shown, goal, 0.02)
    assert chosen.plan.bound.name == "two-sided"
    of_it = forecast(chosen, shown, goal)
    for way in ways(18):
        other = forecast(way, shown, goal)
        assert other.evaluations > 1.2 * of_it.evaluations or other.certified < of_it.certified - 0.02 * 3
    assert choose(all_ways, shown_by(97), goal_of(0.0), 0.02).plan.bound.name == "exact"


def test_standard_where_p_is_near_1_and_a_radius_is_wanted_that_audits_cap():
    """3.1 sigma: with three quarters of all hits audited p is bounded below that, and by standard sampling above."""
    sure, wanted = shown_by(100), (0.0, 1.55)
    assert all(way.plan.p_cap < goal_of(*wanted).p_targets[1] for way in ways(18)[1:])
    assert chosen(wanted, sure, reference=18, most_lost=0.01) == "mixture"
    assert chosen(wanted, sure, reference=18, most_lost=1.0) == "exact", "who may lose it all takes what is cheapest"
    assert chosen((0.0, 0.25), sure, reference=18) == "exact"


def test_more_steps_where_one_is_denied_too_often():
    """At 3 % of false hits a target near the rate is lost by one step; three steps that are never denied keep it."""
    goal, plan = goal_of(0.0, 0.5), plan_of("exact", Share(0.35))
    one, three = (Way(plan, float(steps), 30.0, steps=steps) for steps in (1, 3))
    compared = 2 * SURE_OF_BOTH
    undecided = Shown(SURE_OF_BOTH, round(0.866 * SURE_OF_BOTH), (compared,) * 3, (compared // 32, compared // 300, 0))
    assert forecast(one, undecided, goal).certified < forecast(three, undecided, goal).certified
    assert choose([one, three], undecided, goal, 0.02) is three
    never = Shown(100, 97, (62, 62, 62), (0, 0, 0))
    assert choose([one, three], never, goal_of(0.0), 0.02) is one


@pytest.mark.parametrize(("n", "hits", "price"), [(400, 100, 3.0), (1000, 90, 3.0), (10_000, 85, 5.0)])
def test_where_nothing_may_be_lost_what_costs_more_than_standard_and_earns_the_same_is_not_taken(n, hits, price):
    """Sums of the same figures in another order differ in their last bits: that is no gain."""
    sampling = AutoSampling(solver="anderson", n=n, target_radii=(0.0, 0.1, 0.25))
    goal, shown = sampling.goal(SIGMA), Shown(100, hits, (60,) * 3, (0, 0, 0))
    ways = sampling.ways(AuditedCertificate(kind="exact", alpha=ALPHA, audit=0), price)
    way = choose(ways, shown, goal, 0.0)
    of_it, of_standard = forecast(way, shown, goal), forecast(ways[0], shown, goal)
    assert of_it.evaluations <= of_standard.evaluations or of_it.certified > of_standard.certified + 1e-6
    assert all(each.steps < price for each in ways), "as many steps as F takes are no cheaper way"


def test_before_anything_is_seen_each_step_more_is_taken_to_be_denied_less():
    nothing = Shown(100, 90)
    expected = [float(nothing.disagreement_masses(steps) @ DISAGREEMENTS) for steps in (1, 2, 3)]
    assert expected[0] == pytest.approx(0.04, rel=0.3)
    assert expected[0] > 2 * expected[1] > 4 * expected[2] > 0
    denied = Shown(100, 90, (60,) * 3, (30,) * 3)
    assert float(denied.disagreement_masses(3) @ DISAGREEMENTS) > 0.1, "what is seen outweighs that"


@pytest.mark.parametrize("most_lost", [0.0, 0.02, 0.3, 1.0])
def test_what_is_chosen_loses_no_more_than_it_may_and_nothing_cheaper_does(most_lost):
    goal = goal_of(0.0, 0.25, 0.5, 1.0, 1.5)
    for hits, differed in product((55, 80, 100), (0, 8)):
        shown = shown_by(hits, differed)
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
    way = Way(plan, 1.0, steps=int(share > 0))
    expected = forecast(way, known(rate, 0.0), goal).evaluations
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


@pytest.mark.parametrize("rate", RATES[[6, 8, 10, 13, 16, 20, 24]])
@pytest.mark.parametrize("disagreement", [0.0, 0.01, 0.1])
def test_the_look_that_ends_it_is_the_first_that_would(rate, disagreement):
    """Bisection is as good as looking at each in turn, up to one look where rounding makes the first come early."""
    goal = goal_of(0.0, 0.25, 0.5, 0.75)
    for plan in (plan_of("mixture"), plan_of("exact", Share(0.2)), plan_of("two-sided", ShareOfAll(0.1))):
        found = choice._course(plan, rate, disagreement, goal)[0]
        counts = [choice._counts(plan, n, rate, disagreement) for n in plan.sizes]
        first = next(at.n for at in counts if plan.verdict([at], goal.p_targets, goal.futility) is not None)
        place, of_first = plan.sizes.index(found), plan.sizes.index(first)
        assert 0 <= place - of_first <= 1


def test_the_forecasts_of_a_processs_first_point_are_cheap(monkeypatch):
    """By looking at each look of each rate there were 15,000 verdicts."""
    asked = []
    verdict = Plan.verdict
    monkeypatch.setattr(Plan, "verdict", lambda self, *rest: asked.append(1) or verdict(self, *rest))
    choice._course.cache_clear()
    shown = Shown(100, 85, (55,) * 3, (2, 1, 0))
    sampling = AutoSampling(solver="anderson", target_radii=tuple(np.arange(0, 1.75, 0.25).tolist()))
    certificate = AuditedCertificate(kind="exact", alpha=ALPHA, audit=0)
    choose(sampling.ways(certificate, 5.0), shown, sampling.goal(SIGMA), 0.02)
    assert 0 < len(asked) < 750
    before = len(asked)
    choose(sampling.ways(certificate, 5.2), Shown(100, 84, (55,) * 3, (2, 1, 0)), sampling.goal(SIGMA), 0.02)
    assert len(asked) - before < 250, "later points find most of them made"


HERE = {"alpha": 0.01, "index": 12, "label": 6, "n0": 30, "n": 600}
HOW = ("seconds", "finished_at", "worker")
DECIDED = ("function_evaluations", "fallbacks", "unconverged")


def results(row: PointRow, without: tuple[str, ...] = ()) -> dict[str, object]:
    return {name: value for name, value in dataclasses.asdict(row).items() if name not in (*HOW, *without)}


@pytest.mark.parametrize(
    ("sigma", "certificate"), [(0.5, "exact"), (0.62, "exact"), (0.5, "two-sided"), (0.62, "two-sided")]
)
def test_a_point_that_goes_by_few_steps_is_that_of_anchored_with_the_share_it_was_given(
    model, digit, sigma, certificate
):
    here = HERE | {"sigma": sigma, "looks": Looks((0.0, 0.25), first=50)}
    auto = srs_ray.certify_point(model, digit, **here, method="auto", certificate=certificate)
    assert auto.method == "anchored"
    assert auto.audit_share in AUDIT_SHARES
    assert auto.steps in (1, 2, 3)
    kind = "exact" if auto.look_audited_misses is None else "two-sided"
    alone = srs_ray.certify_point(
        model, digit, **here, method="anchored", certificate=kind, audit_share=auto.audit_share, steps=auto.steps
    )
    assert results(auto, DECIDED) == results(alone, DECIDED)
    assert auto.function_evaluations == alone.function_evaluations + MOST_STEPS * 30, "few steps of all 30 samples"


def auto_judge(model, sigma: float = 0.5, generator: Philox4x64 | None = None, **settings) -> SmoothingJudge:
    """Of points that go either way, as their selection speaks for."""
    sampling = AutoSampling(
        solver="anderson", n=600, target_radii=(0.0, 0.25), looks={"first": 50}, **({"n0": 30} | settings)
    )
    smoothing = Smoothing(sigma, sampling, AuditedCertificate(kind="exact", alpha=0.01, audit=0))
    return SmoothingJudge(opened_mdeq(model), smoothing, generator or Philox4x64(), 0, 64)


@pytest.mark.parametrize("candidate", [None, "label"])
def test_what_decides_is_how_often_few_steps_say_otherwise_on_the_samples_of_the_anchor(
    model, digit, monkeypatch, candidate
):
    judge = auto_judge(model) if candidate is None else auto_judge(model, n0=0, candidate="label")
    shown = []
    real = auto.choose
    monkeypatch.setattr(auto, "choose", lambda ways, seen, *rest: shown.append(seen) or real(ways, seen, *rest))
    row = judge.certify(digit, 12, 6)
    domain, n = (Domain.SELECTION, 30) if candidate is None else (Domain.ANCHOR, ANCHOR_SAMPLES)
    point = NoisyPoint(digit, 0.5, 0, 12, Philox4x64())
    base = BaseClassifier.of(judge.model, 64)
    said, states = base.predict(point, domain, range(n), states := []), states
    hit_N = said.classes_N == 6
    compared, differed = [], []
    for steps in (1, 2, 3):
        few = BaseClassifier(
            judge.model, SolverSetting.named("anderson", steps), 64, mean_state(states, base.model.zero_state(1)[0])
        )
        few_N = few.predict(point, domain, range(n)).classes_N == 6
        compared.append(int(few_N.sum() + hit_N.sum()))
        differed.append(int((few_N != hit_N).sum()))
    assert row.selected == 6
    assert shown == [Shown(n, int(hit_N.sum()), tuple(compared), tuple(differed))]
    assert differed[0] > 0
    if candidate == "label":
        assert row.n0 == 0
        plain = srs_ray.certify_point(
            model, digit, sigma=0.5, index=12, label=6, candidate="label", n=600, alpha=0.01, method="anchored",
            looks=Looks((0.0, 0.25), first=50), audit_share=row.audit_share, steps=row.steps, noise="philox4x64",
        )  # fmt: skip
        assert row.function_evaluations == plain.function_evaluations + MOST_STEPS * ANCHOR_SAMPLES
        assert results(row, DECIDED) == results(plain, DECIDED)


def test_settings_of_its_former_self_are_read_and_mean_nothing():
    former = {"chains": 64, "steps": 2, "warmup_steps": 10}
    given = {"method": "auto", "solver": "anderson", "target_radii": (0.0, 0.25)}
    certificate = {"kind": "exact", "alpha": 0.01, "audit": 0}
    old, new = (smoothing_of(0.5, given | more, certificate) for more in (former, {}))
    assert old.fingerprint() == new.fingerprint()
    assert old.sampling.without_effect == ("chains", "steps", "warmup_steps")
    assert old.sampling.former_title("30A") == "auto SRS 2A / 30A"
    assert "anchor" in old.sampling.title("30A")


def test_what_a_sample_of_f_costs_is_seen_apart_from_what_decided(model, digit):
    here = {"sigma": 0.25, "index": 12, "label": 6, "n": 600, "alpha": 0.01, "looks": Looks((0.3,), first=50)}
    for more in ({"n0": 30}, {"candidate": "label"}):
        row = srs_ray.certify_point(model, digit, **here, **more, method="auto")
        assert row.method == "standard"
        sampling = AutoSampling(solver="anderson", target_radii=(0.3,), n=600, **more)
        evaluations, samples = sampling.price(dataclasses.asdict(row))
        made_by = row.n0 or ANCHOR_SAMPLES
        assert samples == made_by + row.n
        point = NoisyPoint(digit, 0.25, 0, 12, GridNoise(torch.device("cpu")))
        base = BaseClassifier(model, model.config.reference, 64)
        spent = base.predict(point, Domain.SELECTION if row.n0 else Domain.ANCHOR, range(made_by)).evaluations
        assert evaluations == spent + base.predict(point, Domain.ESTIMATION, range(row.n)).evaluations


def test_a_point_that_goes_by_standard_sampling_is_that_of_standard(model, digit):
    here = HERE | {"sigma": 0.25, "looks": Looks((0.3,), first=50)}
    auto = srs_ray.certify_point(model, digit, **here, method="auto")
    assert (auto.method, auto.stopped, auto.audit_share, auto.steps) == ("standard", "resolved", 0.0, None)
    assert auto.look_audited == [0] * len(auto.look_n)
    alone = srs_ray.certify_point(model, digit, **here, method="standard")
    assert results(auto, DECIDED) == results(alone, DECIDED)
    assert auto.function_evaluations == alone.function_evaluations + MOST_STEPS * 30


class OtherEstimation(Philox4x64):
    """Other noise in the estimation samples alone, and much more of it."""

    def normals(self, seed, point, stage, samples, size):
        if stage == Domain.ESTIMATION:
            return 3.0 * super().normals(seed + 1, point, stage, samples, size)
        return super().normals(seed, point, stage, samples, size)


@pytest.mark.parametrize("sigma", [0.3, 0.5])
def test_way_share_and_class_are_the_selections_whatever_estimation_says(model, digit, sigma):
    rows = [
        auto_judge(model, sigma, generator).certify(digit, 12, 6) for generator in (Philox4x64(), OtherEstimation())
    ]
    assert rows[0].counts != rows[1].counts
    assert rows[0].p_lower > 0.5 > rows[1].p_lower
    made = [(row.method, row.audit_share, row.steps, row.selected, row.selection_counts) for row in rows]
    assert made[0] == made[1]
    assert rows[1].predicted == -1, "the class that estimation says more often is not another candidate"
