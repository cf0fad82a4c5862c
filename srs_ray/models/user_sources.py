"""Files of the user's, told from installed ones, and loaded from the very bytes that are hashed."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import sysconfig
from functools import cached_property
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)
from pathlib import Path
from types import CodeType, ModuleType

import srs_ray
from srs_ray.regular_files import read_regular

LARGEST_SOURCE = 2**30  # bytes of one file of the user's code, compiled or not
_INSTALLATIONS = ("site-packages", "dist-packages")
_LIBRARIES = (
    Path(sysconfig.get_path("stdlib")),
    Path(sysconfig.get_path("platstdlib")),
    Path(srs_ray.__file__).resolve().parent,
)


class UserSource(SourceFileLoader):
    """Loads one file of the user's from the bytes that it hashes.

    Python's own loader may run cached bytecode of an older text, of the same length and written in the same second.
    """

    @cached_property
    def content(self) -> bytes:
        return read_regular(self.path, LARGEST_SOURCE)

    @cached_property
    def digest(self) -> str:
        """The sha256 of the file's bytes."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def edited(self) -> bool:
        """Whether the file has changed or gone since it was loaded."""
        try:
            return read_regular(self.path, LARGEST_SOURCE) != self.content
        except OSError:
            return True

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.content, self.path)

    @cached_property
    def imports(self) -> frozenset[str]:
        """The names in its import statements, also in functions; `from a import b` gives `a` and `a.b`."""
        try:
            nodes = list(ast.walk(ast.parse(self.content)))
        except (SyntaxError, ValueError):
            return frozenset()
        package = self.name if self.is_package(self.name) else self.name.rpartition(".")[0]
        found: set[str] = set()
        for node in nodes:
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
                base = ".".join(filter(None, [*above, node.module]))
                found.update(f"{base}.{alias.name}" for alias in node.names)
        return frozenset(name for dotted in found for name in with_parents(dotted))


class UserFinder(FileFinder):
    """Finds modules in a user's folder; a name of the standard library remains the standard library's."""

    def find_spec(self, fullname: str, target: ModuleType | None = None) -> ModuleSpec | None:
        return None if fullname in sys.stdlib_module_names else super().find_spec(fullname, target)


def finder_of(folder: str | Path) -> UserFinder:
    """What finds the modules in a user's folder, without importing any."""
    return UserFinder(str(folder), (ExtensionFileLoader, EXTENSION_SUFFIXES), (UserSource, SOURCE_SUFFIXES))


def source_in(root: Path, dotted: str) -> UserSource | None:
    """The file under `root` that a module of this name would be loaded from. Nothing is imported."""
    folders, spec = [str(root)], None
    for name in with_parents(dotted):
        specs = (finder_of(folder).find_spec(name) for folder in folders)
        spec = next((each for each in specs if each is not None), None)
        if spec is None:
            return None
        folders = list(spec.submodule_search_locations or ())
    if spec is None or spec.origin is None or not spec.has_location:  # a package without a file
        return None
    return UserSource(dotted, spec.origin) if belongs(Path(spec.origin), root) else None


def importable_from(path: Path) -> dict[str, UserSource]:
    """The file and every file in its folder or below that it can import, directly or through others, by the path from
    that folder.

    They are found by the import statements alone, as the files stand: nothing is imported. Raises OSError for a file
    that cannot be read.
    """
    root = path.parent.resolve()
    found: dict[str, UserSource] = {path.name: UserSource(path.stem, str(root / path.name))}
    waiting = list(found.values())
    while waiting:
        for wanted in sorted(waiting.pop().imports):
            source = source_in(root, wanted)
            relative = Path(source.path).relative_to(root).as_posix() if source is not None else ""
            if source is not None and relative not in found:
                found[relative] = source
                waiting.append(source)
    return dict(sorted(found.items()))


def belongs(path: Path, root: Path) -> bool:
    """Whether a file or folder lies under `root` and is the user's own: in no environment, installation or library."""
    if not path.is_relative_to(root):
        return False
    below = [path, *path.parents][: len(path.parts) - len(root.parts)]
    return not any(_is_installation(folder) for folder in below) and not any(
        library.is_relative_to(root) and path.is_relative_to(library) for library in _LIBRARIES
    )


def root_of(module: str) -> Path | None:
    """The folder that the top-level package of a module lies in; None where that is an installation or a library, and
    where there is no such module."""
    top = module.partition(".")[0]
    try:
        spec = None if top in sys.stdlib_module_names else importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or not (spec.submodule_search_locations or spec.has_location):
        return None
    place = Path(next(iter(spec.submodule_search_locations or ()), spec.origin or "")).resolve()
    installed = any(part in _INSTALLATIONS for part in place.parts) or _is_installation(place.parent)
    return None if installed or any(place.is_relative_to(library) for library in _LIBRARIES) else place.parent


def source_of(module: ModuleType | None) -> UserSource | None:
    """The file of a module, whoever loaded it; None for a module without one."""
    loader, file = _loader_of(module), file_of(module)
    if isinstance(loader, UserSource):
        return loader
    return UserSource(vars(module)["__name__"], str(file)) if file is not None else None


def is_fresh(module: ModuleType | None) -> bool:
    """Whether the module was loaded as a UserSource."""
    return isinstance(_loader_of(module), UserSource)


def file_of(module: ModuleType | None) -> Path | None:
    """The path of a module's file, if it has one."""
    file = vars(module).get("__file__") if isinstance(module, ModuleType) else None
    return Path(file) if isinstance(file, str) else None


def with_parents(dotted: str) -> list[str]:
    """`a.b` as `a` and `a.b`."""
    parts = dotted.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def _loader_of(module: ModuleType | None) -> object:
    return getattr(vars(module).get("__spec__"), "loader", None) if isinstance(module, ModuleType) else None


def _is_installation(folder: Path) -> bool:
    return folder.name in _INSTALLATIONS or next(folder.glob("*.dist-info"), None) is not None
