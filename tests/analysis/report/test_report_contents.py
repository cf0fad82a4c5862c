"""What a report says of runs, real and hand-made."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from srs_ray.analysis import load_points
from srs_ray.analysis.report import Options, collect, write_report
from srs_ray.analysis.report.provenance import read_card
from srs_ray.analysis.report.rendering import SECTIONS
from srs_ray.analysis.report.thumbnails import Images, encoded
from srs_ray.data import open_data
from srs_ray.errors import SrsRayError
from srs_ray.job import Job
from srs_ray.job_file import load_job
from srs_ray.runner.backend import InProcess
from srs_ray.runner.certification import certify
from srs_ray.runs.directory import RunDirectory
from srs_ray.runs.fingerprint import digest
from srs_ray.smoothing.row import pixel_digest

STORED = Path(__file__).resolve().parents[2] / "stored" / "runs"


@pytest.fixture(scope="module")
def digits_page(page_of, digits_run):
    return page_of(digits_run)


# A real run


def test_it_has_every_section_and_a_table_of_contents_that_leads_there(digits_page):
    assert [f"run-1-{key}" for key, _ in SECTIONS if f"run-1-{key}" not in digits_page.ids] == []
    assert len(digits_page.anchors) == len(SECTIONS) + 1
    assert digits_page.references <= set(digits_page.ids)
    assert len(digits_page.references) > len(SECTIONS) + 10, "drawings refer to their own parts"


def test_ids_are_unique_all_elements_close_and_nothing_is_loaded(digits_page):
    assert len(digits_page.ids) == len(set(digits_page.ids))
    assert digits_page.open == []
    assert digits_page.loaded == []
    assert len(digits_page.scripts) == 1


def test_the_summary_says_what_was_certified_and_what_that_promises(digits_page, digits_run):
    text = digits_page.text("run-1-summary")
    done = load_points(digits_run)
    right = int(done["correct"].sum())
    assert f"6 of 6 points of digits were certified or abstained on: {right} certified with the right class" in text
    assert "mdeq-tiny-digits, solved from zero by at most 30 steps (each sample stops by itself" in text
    assert "each certificate is right with probability at least 1 - alpha = 0.99" in text
    assert "Randomly chosen votes are solved again by the base classifier (the audit)" in text
    assert "P[c \u2260 \u22121 and there is x\u2032" in text


def test_results_are_those_of_the_table(digits_page, digits_run):
    (result,) = collect([digits_run], Options(images=False)).runs
    text = digits_page.text("run-1-results")
    at = result.result.accuracies[1]
    assert f"certified accuracy at 0.125 {at.percent()} % {100 * at.low:.1f} to {100 * at.high:.1f} %" in text
    assert f"smoothed accuracy {result.smoothed.percent()} %" in text
    assert "clean accuracy of F, without noise not measured" in text


def test_rows_are_verified_while_it_is_made_and_what_is_not_checked_is_said(digits_page):
    text = digits_page.text("run-1-checked")
    assert text.startswith("Verification The rows hold. While this report was made, all 6 rows with a result")
    assert "Not checked: that the counts are those of the named model" in text


def test_the_card_of_the_weights_is_shown_where_it_is_theirs(digits_page, digits_run, tmp_path):
    text = digits_page.text("run-1-provenance")
    digest = RunDirectory.open(digits_run).fingerprint["model.weights.digest"]
    assert digest in text
    assert "accuracy under noise, by solver steps 1: 0.2461, 3: 0.9411, 30: 0.9494" in text
    assert "hours of training 0.0395" in text
    assert "srs-ray train jobs/digits-train.yaml" in text


@pytest.mark.parametrize(
    "weights", ["", ".", "..", "x" * 10_000, "~nobody-there/w", "/dev/stdin", "mdeq-tiny-digits-sigma25"]
)
def test_weights_without_their_own_card_have_none(weights):
    card = read_card({"model": {"weights": weights}}, "another digest")
    assert card.lines == []
    assert card.missing


def test_a_card_beside_the_weights_is_theirs_by_its_digest(tmp_path):
    job = {"model": {"weights": str(tmp_path / "w.safetensors")}}
    (tmp_path / "w.json").write_text(json.dumps({"digest": "d", "epochs": 3, "note": "a\x1b[31mb"}))
    assert read_card(job, "d").lines == [("epochs", "3"), ("note", "a\\x1b[31mb")]
    assert "is of other weights" in read_card(job, "e").missing
    (tmp_path / "w.json").write_text(json.dumps({"epochs": 3}))
    assert "is of other weights" in read_card(job, None).missing


def test_the_job_in_it_is_the_run_s_job(digits_page, digits_run, tmp_path):
    """Saved as it is shown, it certifies the same."""
    text = collect([digits_run], Options(images=False)).runs[0].provenance.job
    (tmp_path / "job.yaml").write_text(text)
    assert load_job(tmp_path / "job.yaml") == Job.model_validate(RunDirectory.open(digits_run).job)
    assert " ".join(text.split()[:12]) in digits_page.text("run-1-provenance")
    assert f"srs-ray certify job.yaml --output {digits_run}-again" in digits_page.text("run-1-again")


def test_pictures_are_the_certified_images(digits_settings, tmp_path, page_of, console):
    """Under so much noise that no digit is recognised: each point abstains, or is certified as another digit."""
    settings = digits_settings(output=str(tmp_path / "run"), noise={"sigma": 3.0})
    settings |= {"sampling": {"method": "standard", "n0": 4, "n": 20}, "certificate": {"alpha": 0.001}}
    job = Job.model_validate(settings)
    certify(job, lambda: InProcess(job.execution), console)
    (run,) = collect([tmp_path / "run"], Options()).runs
    page = page_of(tmp_path / "run")
    pictures = page.all("img")
    assert len(pictures) == run.wrong.total + run.abstentions.total > 0
    assert f"Pictures shown: {len(pictures)}, each of the certified image, by the digest" in page.text("run-1-checked")
    images = open_data(job.data, (1, 16, 16), 10)
    for picture in pictures:
        point = int(picture["alt"].removeprefix("Image of point ").partition(",")[0])
        shown = Image.open(io.BytesIO(base64.b64decode(picture["src"].partition(",")[2])))
        assert np.array_equal(np.asarray(shown), (images.image(point)[0] * 255).round().byte().numpy())
    assert page_of(tmp_path / "run", images=False).all("img") == []


# Hand-made runs


def test_a_certified_and_wrong_point_an_abstention_and_an_error_are_listed(write_run, points, page_of):
    points[2] |= {"source": "val/cat.png", "class_name": "cat"}
    page = page_of(write_run("small", points))
    wrong = page.text("run-1-wrong")
    assert "Certified with a wrong class (1)" in wrong
    assert "40 val/cat.png 1 cat 7 0." in wrong
    assert "7: 950, 8: 49, none: 1 of 1,000; 0 of 100 audited disagreed" in wrong
    assert "60 2 2 0." in page.text("run-1-abstained")
    assert "80 PointError: row 80 of cifar10-test.parquet: truncated image" in page.text("run-1-errors")
    assert "Pictures are missing: the data cannot be opened" in page.text("run-1-points")


def test_wrong_points_come_with_the_largest_radius_first_and_those_left_out_are_counted(write_many, page_of):
    few = [{"label": 3, "selected": 5, "hits": 800 + i} for i in range(7)]
    page = page_of(write_many("many", 300, few, 10))
    text = page.text("run-1-wrong")
    assert "Certified with a wrong class (300)" in text
    assert "100 more are left out here, of 300 in all" in text
    shown = re.findall(r"class \d+ (\d\.\d{3}) ", text)
    assert len(shown) == 200
    assert shown == sorted(shown, key=float, reverse=True)


def test_the_error_budget_is_alpha_for_each_point_with_a_result(write_run, points, page_of):
    text = page_of(write_run("small", points, alpha=0.01)).text("run-1-error")
    assert "in expectation at most 0.04 of the 3 certificates are false" in text
    assert "at most 4 \u00d7 0.01 = 0.04 (union bound): with probability at least 0.96" in text


def test_a_union_bound_of_one_or_more_is_said_to_bound_nothing(write_many, page_of):
    few = [{"label": 3, "selected": 3, "hits": 990}]
    text = page_of(write_many("many", 120, few, 10, alpha=0.01)).text("run-1-error")
    assert "nothing bounds the chance that all certificates are right at once" in text


def test_an_unsound_certificate_is_named_in_red_wherever_its_numbers_stand(write_run, points, page_of):
    page = page_of(write_run("table", points, kind="released"))
    assert "UNSOUND and guarantees nothing" in page.text("")
    for section in ("summary", "results", "limits"):
        assert "UNSOUND" in page.text(f"run-1-{section}").upper()
    assert "Any of the 3 certificates may be false" in page.text("run-1-error")
    alarms = [given for _, given in page.elements if given.get("class") == "alarm"]
    assert len(alarms) == 2
    assert "P[c" not in page.text("run-1-summary")
    sound = page_of(write_run("sound", points))
    assert "UNSOUND" not in " ".join(sound.sections.values())


def test_an_unfinished_run_says_how_many_points_are_missing(write_run, points, page_of):
    page = page_of(write_run("part", points, stop=400))
    assert "15 of 20 points asked for have no row yet" in page.text("run-1-summary")
    assert "Points without a row (15)" in page.text("run-1-limits")


def test_a_run_without_rows_makes_a_report(write_run, page_of):
    page = page_of(write_run("empty", [], stop=200))
    assert "0 of 10 points" in page.text("run-1-summary")
    assert "No point has ended." in page.text("run-1-curve")
    assert page.references <= set(page.ids)


def test_classes_have_their_shares_and_many_are_folded(write_run, write_many, points, page_of):
    points[0]["class_name"] = "tabby cat"
    assert "3 tabby cat 1 100.0 %" in page_of(write_run("small", points)).text("run-1-classes")
    few = [{"label": 0, "selected": 0, "hits": 990}, {"label": 0, "selected": 1, "hits": 990}]
    (run,) = collect([write_many("many", 500, few, 150)], Options()).runs
    assert (len(run.classes.rows), len(run.classes.rest), run.classes.left_out) == (20, 130, 0)
    assert run.classes.rows[0].right <= run.classes.rest[-1].right


def test_costs_are_those_of_the_columns(write_run, points, page_of):
    text = page_of(write_run("small", points)).text("run-1-cost")
    assert "estimation samples 4,000 1,000.0" in text
    assert "function evaluations by the sampler 13,200 3,300.0" in text
    assert "worker time on cpu 8 seconds 2 s" in text


def test_several_runs_have_sections_and_paired_differences(write_run, points, page_of):
    other = [*points[:4], {"label": 0, "selected": 0, "hits": 990}]
    page = page_of(write_run("first", points), write_run("second", other))
    text = page.text("comparison-paired")
    assert "second minus first , on the 5 points that ended in both" in text
    assert "0 +20.0 [" in text
    assert len(page.ids) == len(set(page.ids))
    assert page.references <= set(page.ids)
    assert {"run-1-summary", "run-2-summary", "comparison"} <= set(page.ids)


def test_runs_over_different_points_get_a_warning(write_run, points, page_of):
    text = page_of(write_run("first", points), write_run("second", points[:2])).text("comparison")
    assert "first and second are over different points (5 and 2 ended, 2 in both)" in text


@pytest.mark.parametrize("run", sorted(STORED.iterdir()), ids=lambda run: run.name)
def test_every_kind_of_stored_run_makes_a_report(run, page_of):
    page = page_of(run, images=False)
    assert page.open == []
    assert "The rows hold." in page.text("run-1-checked")


def test_a_run_with_a_forged_row_is_said_not_to_hold(write_run, points, page_of):
    run = write_run("small", points)
    directory = RunDirectory.open(run)
    row = directory.attempts().to_pylist()[0]
    directory.append([row | {"radius": 3.0}])
    assert "DOES NOT HOLD: 1 fault" in page_of(run).text("run-1-checked")


def test_interruptions_are_told(write_run, points, page_of):
    write_run("small", points)
    text = page_of(write_run("small", points)).text("run-1-provenance")
    assert "2 starts, so the run was continued 1 time" in text


# Pictures


class Two:
    """A data set of two grey images."""

    class_names = None

    def __len__(self) -> int:
        return 2

    def image(self, index: int) -> torch.Tensor:
        return torch.full((1, 4, 4), index / 2)


def test_an_image_with_other_pixels_than_its_row_s_is_not_shown():
    images = Images(Two())
    assert images.thumbnail(1, pixel_digest(Two().image(1))).startswith("data:image/png;base64,")
    assert images.thumbnail(0, pixel_digest(Two().image(1))) is None
    assert images.thumbnail(5, "no such point") is None
    assert images.notes == [
        "Pictures are missing (1): the images at hand are not those that were certified.",
        "Pictures are missing (1): the images cannot be read.",
    ]


def test_pictures_end_where_the_report_would_become_too_large():
    images = Images(Two(), budget=10)
    shown = [images.thumbnail(1, pixel_digest(Two().image(1))) for _ in range(3)]
    assert [each is not None for each in shown] == [True, False, False]
    assert images.notes == ["Pictures are missing (2): the report would become too large."]


def test_large_images_become_small_photographs():
    uri = encoded(torch.rand(3, 224, 160))
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert (picture.format, picture.size) == ("JPEG", (69, 96))
    assert encoded(torch.rand(2, 8, 8)) is None


def test_code_that_a_run_names_as_its_data_is_not_run_unasked(write_run, points, page_of, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("from pathlib import Path\nPath('ran').touch()\n\ndef data():\n    return []\n")
    run = write_run("small", points)
    document = json.loads((run / "run.json").read_text())
    job, settings = document["job"], document["fingerprint"]["settings"]
    job["data"] = {"import": "mine.py:data", "start": 0, "stop": None, "every": 20}
    del settings["data.split"]
    settings |= {"data.kind": "import", "data.import": "mine.py:data"}
    was, now = document["fingerprint"]["digest"], digest(settings)
    document["fingerprint"]["digest"] = now
    (run / "run.json").write_text(json.dumps(document))
    for part in (run / "points").iterdir():
        table = pq.read_table(part)
        metadata = {key: value.replace(was.encode(), now.encode()) for key, value in table.schema.metadata.items()}
        pq.write_table(table.replace_schema_metadata(metadata), part)
    text = page_of(run).text("run-1-points")
    assert "the data are code (mine.py:data), which a report runs only by --run-code" in text
    assert not (tmp_path / "ran").exists()
    page_of(run, run_code=True)
    assert (tmp_path / "ran").exists()


# Files


def test_a_report_without_images_needs_neither_torch_nor_ray(tmp_path):
    script = (
        "import sys; from srs_ray.analysis.report import Options, write_report\n"
        "write_report(sys.argv[2:], sys.argv[1], Options(images=False))\n"
        "print([m for m in ('torch', 'ray') if m in sys.modules])"
    )
    runs = [str(run) for run in sorted(STORED.iterdir())[:2]]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "r.html"), *runs], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    assert (tmp_path / "r.html").stat().st_size > 10_000


def test_a_suffix_of_no_kind_is_refused(write_run, points, tmp_path):
    with pytest.raises(SrsRayError, match=r"its suffix must be \.html or \.pdf"):
        write_report([write_run("small", points)], tmp_path / "report.docx", Options())
    with pytest.raises(SrsRayError, match="no run to report"):
        write_report([], tmp_path / "report.html", Options())
