"""Radii as they are asked for on a command line."""

from __future__ import annotations

import copy

import pytest

from srs_ray.analysis.radii import parse_radii
from srs_ray.errors import SrsRayError


def test_numbers_and_fractions_keep_how_they_were_written():
    radii = parse_radii("0, 0.25,36/255,.5")
    assert radii == [0.0, 0.25, 36 / 255, 0.5]
    assert [radius.label for radius in radii] == ["0", "0.25", "36/255", ".5"]


def test_a_list_may_mix_numbers_text_and_parsed_radii():
    radii = parse_radii([0, 0.1, "108/255", *parse_radii("72/255")])
    assert radii == [0.0, 0.1, 108 / 255, 72 / 255]
    assert [radius.label for radius in radii] == ["0", "0.1", "108/255", "72/255"]


def test_a_copied_radius_keeps_its_label():
    assert copy.deepcopy(parse_radii("36/255"))[0].label == "36/255"


@pytest.mark.parametrize("bad", ["half", "-0.1", "1/0", "nan", "inf", "1/2/3", "", "36/", "1e999"])
def test_the_bad_piece_is_named(bad: str):
    with pytest.raises(SrsRayError) as caught:
        parse_radii(f"0,{bad},0.5")
    assert repr(bad) in str(caught.value)


def test_no_radii_at_all_are_refused():
    with pytest.raises(SrsRayError, match="no radii"):
        parse_radii([])
