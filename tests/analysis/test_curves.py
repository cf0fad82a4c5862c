"""Curves as files: something is drawn, and the figure says what has to be said."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from srs_ray.analysis.plot import plot_curves
from srs_ray.analysis.points import load_points
from srs_ray.analysis.recertification import recertify
from srs_ray.analysis.run_info import RunInfo
from srs_ray.errors import SrsRayError


@pytest.fixture
def frames(write_run, points):
    srs = load_points(write_run("srs", points))
    return [srs, load_points(write_run("standard", points, method="standard", kind="cohen"))]


def texts(svg: Path) -> str:
    """What an SVG of matplotlib says: it draws glyphs, and notes their text in comments."""
    return " ".join(" ".join(re.findall(r"<!-- (.*?) -->", svg.read_text(), flags=re.S)).split())


def test_png_shows_both_runs_in_their_colours(frames, tmp_path):
    image = imread(plot_curves(frames, tmp_path / "deep" / "curves.png"))
    pixels = (image[..., :3] * 255).round().astype(int).reshape(-1, 3)
    for colour in ("0072B2", "D55E00"):
        rgb = [int(colour[i : i + 2], 16) for i in (0, 2, 4)]
        assert (np.abs(pixels - rgb).max(axis=1) <= 2).sum() > 300


def test_pdf_and_svg_are_whole_files_of_their_kind(frames, tmp_path):
    pdf = plot_curves(frames, tmp_path / "curves.pdf").read_bytes()
    assert pdf.startswith(b"%PDF-")
    assert pdf.rstrip().endswith(b"%%EOF")
    svg = plot_curves(frames, tmp_path / "curves.svg").read_text()
    assert svg.rstrip().endswith("</svg>")


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_same_runs_give_the_same_file(frames, tmp_path, suffix: str):
    first, second = (plot_curves(frames, tmp_path / f"{name}.{suffix}").read_bytes() for name in "ab")
    assert first == second


def test_the_figure_names_setting_certificate_alpha_n_k_cap_and_subset(frames, tmp_path):
    text = texts(plot_curves(frames, tmp_path / "curves.svg"))
    cap = RunInfo.of(frames[0]).radius_cap
    assert "SRS 3A, exact, sigma = 0.5: srs" in text
    assert "standard 30A, cohen, sigma = 0.5: standard" in text
    assert "exact, alpha = 0.001, n = 1,000, K = 100" in text
    assert f"= {cap:.3g} (sigma = 0.5)" in text
    assert "cifar10 test [0:100:20], 5 of 5 points ended" in text
    assert "right with probability at least" in text


def test_the_figure_says_that_released_is_unsound_and_recomputed(frames, tmp_path):
    text = texts(plot_curves([recertify(frames[0], "released")], tmp_path / "curves.svg"))
    assert "released (UNSOUND), recomputed" in text
    assert "it can certify radii above the true ones" in text
    assert "right with probability" not in text


def test_a_cap_in_view_is_marked_and_one_out_of_view_is_not(frames, tmp_path):
    cap = RunInfo.of(frames[0]).radius_cap
    marked = texts(plot_curves(frames[:1], tmp_path / "a.svg", max_radius=1.1 * cap)).split().count("cap")
    unmarked = texts(plot_curves(frames[:1], tmp_path / "b.svg", max_radius=0.9 * cap)).split().count("cap")
    assert marked == unmarked + 1


def test_runs_without_a_certified_point_or_without_any_point_can_be_drawn(write_run, points, tmp_path):
    frames = [load_points(write_run("new", [], stop=20)), load_points(write_run("abstained", points[3:]))]
    assert "SRS 3A, exact, sigma = 0.5: abstained" in texts(plot_curves(frames, tmp_path / "curves.svg"))


def test_a_curve_by_looks_is_a_floor_beyond_its_targets_and_the_figure_says_so(frames, write_run, points, tmp_path):
    by_looks = {"method": "standard", "kind": "mixture", "target_radii": [0, 0.25]}
    looks = load_points(write_run("looks", points, **by_looks))
    svg = plot_curves([frames[0], looks], tmp_path / "curves.svg")
    assert set(re.findall(r'id="((?:full|floor)-\d)"', svg.read_text())) == {"full-1", "floor-1"}
    assert "Off its dots, and dotted: a floor; sampling of a point stops when its target radii (0, 0.25)" in texts(svg)
    full = plot_curves(frames, tmp_path / "full.svg")
    assert not re.findall(r'id="(?:full|floor)-\d"', full.read_text())
    assert "floor" not in texts(full)
    again = plot_curves([recertify(looks, alpha=0.01)], tmp_path / "again.svg")
    assert re.findall(r'id="((?:full|floor)-\d)"', again.read_text()) == ["floor-0"]


def test_the_figure_of_an_unfinished_run_says_what_that_may_hide(write_run, points, tmp_path):
    text = texts(plot_curves([load_points(write_run("half", points, stop=200))], tmp_path / "curves.svg"))
    assert "5 of 10 points ended" in text
    assert "the curve of an unfinished run may lie too high" in text
    assert "in expectation at most 0.004" in text


def test_a_runs_name_is_drawn_as_it_is(write_run, points, tmp_path):
    df = load_points(write_run("_$a_b$", points))
    assert "SRS 3A, exact, sigma = 0.5: _$a_b$" in texts(plot_curves([df], tmp_path / "curves.svg"))


@pytest.mark.parametrize("max_radius", [0.0, -1.0, float("nan"), float("inf")])
def test_an_axis_without_extent_is_refused(frames, tmp_path, max_radius: float):
    with pytest.raises(SrsRayError, match="above 0"):
        plot_curves(frames, tmp_path / "curves.svg", max_radius)


def test_an_unknown_suffix_is_refused_with_the_known_ones(frames, tmp_path):
    with pytest.raises(SrsRayError, match=r"curves\.gif.*\.pdf, \.png, \.svg"):
        plot_curves(frames, tmp_path / "curves.gif")


def test_an_output_that_cannot_be_written_is_named(frames, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(SrsRayError, match=r"cannot write .*curves\.png"):
        plot_curves(frames, tmp_path / "file" / "curves.png")
