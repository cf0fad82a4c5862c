"""Names and texts that somebody else chose: they are text in a report, and short."""

from __future__ import annotations

import pytest

from srs_ray.analysis.report import Options, write_report

LARGEST = 5_000_000  # bytes
SCRIPT = "</script><script>alert(1)</script>"
NAMES = {
    "a script": SCRIPT,
    "an attribute": '" onerror="alert(1)" x="',
    "a template": "{{ 7 * 7 }}{% for x in y %}",
    "a style": "</style><style>*{display:none}",
    "a comment": "<!-- --><![CDATA[",
    "controls": "a\x1b[31m\x00\x08b",
    "right to left": "cat\u202egpj.exe",
    "a surrogate": "a\udc80b",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_hostile_name_is_text(name, write_run, points, page_of):
    if "\udc80" in name:
        name = name.encode("ascii", "backslashreplace").decode()  # rows are UTF-8
    for point in points:
        point |= {"source": name, "class_name": name}
    points[4]["error"] = f"PointError: {name}"
    run = write_run("small", points)
    page = page_of(run)
    assert page.open == []
    assert len(page.scripts) == 1
    assert "alert" not in page.scripts[0]
    assert page.loaded == []
    assert [given for _, given in page.elements for key in given if key.startswith("on")] == []
    shown = "".join(page.sections.values())
    assert all(character.isprintable() or character in "\n\xa0" for character in shown)
    assert (
        name.replace("\x1b", "\\x1b").replace("\x00", "\\x00").replace("\x08", "\\x08").replace("\u202e", "\\u202e")
        in shown
    )


def test_a_name_of_ten_thousand_characters_is_cut(write_run, points, page_of):
    for point in points:
        point |= {"source": "s" * 10_000, "class_name": "c" * 10_000}
    points[4]["error"] = "e" * 10_000
    page = page_of(write_run("small", points))
    shown = "".join(page.sections.values())
    assert "s" * 120 + "\u2026 (10,000 characters)" in shown
    assert all(letter * 1000 not in shown for letter in "sce")


def test_what_a_run_directory_is_called_is_text(write_run, points, page_of):
    page = page_of(write_run("<b onclick=1>&amp;\u202e", points))
    assert "b" not in {tag for tag, _ in page.elements}
    assert "<b onclick=1>&amp;\\u202e" in page.text("run-1")


@pytest.mark.parametrize("count", [5_000, pytest.param(50_000, marks=pytest.mark.slow)])
def test_a_report_of_many_points_is_below_five_megabytes(count, write_many, tmp_path):
    few = [{"label": 3, "selected": 3, "hits": 700 + i, "disagreed": 0} for i in range(250)]
    few += [{"label": 3, "selected": 5, "hits": 700 + i} for i in range(40)]
    few += [{"label": 2, "selected": 2, "hits": 510 - i} for i in range(40)]
    few += [{"label": None, "error": f"PointError: {SCRIPT * 20}"}]
    run = write_many("large", count, few, 1000, source="val/" + "n" * 300 + "{}.png")
    made = write_report([run], tmp_path / "report.html", Options())
    assert (tmp_path / "report.html").stat().st_size < LARGEST
    assert len(made.runs[0].frame) == count
    assert made.runs[0].verification.holds
