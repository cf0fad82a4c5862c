"""MkDocs hook: pages that are made from other files, and links that lead out of docs/ to files of the repository.

README.md is the home page and cluster/README.md the guide to clusters. The reference is made from the code. A file of
the repository that a page links to becomes a page with its text, so that the site is whole without the repository.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

import code_reference

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
FROM_ELSEWHERE = {"README.md": "index.md", "cluster/README.md": "guides/clusters.md"}
_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".md": "markdown", ".sh": "sh", ".toml": "toml"}
_warnings = logging.getLogger("mkdocs.hooks.site_pages")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that no file of docs/ holds."""
    from mkdocs.structure.files import File

    made = dict(code_reference.pages())
    homes = {file.src_uri: f"docs/{file.src_uri}" for file in files.documentation_pages()}
    homes |= {uri: home for home, uri in FROM_ELSEWHERE.items()}
    for home, uri in FROM_ELSEWHERE.items():
        made[uri] = relinked((ROOT / home).read_text(encoding="utf-8"), home, uri)
    for home in homes.values():
        for linked in linked_files((ROOT / home).read_text(encoding="utf-8"), home):
            made[source_uri(linked)] = source_page(linked)
    for uri, text in made.items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with links to files of the repository leading to their pages."""
    uri = page.file.src_uri
    return relinked(markdown, f"docs/{uri}", uri) if (ROOT / "docs" / uri).is_file() else markdown


def relinked(text: str, home: str, uri: str) -> str:
    """The text of the repository's file `home`, its links as the site's page `uri` needs them."""

    def replaced(found: re.Match[str]) -> str:
        linked = _in_repository(found[2], home)
        if linked is None:
            return found[0]
        target = _site_uri(linked)
        return f"{found[1]}{posixpath.relpath(target, posixpath.dirname(uri) or '.')}{found[3] or ''}{found[4]}"

    return _LINK.sub(replaced, text)


def linked_files(text: str, home: str) -> set[str]:
    """The files and folders of the repository that the text links to, and that are not pages or pictures of docs/."""
    linked = {_in_repository(found[2], home) for found in _LINK.finditer(text)} - {None}
    kept = {path for path in linked if path is not None and _site_uri(path) == source_uri(path)}
    for path in sorted(path for path in kept if not (ROOT / path).exists()):
        _warnings.warning("%s links to %s, which the repository does not have", home, path)
        kept.discard(path)
    return kept


def source_page(path: str) -> str:
    """A page with the text of a file, or the names in a folder."""
    place = ROOT / path
    if place.is_dir():
        text, language = "\n".join(sorted(each.name for each in place.iterdir() if each.name != "__pycache__")), ""
    else:
        text, language = place.read_text(encoding="utf-8").rstrip(), _LANGUAGES.get(place.suffix, "")
    return f"---\nsearch:\n  exclude: true\n---\n\n# {path}\n\n`````{language}\n{text}\n`````\n"


def source_uri(path: str) -> str:
    """The place in the site of the page of a file of the repository."""
    return f"repository/{path}.md"


def _site_uri(path: str) -> str:
    """The place in the site of a file of the repository."""
    if path in FROM_ELSEWHERE:
        return FROM_ELSEWHERE[path]
    return path.removeprefix("docs/") if path.startswith("docs/") else source_uri(path)


def _in_repository(target: str, home: str) -> str | None:
    """The file of the repository that a link in `home` leads to; None for an address elsewhere."""
    if "://" in target or target.startswith("mailto:"):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(home), target)).rstrip("/")
