"""The job files that come with the package, by name."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shipped_jobs() -> dict[str, Path]:
    """Job files by name: their paths in the folder `jobs`, without `.yaml`, such as digits-srs.

    A wheel holds the folder inside the package. A checkout holds it beside the package.
    """
    folder = _PACKAGE / "jobs"
    if not folder.is_dir():
        folder = _PACKAGE.parent / "jobs"
    found = {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.yaml")}
    return dict(sorted(found.items()))
