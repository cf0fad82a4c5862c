"""The user's files that this process has opened, and the modules that these have loaded.

A file that a job names is an *entry*; its folder is the entry's *root*. Modules beside it keep their plain names, since
that is how the user's code imports them, so two roots must not both have a module of one name in use.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from srs_ray.models.user_sources import (
    UserFinder,
    UserSource,
    belongs,
    file_of,
    finder_of,
    is_fresh,
    source_in,
    source_of,
    with_parents,
)


class AmbiguousImport(Exception):
    """One module name stands for two files. The message names both and says what to do."""


@dataclass(frozen=True)
class _Entry:
    root: Path
    source: UserSource


_entries: dict[str, _Entry] = {}  # by module name
_roots: list[Path] = []  # on sys.path by way of this file


def load_file(path: Path) -> str:
    """The name in `sys.modules` of the module that this file is; it is loaded once.

    The name tells the file from installed modules and from files of other folders that are called the same. Raises
    AmbiguousImport, or whatever the file raises; then nothing of it remains.
    """
    root = path.parent.resolve()
    path = root / path.name
    digest = hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()
    name = f"srs_ray_user_{digest[:12]}_{re.sub(r'[^0-9a-zA-Z_]', '_', path.stem)}"
    _load(name, root, UserSource(name, str(path)))
    return name


def load_module(name: str, root: Path) -> None:
    """Imports a module whose top-level package lies in `root` and is not installed there, as an entry. Raises as
    `load_file` does."""
    _load(name, root, None)


def _load(name: str, root: Path, source: UserSource | None) -> None:
    """Imports an entry: from `source`, or where `sys.path` has it."""
    _use(root)
    if is_open(name):
        return
    try:
        if source is None:
            source = source_of(importlib.import_module(name))
            assert source is not None
            _entries[name] = _Entry(root, source)
        else:
            _entries[name] = _Entry(root, source)
            _execute(source)
    except BaseException:
        refuse_ambiguous_names(name)  # what is missing in a module is often missing in the wrong one of two files
        abandon(name, root)
        raise
    refuse_ambiguous_names(name)


def _execute(source: UserSource) -> None:
    spec = importlib.util.spec_from_file_location(source.name, source.path, loader=source)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[source.name] = module
    source.exec_module(module)


def is_open(name: str) -> bool:
    """Whether the module of this name is an entry that would be used again."""
    return name in _entries and name in sys.modules


def is_users(name: str) -> bool:
    """Whether the module of this name was loaded from a root."""
    file = file_of(sys.modules.get(name))
    return file is not None and any(belongs(file, root) for root in _roots)


def loaded_by(name: str) -> dict[str, UserSource | None]:
    """The modules in an entry's root that it has loaded, itself first, directly or through others; None for a package
    without a file.

    They are found by the import statements of the files. A module that no statement of any entry names (importlib was
    given a computed name) counts for every entry in whose root it lies.
    """
    named = {other for entry in _entries for other in _closure(entry)}
    found: dict[str, UserSource | None] = dict(_closure(name))
    found |= {other: source for other, source in _fresh_modules(_entries[name].root) if other not in named}
    packages = {parent for other in found for parent in with_parents(other)} - found.keys()
    ordered = [name, *sorted((found.keys() | (packages & sys.modules.keys())) - {name})]
    return {other: found.get(other) for other in ordered}


def _closure(name: str) -> dict[str, UserSource]:
    """An entry and the loaded modules in its root that it names in import statements, directly or through others."""
    entry = _entries[name]
    found = {name: entry.source}
    waiting = [entry.source]
    while waiting:
        for wanted in waiting.pop().imports - found.keys():
            source = source_of(sys.modules.get(wanted))
            if source is not None and belongs(Path(source.path), entry.root):
                found[wanted] = source
                waiting.append(source)
    return found


def _fresh_modules(root: Path) -> Iterator[tuple[str, UserSource]]:
    """The modules that were loaded from under `root` by way of this file."""
    for name, module in list(sys.modules.items()):
        source = source_of(module) if is_fresh(module) else None
        if source is not None and belongs(Path(source.path), root):
            yield name, source


def refuse_ambiguous_names(newest: str) -> None:
    """Raises AmbiguousImport and forgets the entry `newest` if a file imports, now or later, a name that is taken.

    A name is taken if there is a module of that name beside the file and another one is loaded, and if the loaded one
    lies in another root. Names that are computed at run time are not seen.
    """
    for name, entry in list(_entries.items()):
        for source in _closure(name).values():
            for wanted in sorted(source.imports - sys.stdlib_module_names):
                if problem := _ambiguity(wanted, source, entry.root):
                    if newest in _entries:
                        abandon(newest, _entries[newest].root)
                    raise AmbiguousImport(problem)


def _ambiguity(wanted: str, source: UserSource, root: Path) -> str | None:
    """Why the module that is loaded under the name `wanted` is not the one that `source` means; None if it is."""
    loaded = file_of(sys.modules.get(wanted))
    if loaded is None or belongs(loaded, root):
        return None
    beside = source_in(root, wanted)
    user = Path(source.path).name
    if beside is not None and Path(beside.path) != loaded.resolve():
        return (
            f"{user} imports {wanted}: that is {beside.path}, but {loaded} is loaded under the same name: "
            "rename one of them, or put the files of one job into one folder"
        )
    if any(belongs(loaded, other) for other in _roots):
        return (
            f"{user} imports {wanted}, which is found only in the folder of another file of this job ({loaded}): "
            "put files that need each other into one folder"
        )
    return None


def drop_edited() -> None:
    """Forgets all modules of each root in which a loaded file has changed on disk, so that they are loaded anew."""
    for root in sorted(_roots):  # a folder before those in it
        fresh = dict(_fresh_modules(root))
        if any(source.edited for source in fresh.values()):
            _evict(fresh)
            for name, entry in list(_entries.items()):
                if belongs(Path(entry.source.path), root):
                    del _entries[name]
                    _leave_if_unused(entry.root)


def abandon(name: str, root: Path) -> None:
    """Forgets an entry, and of the modules that it has loaded those that no other entry has."""
    mine = loaded_by(name) if name in _entries else {name: None}
    _entries.pop(name, None)
    kept = {other for entry in _entries for other in _closure(entry)}
    _evict(mine.keys() - kept)
    _leave_if_unused(root)


def forget() -> None:
    """Forgets all entries, so that the next job may use other folders with modules of the same names.

    Objects that are built already remain usable if they import nothing more.
    """
    for name, entry in list(_entries.items()):
        abandon(name, entry.root)


def _evict(names: Iterable[str]) -> None:
    """Removes modules, but for those that were not loaded by this file, from `sys.modules` and from their packages."""
    for name in names:
        if is_fresh(sys.modules.get(name)):
            _remove(name)


def _remove(name: str) -> None:
    """Removes a module, and its package if that has no file and is empty then: it would lead to the old folder."""
    module = sys.modules.pop(name)
    above, _, attribute = name.rpartition(".")
    package = sys.modules.get(above)
    if package is None:
        return
    if vars(package).get(attribute) is module:
        delattr(package, attribute)
    if file_of(package) is None and not any(other.startswith(f"{above}.") for other in sys.modules):
        _remove(above)


def _use(root: Path) -> None:
    """Puts a folder in front of `sys.path`."""
    if _finder not in sys.path_hooks:
        sys.path_hooks.insert(0, _finder)
    if root not in _roots:
        _roots.append(root)
        sys.path.insert(0, str(root))
        _ask_again_for(root)
    importlib.invalidate_caches()


def _leave_if_unused(root: Path) -> None:
    if root in _roots and all(entry.root != root for entry in _entries.values()):
        _roots.remove(root)
        if str(root) in sys.path:
            sys.path.remove(str(root))
        _ask_again_for(root)


def _finder(folder: str) -> UserFinder:
    if not any(belongs(Path(folder), root) for root in _roots):
        raise ImportError
    return finder_of(folder)


def _ask_again_for(root: Path) -> None:
    """Drops Python's cached finders of this folder and below, so that it asks `_finder` again."""
    for folder in [folder for folder in sys.path_importer_cache if Path(folder).is_relative_to(root)]:
        del sys.path_importer_cache[folder]
