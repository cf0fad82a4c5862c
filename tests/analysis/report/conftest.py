"""Reports as a reader has them: parsed HTML, a real small run, and a large hand-made one."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from srs_ray.analysis.report import Options, collect, render
from srs_ray.job import Job
from srs_ray.runner.backend import InProcess
from srs_ray.runner.certification import certify
from srs_ray.runs.directory import RunDirectory

LOADING = {"src", "srcset", "poster", "data", "action", "formaction", "background", "xlink:href"}
VOID = {"meta", "link", "img", "input", "br", "hr", "wbr"}


class Page(HTMLParser):
    """An HTML document: its elements with their attributes, its ids, and the text of each section by its heading."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.sections: dict[str, str] = {"": ""}
        self.open: list[str] = []
        self._section = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.elements.append((tag, given))
        if tag not in VOID and not self._in_drawing():
            self.open.append(tag)
        if tag in ("h2", "h3", "h4"):
            self._section = given["id"] if given.get("id") else self._section
            self.sections.setdefault(self._section, "")

    def _in_drawing(self) -> bool:
        return "svg" in self.open

    def handle_endtag(self, tag: str) -> None:
        if self._in_drawing() and tag != "svg":
            return
        assert self.open.pop() == tag, f"</{tag}> closes nothing that is open"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif not self.open or self.open[-1] != "style":
            self.sections[self._section] += " " + data if data.strip() else ""

    @property
    def ids(self) -> list[str]:
        return [given["id"] for _, given in self.elements if given.get("id")]

    @property
    def anchors(self) -> list[str]:
        """The places within the page that links lead to."""
        return [link[1:] for given in self.all("a") if (link := given.get("href") or "").startswith("#")]

    @property
    def references(self) -> set[str]:
        """The ids that links, drawings and labels name."""
        found = {link[1:] for _, given in self.elements if (link := given.get("href") or "").startswith("#")}
        found |= {given["aria-labelledby"] or "" for _, given in self.elements if "aria-labelledby" in given}
        clips = [given.get("clip-path") or "" for _, given in self.elements]
        return found | {clip[5:-1] for clip in clips if clip.startswith("url(#")}

    @property
    def loaded(self) -> list[str]:
        """What a browser would fetch."""
        found = [value or "" for _, given in self.elements for name, value in given.items() if name in LOADING]
        found += [given.get("href") or "" for tag, given in self.elements if tag in ("link", "use", "image", "base")]
        return [place for place in found if not place.startswith(("data:image/", "#"))]

    def text(self, section: str) -> str:
        """The words of a section, spaces as one."""
        return " ".join(self.sections[section].split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [given for each, given in self.elements if each == tag]


@pytest.fixture(scope="session")
def page_of() -> Callable[..., Page]:
    """A function that makes the report of runs, and parses it."""

    def make(*runs: str | Path, **options: Any) -> Page:
        return Page(render(collect(runs, Options(**options))))

    return make


@pytest.fixture(scope="session")
def digits_run(digits_settings: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of six digits, by serialized sampling, in this process."""
    output = tmp_path_factory.mktemp("runs") / "digits"
    job = Job.model_validate(digits_settings(output=str(output)))
    certify(job, lambda: InProcess(job.execution), Console(file=io.StringIO(), width=200))
    return output


@pytest.fixture
def write_many(write_run: Callable[..., Path]) -> Callable[..., Path]:
    """A function that writes a run of so many points, which are copies of a few; their labels are theirs modulo."""

    def write(
        name: str, count: int, few: Sequence[dict[str, Any]], classes: int, source: str = "val/{}.png", **settings: Any
    ) -> Path:
        run = write_run(name, few, every=1, stop=count, **settings)
        directory = RunDirectory.open(run)
        kinds = directory.attempts().to_pylist()
        rows = []
        for index in range(len(few), count):
            kind = kinds[index % len(kinds)]
            row = {**kind, "index": index, "source": source.format(index)}
            if kind["status"] == "ok":
                shift = (index // len(kinds)) % classes
                move = {name: _moved(kind[name], shift, classes) for name in ("label", "selected", "predicted")}
                lists = {
                    name: [_moved(c, shift, classes) for c in kind[name]] for name in ("classes", "selection_classes")
                }
                row |= move | lists
                row["class_name"] = f"class {row['label']}"
            rows.append(row | {"finished_at": datetime(2025, 3, 1, 13, tzinfo=UTC)})
        directory.append(rows)
        return run

    return write


def _moved(label: int, shift: int, classes: int) -> int:
    return label if label < 0 else (label + shift) % classes
