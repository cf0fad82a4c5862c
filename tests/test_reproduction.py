"""docs/reproduction.md and what writes it: the published rows, ours beside them, and what certificates claim of F."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
import torch
from scipy.stats import beta, norm

from srs_ray.analysis import recertify
from srs_ray.analysis.run_info import RunInfo
from srs_ray.job_file import load_job
from srs_ray.models.mdeq.checkpoints import read_weights

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reproduction.md"
REPRODUCTION = "<!-- reproduction -->\nold\n<!-- /reproduction -->\n"
WEIGHTS = "<!-- weights -->\n<!-- /weights -->\n"
ON_DIGITS = (
    *("--no-ray", "--set", "model.arch=mdeq-tiny-digits", "--weights", "mdeq-tiny-digits-sigma25"),
    *(
        "--set",
        "data.kind=digits",
        "--set",
        "data.pixels=rounded",
        "--sigma",
        "0.25",
        "--set",
        "sampling.n0=10",
        "--n",
        "60",
        "--device",
        "cpu",
    ),
)


@pytest.fixture(scope="module")
def reproduction() -> ModuleType:
    """The script as a module: benchmarks/ is no package."""
    spec = importlib.util.spec_from_file_location("reproduction", ROOT / "benchmarks" / "reproduction.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look up their annotations
    spec.loader.exec_module(module)
    return module


def test_the_published_rows_are_those_of_the_job_files(reproduction, monkeypatch):
    monkeypatch.chdir(ROOT)
    smoothadv = {"cifar10-small-standard-30a-smoothadv": reproduction.SMOOTHADV}
    for name, row in (reproduction.PUBLISHED | smoothadv).items():
        path = reproduction.JOBS / f"{name}.yaml"
        figures = f"ACR {row.average_certified_radius}" if row.percent is None else " ".join(map(str, row.percent))
        assert f"\n#   {figures}\n" in path.read_text()
        job = load_job(path)
        assert job.report.radii == reproduction.RADII[: len(job.report.radii)]
        assert job.data.every == reproduction.TEST_POINTS // reproduction.PUBLISHED_POINTS


def test_runs_of_any_size_lie_within_the_published_points(reproduction, tmp_path):
    for points in (4, 20, 125, 500):
        command = reproduction.certify_command("cifar10-small-srs-3a", tmp_path, points, [])
        every = int(command[command.index("--every") + 1])
        assert every % 20 == 0
        assert len(range(0, 10_000, every)) == points


def frame(name: str, points: list[dict[str, Any]]) -> pd.DataFrame:
    """The points of a run of that job, 0, 20, ..., with the counts given; one without counts is in error."""
    rows = [
        {
            "index": 20 * i,
            "label": 3,
            "status": "ok" if "counts" in point else "error",
            "n": sum(point.get("counts", [])) if "counts" in point else pd.NA,
            "selected": 3 if "counts" in point else pd.NA,
            "classes": [3, 5],
            "audited": 0,
            "disagreed": 0,
            **point,
        }
        for i, point in enumerate(points)
    ]
    df = pd.DataFrame(rows).astype({"n": "Int64", "selected": "Int64"})
    job = load_job(ROOT / "jobs" / "paper" / f"{name}.yaml").model_dump(mode="json")
    RunInfo.from_run(name, job, {"start": 0, "stop": 20 * len(points), "every": 20}, 0).attach(df)
    return recertify(df)


def test_a_bound_above_what_f_says_of_the_class_is_counted_and_only_there(reproduction):
    standard = frame(
        "cifar10-small-standard-30a",
        [{"counts": [9_000, 1_000]}, {"counts": [9_000, 1_000]}, {}, {"counts": [4_000, 6_000]}, {"counts": [0, 0]}],
    )
    serialized = frame(
        "cifar10-small-srs-3a",
        [
            {"counts": [9_300, 700], "audited": 400, "disagreed": 13},  # 300 hits are false, as the audit sees
            {"counts": [9_000, 1_000], "audited": 400, "disagreed": 0},  # none is
            {"counts": [9_300, 700], "audited": 400, "disagreed": 13},  # nothing is known of F
            {"counts": [5_100, 4_900], "audited": 400, "disagreed": 4},  # F says another class; too few hits to certify
            {"counts": [9_000, 1_000], "audited": 400, "disagreed": 0},  # nothing is known of F
        ],
    )
    exact = reproduction.overclaims(recertify(serialized, "exact"), standard)
    assert (exact.points, exact.certified, exact.above_estimate, exact.above_bound) == (3, 2, 0, 0)
    assert exact.worst is None
    released = reproduction.overclaims(recertify(serialized, "released"), standard)
    assert (released.points, released.certified, released.above_estimate, released.above_bound) == (3, 2, 1, 1)
    share = beta.ppf(0.0005, 387, 14)
    claimed = beta.ppf(0.0005, 9_300 * share, 700 * share + 1)
    allowed = beta.ppf(0.999, 9_001, 1_000)
    assert released.worst == pytest.approx((0.5 * norm.ppf(claimed), 0.5 * norm.ppf(allowed)))


def test_a_bound_above_fs_share_and_below_its_upper_bound_is_chance(reproduction):
    standard = frame("cifar10-small-standard-30a", [{"counts": [9_000, 1_000]}])
    serialized = frame("cifar10-small-srs-3a", [{"counts": [9_150, 850], "audited": 400, "disagreed": 6}])
    found = reproduction.overclaims(recertify(serialized, "released"), standard)
    assert (found.above_estimate, found.above_bound) == (1, 0)


def test_the_page_has_its_places_and_its_links_lead_somewhere(reproduction):
    text = PAGE.read_text()
    for name in ("reproduction", "weights"):
        filled = reproduction.fill(text, name, "new\n")
        assert reproduction.fill(filled, name, "new\n") == filled
        assert f"<!-- {name} -->\nnew\n<!-- /{name} -->" in filled
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link and not link.startswith("#")]
    assert len(links) >= 4
    assert all((PAGE.parent / link).is_file() for link in links)


def test_a_page_without_its_place_is_refused_before_anything_is_certified(reproduction, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["reproduction.py"])
    page = tmp_path / "page.md"
    for text, missing in (("# A page\n", "reproduction"), (REPRODUCTION, "weights")):
        page.write_text(text)
        with pytest.raises(SystemExit, match=f"expected one line <!-- {missing} -->"):
            reproduction.main(["--points", "100", "--output", str(tmp_path), "--page", str(page), *ON_DIGITS])
        assert list(tmp_path.iterdir()) == [page]


def test_one_command_certifies_the_same_points_three_times_and_writes_the_tables(reproduction, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["reproduction.py"])
    page = tmp_path / "page.md"
    page.write_text(f"Before.\n{REPRODUCTION}After.\n{WEIGHTS}")
    images = ("--images", "handwritten digits")
    reproduction.main(["--points", "100", "--output", str(tmp_path), "--page", str(page), *images, *ON_DIGITS])
    text = page.read_text()
    assert text.startswith("Before.\n<!-- reproduction -->\n```sh\nsrs-ray certify jobs/paper/")
    assert "<!-- /reproduction -->\nAfter.\n<!-- weights -->\n" in text
    card = read_weights("mdeq-tiny-digits-sigma25").card
    assert f"| noisy accuracy, 30 steps from zero | {card['noisy_accuracy']['30']:.1%} |" in text
    assert f"| command | `{card['command']}` |" in text
    assert text.endswith("(page-weights.png)\n<!-- /weights -->\n")
    assert (tmp_path / "page-weights.png").read_bytes().startswith(b"\x89PNG")
    assert "old" not in text
    assert "| SRS 3A, published | released (unsound) | 60 | 50 | 38 | 29 | 21 | 12 | 8 | 0.59 |" in text
    for line, count in (
        (r"\| \*\*standard 30A, ours\*\* \| cohen \|", 1),
        (r"\| \*\*SRS [13]A, ours\*\* \| (released \(unsound\)|paper|exact) \|", 6),
        (r"\| SRS [13]A \| (released|paper|exact) \| 4 \|", 6),  # all 4 points are known of both F and the chains
        (r"\| cifar10-small-\S+ .* 4/4 \|", 7),
    ):
        assert len(re.findall(f"^{line}", text, re.MULTILINE)) == count, line
    for place in ("Ours", "Points"):
        assert f"{place}: handwritten digits (digits) [0:360:100], 4 of 4 points ended" in text
    assert "K = 400: radius capped at" in text
    assert f"with torch {torch.__version__.partition('+')[0]}" in text
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_that_does_not_start_ends_the_command_and_leaves_the_page(reproduction, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["reproduction.py"])
    page = tmp_path / "page.md"
    page.write_text(REPRODUCTION + WEIGHTS)
    with pytest.raises(SystemExit) as ended:
        reproduction.main(["--output", str(tmp_path), "--page", str(page), "--set", "noise.sigma=0"])
    assert ended.value.code == 2
    assert page.read_text() == REPRODUCTION + WEIGHTS
