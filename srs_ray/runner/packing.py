"""The working folder of a submitted job: the job file, and the user's own files that it imports.

Nothing of these files is executed here: what belongs to them is found by their import statements.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from srs_ray.errors import JobError
from srs_ray.job import AnyJob
from srs_ray.models.user_code import Import, file_of_import
from srs_ray.models.user_sources import importable_from

JOB_FILE = "job.yaml"
MOST_BYTES = 50_000_000  # of all files together; Ray itself would take some more


def pack(job: AnyJob, folder: Path) -> list[tuple[str, int]]:
    """Writes the job into an empty folder, from which `srs-ray certify job.yaml` runs it anywhere; gives what it wrote,
    by where it was and how many bytes it has.

    The files that `model.import` and `data.import` name go along, each with all files in its folder or below that it
    can import. Files keep their places to each other, so that the run has the fingerprint that it has here. Modules
    (MODULE:NAME) are imported as the cluster has them. Raises JobError for a file that is missing or cannot be read,
    and where the files have more than MOST_BYTES together.
    """
    imports = {"model": getattr(job.model, "import_", None), "data": job.data.import_}
    files = {
        section: path.parent.resolve() / path.name
        for section, text in imports.items()
        if text is not None and (path := file_of_import(Import.parse(text), JobError)) is not None
    }
    roots = _outermost([file.parent for file in files.values()])
    contents: dict[Path, bytes] = {}
    settings = job.model_dump(mode="json")
    for section, file in files.items():
        number = next(number for number, root in enumerate(roots, start=1) if file.is_relative_to(root))
        carried = Path(f"code-{number}") / file.relative_to(roots[number - 1])
        contents |= {carried.parent / name: content for name, content in _contents(section, file).items()}
        settings[section]["import"] = f"{carried.as_posix()}:{Import.parse(str(imports[section])).name}"
    _refuse_many_bytes(contents)
    contents[Path(JOB_FILE)] = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).encode()
    origins = {Path(f"code-{number}"): root for number, root in enumerate(roots, start=1)}
    for place, content in contents.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(content)
    return [(_origin(place, origins), len(content)) for place, content in contents.items()]


def _origin(place: Path, origins: dict[Path, Path]) -> str:
    """Where a file of the working folder comes from; the job file, which is written anew, by its name."""
    root = next((root for carried, root in origins.items() if place.is_relative_to(carried)), None)
    return str(place) if root is None else str(root / Path(*place.parts[1:]))


def _outermost(folders: Sequence[Path]) -> list[Path]:
    """The folders that lie in none of the others."""
    distinct = list(dict.fromkeys(folders))
    return [each for each in distinct if not any(other in each.parents for other in distinct)]


def _contents(section: str, file: Path) -> dict[str, bytes]:
    """The file and what it can import, by their paths from its folder."""
    try:
        return {name: source.content for name, source in importable_from(file).items()}
    except OSError as error:
        raise JobError(f"{section}.import: {error.filename or file} cannot be read: {error.strerror}") from error


def _refuse_many_bytes(contents: dict[Path, bytes]) -> None:
    total = sum(map(len, contents.values()))
    if total > MOST_BYTES:
        largest = max(contents, key=lambda place: len(contents[place]))
        raise JobError(
            f"the job's own files have {total / 1e6:.1f} MB together, and {MOST_BYTES / 1e6:.0f} MB can be submitted "
            f"(the largest: {largest.name}, {len(contents[largest]) / 1e6:.1f} MB): keep weights and data in files on "
            "the cluster, or install the package there and import it as MODULE:NAME"
        )
