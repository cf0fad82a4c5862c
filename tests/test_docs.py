"""The documentation site: its links, its reference from the code, its navigation, and the words of its prose."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import srs_ray
from srs_ray.attacks.row import AttackRow
from srs_ray.job import Job
from srs_ray.lipschitz.row import LipschitzRow
from srs_ray.runs.attack_schema import ATTACK_COLUMNS
from srs_ray.runs.schema import COLUMNS
from srs_ray.settings_reference import setting_names
from srs_ray.smoothing.row import PointRow
from srs_ray.training.settings import TrainJob

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "cluster" / "README.md", *sorted(DOCS.rglob("*.md"))]
FROM_ELSEWHERE = ("LICENSE", "CITATION.cff")
# Pages in the words of the house; the others are older, or hold tables that programs write.
PLAIN = [
    ROOT / "README.md",
    *sorted((DOCS / "guides").glob("*.md")),
    *(DOCS / f"{name}.md" for name in ("audit", "glossary", "starts")),
]
RIDDLES = r"\b(hardly|speaks? for|goes by|of which|is to|are to)\b"


def by_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture(scope="module")
def code_reference() -> ModuleType:
    return hook("code_reference")


@pytest.fixture(scope="module")
def site_pages() -> ModuleType:
    return hook("site_pages")


def hook(name: str) -> ModuleType:
    """A hook as a module: docs/hooks/ is no package."""
    sys.path.insert(0, str(DOCS / "hooks"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(DOCS / "hooks"))


# Links and words


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_every_link_leads_somewhere(page, code_reference):
    made = {(DOCS / place).resolve() for place in code_reference.pages()}
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))]
    inside = [link for link in links if link and "://" not in link and link not in FROM_ELSEWHERE]
    assert [
        link for link in inside if not (page.parent / link).exists() and (page.parent / link).resolve() not in made
    ] == []


def test_licence_and_citation_are_there():
    assert [name for name in FROM_ELSEWHERE if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("page", PLAIN, ids=by_name)
def test_the_prose_has_no_riddles(page):
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert re.findall(RIDDLES, prose) == []


# The reference


@pytest.mark.parametrize(("job", "place"), [(Job, "reference/job.md"), (TrainJob, "reference/training.md")])
def test_every_setting_has_its_meaning_on_the_page(job, place, code_reference):
    text = code_reference.pages()[place]
    assert "|  |" not in text, "a setting without a meaning"
    names = setting_names(job)
    assert len(names) > 40
    if job is TrainJob:
        assert "[those of a job](job.md#data)" in text
        names = {name for name in names if not name.startswith("data.")}
    assert {name for name in names if f"| `{name}` |" not in text} == set()


def test_settings_show_type_limits_and_default(code_reference):
    text = code_reference.pages()["reference/job.md"]
    assert "| `sampling.n` | int ≥ 1 | `10000` |" in text
    assert "| `noise.sigma` | float > 0 | **required** |" in text
    assert "| `execution.batch` | `auto` or int ≥ 1 | `auto` |" in text
    assert "| `data.stop` | int ≥ 0 or `null` | `null` |" in text
    assert "### sampling.method: anchored" in text
    assert "`sampling.warmup_steps` | int ≥ 1 | `10` |" in text
    assert text.count("`sampling.warmup_steps`") == 1, "settings that are read only for older runs are left out"


def test_every_column_is_a_field_of_a_row_and_has_its_meaning(code_reference):
    fields = {*PointRow.__dataclass_fields__, *LipschitzRow.__dataclass_fields__}
    assert {column.name for column in COLUMNS} == fields
    text = code_reference.pages()["reference/columns.md"]
    for column in COLUMNS:
        assert f"| `{column.name}` | " in text
        assert column.meaning.endswith(".")
        assert column.meaning in text


def test_every_column_of_an_attack_is_a_field_of_a_row_and_has_its_meaning(code_reference):
    assert {column.name for column in ATTACK_COLUMNS} == set(AttackRow.__dataclass_fields__)
    text = code_reference.pages()["reference/columns.md"].partition("## Columns of an attack")[2]
    for column in ATTACK_COLUMNS:
        assert column.meaning.endswith(".")
        assert column.meaning in text


def test_every_command_is_on_the_page_with_its_options(code_reference):
    text = code_reference.pages()["reference/commands.md"]
    names = [name for name, _ in code_reference.commands()]
    assert {"certify", "verify", "attack", "train", "weights calibrate"} <= set(names)
    assert all(f"## srs-ray {name}\n" in text for name in names)
    assert "| `--target-radius` |" in text


def test_every_public_name_is_on_the_page(code_reference):
    named = [name for names in code_reference.FUNCTIONS.values() for name in names]
    assert sorted(named) == sorted(srs_ray.__all__)


# The glossary


def test_the_glossary_is_in_order_and_every_word_of_it_leads_on():
    rows = [line for line in (DOCS / "glossary.md").read_text(encoding="utf-8").splitlines() if line.startswith("| **")]
    words = [re.match(r"\| \*\*(.*?)\*\*", row).group(1).lower().replace("_", "") for row in rows]
    assert words == sorted(words)
    assert len(words) > 30
    assert [row for row in rows if "](" not in row] == []


def test_the_anchors_of_the_glossary_are_headings(code_reference):
    made = code_reference.pages()
    for place, anchor in re.findall(r"\]\(([^)#]+)#([^)]+)\)", (DOCS / "glossary.md").read_text(encoding="utf-8")):
        text = made[place] if place in made else (DOCS / place).read_text(encoding="utf-8")
        titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        headings = [re.sub(r"[^\w\s-]", "", title).strip().lower() for title in titles]
        assert anchor in [heading.replace(" ", "-") for heading in headings], (place, anchor)


# The site


def test_the_navigation_has_every_page(code_reference, site_pages):
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    shown = set(re.findall(r"[\w/.-]+\.md", str(config["nav"])))
    written = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert shown == written | set(code_reference.pages()) | set(site_pages.FROM_ELSEWHERE.values())


def test_links_of_the_front_page_lead_to_pages_of_the_site(site_pages):
    text = "[a](docs/guides/own-model.md#in-python) [b](cluster/README.md) [c](CONTRIBUTING.md) ![d](docs/demo.png)"
    assert site_pages.relinked(text, "README.md", "index.md") == (
        "[a](guides/own-model.md#in-python) [b](guides/clusters.md) [c](repository/CONTRIBUTING.md.md) ![d](demo.png)"
    )
    assert site_pages.relinked("[e](../../jobs/paper)", "docs/guides/a.md", "guides/a.md") == (
        "[e](../repository/jobs/paper.md)"
    )


def test_a_link_to_a_file_that_is_not_there_is_a_warning(site_pages, caplog):
    assert site_pages.linked_files("[a](../srs_ray/gone.py) [b](../Makefile)", "docs/audit.md") == {"Makefile"}
    assert "docs/audit.md links to srs_ray/gone.py" in caplog.text


def test_a_linked_file_becomes_a_page_with_its_text(site_pages):
    assert (ROOT / "jobs" / "digits-srs.yaml").read_text().rstrip() in site_pages.source_page("jobs/digits-srs.yaml")
    assert "cifar10-small-srs-3a.yaml" in site_pages.source_page("jobs/paper")


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path):
    pytest.importorskip("mkdocs", reason="make docs installs what the site needs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "certify_points" in (tmp_path / "site" / "reference" / "python.html").read_text()
