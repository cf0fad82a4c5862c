"""How the code is arranged: imports point one way, and Ray is the runner's alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import srs_ray

PACKAGE = Path(srs_ray.__file__).parent
# cli -> planning, analysis -> runner -> training -> runs, attacks -> smoothing, lipschitz, data -> models -> solvers:
# a room imports from those above its own row here, and not from its neighbours in it. Some lie beside the runner.
CLI = ("attack", "jobs", "options", "output", "plan", "predict", "report", "results", "status", "verify", "weights")
ROWS = [
    {"settings", "errors", "regular_files", "job_yaml"},
    {"solvers"},
    {"models"},
    {"smoothing", "lipschitz", "data", "execution"},
    {"runs", "attacks"},  # rows of runs are held against the bounds of their counts
    {"training"},
    {"runner", "job", "job_file", "interface"},
    {"planning", "analysis", "image_files", "settings_reference", "job_template"},
    {"cli", *(f"cli_{name}" for name in CLI)},
    {"__main__"},
]
ROW_OF = {room: row for row, rooms in enumerate(ROWS) for room in rooms}
# Job files hold jobs, and the cli is one room in several files.
BESIDE = {
    "srs_ray.job_file": {"srs_ray.job"},
    "srs_ray.interface": {"srs_ray.job", "srs_ray.job_file"},
    "srs_ray.runner": {"srs_ray.job"},
    "srs_ray.job_template": {"srs_ray.settings_reference"},
    "srs_ray.cli": {f"srs_ray.cli_{name}" for name in CLI},
    "srs_ray.cli_attack": {"srs_ray.cli_options", "srs_ray.cli_output"},
    "srs_ray.cli_jobs": {"srs_ray.cli_options", "srs_ray.cli_output"},
    "srs_ray.cli_plan": {"srs_ray.cli_options"},
    "srs_ray.cli_predict": {"srs_ray.cli_options"},
    "srs_ray.cli_weights": {"srs_ray.cli_options"},
    "srs_ray.cli_results": {"srs_ray.cli_options", "srs_ray.cli_output"},
    "srs_ray.cli_status": {"srs_ray.cli_options", "srs_ray.cli_output", "srs_ray.cli_results"},
    "srs_ray.cli_report": {"srs_ray.cli_options", "srs_ray.cli_output", "srs_ray.cli_results"},
    "srs_ray.cli_verify": {"srs_ray.cli_options", "srs_ray.cli_output", "srs_ray.cli_results"},
}
Imports = dict[str, set[str]]


def modules() -> Iterator[tuple[str, Path]]:
    """Every module under srs_ray by its dotted name."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports_in(text: str) -> set[str]:
    """The modules that a module imports, wherever in it, under `if TYPE_CHECKING` too; `from a import b` is of a.

    From the package itself it is of a.b, which may be a module. A relative import is of the module `.`.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            of_package = {f"srs_ray.{alias.name}" for alias in node.names}
            found |= {"."} if node.level else of_package if node.module == "srs_ray" else {str(node.module)}
    return found


@pytest.fixture(scope="module")
def imports() -> Imports:
    return {name: imports_in(path.read_text(encoding="utf-8")) for name, path in modules()}


def room_of(module: str) -> str:
    """The part of the package that a module lies in; the package itself is the room ''."""
    return module.split(".")[1] if "." in module else ""


def within(module: str, home: str) -> bool:
    return module == home or module.startswith(f"{home}.")


def wrong_imports(imports: Imports) -> list[str]:
    """Imports that do not point down, each as `importer -> imported`."""
    wrong = []
    for importer, found in imports.items():
        for imported in sorted(found):
            if not within(imported, "srs_ray"):
                continue
            here, there = room_of(importer), room_of(imported)
            if here == there or not here or imported == "srs_ray":  # the package itself only names what lies where
                continue
            beside = {each for home, allowed in BESIDE.items() if within(importer, home) for each in allowed}
            if ROW_OF.get(there, len(ROWS)) < ROW_OF[here] or any(within(imported, each) for each in beside):
                continue
            wrong.append(f"{importer} -> {imported}")
    return wrong


def test_every_room_has_its_row(imports: Imports) -> None:
    rooms = {room_of(name) for name in imports} - {""}
    assert rooms - set(ROW_OF) == set(), "a new room: say in ROWS what may import it"
    assert len(imports) > 100


def test_imports_are_absolute(imports: Imports) -> None:
    assert [name for name, found in imports.items() if "." in found] == []


def test_imports_point_one_way(imports: Imports) -> None:
    assert wrong_imports(imports) == []


@pytest.mark.parametrize(
    ("importer", "text"),
    [
        ("srs_ray.smoothing.judge", "from srs_ray.runner.worker import Row"),
        ("srs_ray.smoothing.judge", "def f():\n    import srs_ray.runner.worker"),
        ("srs_ray.smoothing.judge", "from srs_ray import runner"),
        ("srs_ray.smoothing.noise", "if TYPE_CHECKING:\n    from srs_ray.data import PointDataset"),
        ("srs_ray.smoothing.row", "from srs_ray.runs.schema import Row"),
        ("srs_ray.models.opened", "from srs_ray.smoothing.noise import Domain"),
        ("srs_ray.solvers.naive", "from srs_ray.models.opened import Opened"),
        ("srs_ray.settings", "from srs_ray.solvers.settings import SolverSettings"),
        ("srs_ray.training.trainer", "from srs_ray.job import Job"),
        ("srs_ray.interface", "from srs_ray.runner.worker import WorkerSpec"),
        ("srs_ray.job", "from srs_ray.runner.worker import Row"),
        ("srs_ray.runner.worker", "from srs_ray.planning.plan import JobPlan"),
        ("srs_ray.runner.worker", "from srs_ray.interface import certify_point"),
        ("srs_ray.analysis.points", "from srs_ray.planning.plan import JobPlan"),
        ("srs_ray.planning.plan", "from srs_ray.cli_plan import plan"),
    ],
)
def test_an_import_that_points_another_way_is_found(importer: str, text: str) -> None:
    (found,) = wrong_imports({importer: imports_in(text)})
    assert found.startswith(f"{importer} -> srs_ray.")


def test_only_the_runner_imports_ray(imports: Imports) -> None:
    homes = {room_of(name) for name, found in imports.items() if any(within(module, "ray") for module in found)}
    assert homes == {"runner"}


def test_packages_load_ray_only_where_it_is_asked_for() -> None:
    """What Python callers use comes without Ray and without the runner; each in a process of its own."""
    check = "import sys; print([m for m in sys.modules if m == 'ray' or m.startswith('srs_ray.runner')])"
    done = subprocess.run(
        [sys.executable, "-c", f"from srs_ray import *; import srs_ray.interface; {check}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
