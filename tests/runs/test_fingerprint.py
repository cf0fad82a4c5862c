"""The fingerprint tells two runs apart exactly where a setting does."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srs_ray.runs.fingerprint import ABSENT, differences, digest

scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.0, 0.5, 1.0, 1e-3]) | st.text(max_size=2)
fingerprints = st.dictionaries(st.sampled_from(["a", "a.b", "c"]), scalars | st.lists(scalars, max_size=2))


def test_digest_is_the_hash_of_the_same_text_in_every_version() -> None:
    text = '{"data.classes":["cat","\\u00e9"],"noise.sigma":0.5,"sampling.n":10000,"seed":0,"tolerance":null}'
    found = digest({"seed": 0, "sampling.n": 1e4, "noise.sigma": 0.5, "tolerance": None, "data.classes": ("cat", "é")})
    assert found == hashlib.sha256(text.encode()).hexdigest()


def test_digest_refuses_what_json_cannot_say() -> None:
    with pytest.raises(ValueError):
        digest({"noise.sigma": float("nan")})
    with pytest.raises(TypeError):
        digest({"weights": object()})


def test_differences_name_changed_added_and_removed_settings_in_order() -> None:
    old = {"steps": 3, "seed": 0, "audit": None}
    new = {"steps": 1, "seed": 0.0, "chains": 400}
    assert differences(old, new) == [("audit", None, ABSENT), ("chains", ABSENT, 400), ("steps", 3, 1)]


def test_a_switch_is_not_a_number() -> None:
    assert differences({"flag": True}, {"flag": 1}) == [("flag", True, 1)]


@settings(deadline=None)
@given(fingerprints, fingerprints)
def test_digests_agree_exactly_where_nothing_differs(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert (digest(old) == digest(new)) == (differences(old, new) == [])
