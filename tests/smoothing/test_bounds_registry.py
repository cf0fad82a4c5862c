"""The registry of bounds: what each is for, and which fit samples that are audited or not, of fixed n or by looks."""

from __future__ import annotations

import dataclasses

import pytest

from srs_ray.smoothing.bounds import BOUNDS, Bound, Evidence, bound_named, fitting_bounds, p_lower
from srs_ray.smoothing.certificate import AuditedCertificate, UnauditedCertificate
from srs_ray.smoothing.samplers import SAMPLINGS
from srs_ray.smoothing.smoothing import smoothing_of


def test_every_bound_is_registered_under_its_own_name() -> None:
    assert list(BOUNDS) == ["cohen", "mixture", "exact", "weighted", "two-sided", "union", "paper", "released"]
    assert all(bound.name == name and bound_named(name) is bound for name, bound in BOUNDS.items())


def test_capabilities_are_those_that_the_docstrings_promise() -> None:
    assert {name for name, bound in BOUNDS.items() if bound.audited} == {
        "exact",
        "weighted",
        "two-sided",
        "union",
        "paper",
        "released",
    }
    assert {name for name, bound in BOUNDS.items() if not bound.sound} == {"released"}
    assert {name for name, bound in BOUNDS.items() if bound.anytime} == {"mixture"}
    assert {name for name, bound in BOUNDS.items() if bound.misses} == {"two-sided"}


@pytest.mark.parametrize("name", BOUNDS)
def test_an_unsound_bound_says_so_wherever_it_is_named(name: str) -> None:
    beside = {"released": " (unsound)", "weighted": " (lambda = 0.75)"}.get(name, "")
    assert BOUNDS[name].label == name + beside


def test_a_bound_is_taken_as_sound_unaudited_and_of_one_size_only_where_it_says_so() -> None:
    fields = {field.name: field.default for field in dataclasses.fields(Bound)}
    assert fields["sound"] is True
    assert fields["anytime"] is False
    assert fields["audited"] is dataclasses.MISSING, "nobody may forget to say it"


@pytest.mark.parametrize("name", ["", "Exact", "exakt", "exact "])
def test_another_name_is_refused_with_all_that_there_are(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"expected one of cohen, mixture, exact, weighted, two-sided, union, paper, released"
    ):
        bound_named(name)


@pytest.mark.parametrize(
    ("audited", "by_looks", "expected"),
    [
        (False, False, ["cohen"]),
        (False, True, ["mixture", "cohen"]),
        (True, False, ["exact", "weighted", "two-sided", "union", "paper", "released"]),
        (True, True, ["exact", "weighted", "two-sided", "union", "paper"]),
    ],
)
def test_the_fitting_bounds_and_first_the_usual_one(audited: bool, by_looks: bool, expected: list[str]) -> None:
    assert [bound.name for bound in fitting_bounds(audited=audited, by_looks=by_looks)] == expected


def test_a_bound_that_is_added_fits_by_what_it_says_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    added = Bound("zero", lambda hits, n, audited, disagreed, alpha: 0.0, audited=True, anytime=True)
    monkeypatch.setitem(BOUNDS, "zero", added)
    assert fitting_bounds(audited=True, by_looks=True)[0] is added, "one that holds at all sizes comes first"
    assert added not in fitting_bounds(audited=True, by_looks=False)
    assert added not in fitting_bounds(audited=False, by_looks=True)
    assert p_lower("zero", 5, 10, 2, 0, 0.1) == 0.0


@pytest.mark.parametrize("name", BOUNDS)
def test_p_lower_by_name_is_that_of_the_bound_on_the_same_evidence(name: str) -> None:
    audits = (40, 3) if BOUNDS[name].audited else (0, 0)
    found = p_lower(name, 180, 200, *audits, 0.01)
    assert found == BOUNDS[name].p_lower(Evidence(200, 180, *audits), 0.01) > 0.5


@pytest.mark.parametrize("name", BOUNDS)
def test_a_section_certificate_is_of_the_kind_that_the_bound_asks_for(name: str) -> None:
    bound = BOUNDS[name]
    by_looks = bound.anytime
    sampling = {"method": "srs", "solver": "naive"} if bound.audited else {"method": "standard"}
    looks = {"target_radii": (0.1,)} if by_looks else {}
    certificate = smoothing_of(0.5, {**sampling, **looks}, {"kind": name}).certificate
    assert isinstance(certificate, AuditedCertificate if bound.audited else UnauditedCertificate)
    assert certificate.bound == bound


@pytest.mark.parametrize("by_looks", [False, True])
@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("method", SAMPLINGS)
def test_a_certificate_goes_with_a_sampling_exactly_where_the_registry_has_it_fit(
    method: str, name: str, by_looks: bool
) -> None:
    kind = SAMPLINGS[method]
    sampling = {"method": method, **({"solver": "naive"} if kind.audited else {})}
    certificate = {"kind": name}
    if by_looks:
        sampling |= {"target_radii": (0.1,)}
        if BOUNDS[name].audited:
            certificate |= {"audit": 0} | ({"audit_share": 0.2} if kind.default_audit_share is not None else {})
    fits = name in [bound.name for bound in fitting_bounds(audited=kind.audited, by_looks=by_looks)]
    if method == "auto" and not by_looks:
        with pytest.raises(ValueError, match=r"auto needs sampling\.target_radii"):
            smoothing_of(0.5, sampling, certificate)
    elif fits:
        assert smoothing_of(0.5, sampling, certificate).certificate.kind == name
    else:
        with pytest.raises(ValueError, match=rf"certificate\.kind {name} does not go with sampling\.method {method}"):
            smoothing_of(0.5, sampling, certificate)
