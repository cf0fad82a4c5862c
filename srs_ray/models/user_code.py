"""The user's code that a job file names: imports it, calls it, and hashes its files.

`import: my_models.py:resnet110` is a file beside the job, `import: torchvision.models:resnet18` an installed module.
Every mistake becomes one message, of the error class that the caller names.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import inspect
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from srs_ray.errors import SrsRayError
from srs_ray.models import user_files, user_sources
from srs_ray.models.user_files import AmbiguousImport
from srs_ray.models.user_sources import belongs, root_of

_UNVERSIONED = ("torch", "srs-ray")  # see distributions_of


@dataclass(frozen=True)
class Import:
    """What to import: `place`, a path that ends in .py or a dotted module, and `name`, a dotted attribute of it."""

    place: str
    name: str

    @staticmethod
    def parse(text: object) -> Import:
        """`my_models.py:resnet110` or `torchvision.models:resnet18`. Raises ValueError for anything else."""
        place, colon, name = text.rpartition(":") if isinstance(text, str) else ("", "", "")
        what = Import(place, name)
        module = what.is_file or _is_dotted(place)
        if not (colon and module and _is_dotted(name)) or "\0" in place:
            raise ValueError(
                f"expected FILE.py:NAME or MODULE:NAME, such as my_models.py:resnet110, found {_shown(text)}"
            )
        return what

    @property
    def is_file(self) -> bool:
        """Whether `place` is a path, relative to the working directory; `~` is expanded."""
        return self.place.endswith(".py")

    @property
    def label(self) -> str:
        """`my_models.py:resnet110`, for messages and fingerprints: it is the same wherever the file lies."""
        return f"{self._where}:{self.name}"

    @property
    def _where(self) -> str:
        return Path(self.place).name if self.is_file else self.place


@dataclass(frozen=True)
class Built:
    """The object that the user's code returned, and the files behind it.

    `code` has the sha256 of the file and of every module that it has loaded from its folder or below, by the path from
    there; `modules` are the names of these in `sys.modules`, that of the file first; `root` is the folder. For an
    installed module they are empty and None.
    """

    value: Any
    label: str
    code: Mapping[str, str]
    modules: tuple[str, ...]
    root: str | None = None


def build(what: Import, args: Mapping[str, Any], error: type[SrsRayError]) -> Built:
    """Imports `what` and calls it with `args`.

    A file is loaded once in a process, and again when it, or a module that it has loaded, has changed on disk. Raises
    `error` if the file, module or name is missing, if `args` do not fit, and if the user's code raises.
    """
    user_files.drop_edited()
    name, root = _load(what, error)
    target = _attribute(sys.modules[name], what, error)
    _check_arguments(target, args, what, error)
    with _failures_as(error, what, root):
        try:
            value = target(**args)
        finally:  # a call that failed may have failed for this reason
            user_files.refuse_ambiguous_names(name)
    if root is None:
        return Built(value, what.label, {}, ())
    code, modules = _loaded(name, root)
    return Built(value, what.label, code, modules, str(root))


def file_of_import(what: Import, error: type[SrsRayError]) -> Path | None:
    """The file that an import names, None for a module. Raises `error` if there is no such file."""
    return _file(what, error) if what.is_file else None


def loaded_code(built: Built) -> Mapping[str, str]:
    """`built.code` with what has been loaded since, such as a module that is imported when a model is first called."""
    return _now(built)[0]


def loaded_modules(built: Built) -> tuple[str, ...]:
    """`built.modules` with those that have been loaded since."""
    return _now(built)[1]


def describe_failure(error: BaseException, built_or_roots: Built | Iterable[str | Path]) -> str:
    """`ValueError: depth must be 6n + 2 (my_models.py, line 41, in resnet110)`: an exception of the user's code, in one
    line.

    The place is the deepest frame in the user's own files, which lie under the roots; without one, the deepest frame.
    """
    roots = [built_or_roots.root] if isinstance(built_or_roots, Built) else built_or_roots
    try:
        message = (error.msg if isinstance(error, SyntaxError) else str(error)) or ""
    except Exception:  # the error's own text is the user's code as well
        message = "(its text cannot be had)"
    place = _place(error, [Path(root) for root in roots if root is not None])
    text = f"{type(error).__name__}: {' '.join(message.split())}".removesuffix(": ")
    return f"{text} ({place})" if place else text


def distributions_of(modules: Iterable[str]) -> dict[str, str]:
    """The installed distributions that modules of these names come from, and their versions.

    A local label (`+cu128`) is left out: it says how a version was built for a node, not which one it is. The standard
    library and the user's files have none. torch is left out on purpose: its version is recorded for each session of a
    run, and a change of it is noted and not refused. So is srs-ray, which has a version of its sampling.
    """
    tops = {module.partition(".")[0] for module in modules if not user_files.is_users(module)}
    owners = _owners(tuple(sys.path))
    names = {name for top in tops - sys.stdlib_module_names for name in owners.get(top, ())}
    return {name: installed_version(name) for name in sorted(names.difference(_UNVERSIONED))}


def installed_version(distribution: str) -> str:
    """The version here, without a local label. Raises importlib.metadata.PackageNotFoundError."""
    return importlib.metadata.version(distribution).partition("+")[0]


def _load(what: Import, error: type[SrsRayError]) -> tuple[str, Path | None]:
    """The module's name in `sys.modules`, and the user's folder that it was loaded from.

    A module that is importable and not installed has no version, and is treated as a file is.
    """
    path = file_of_import(what, error)
    root = path.parent.resolve() if path else root_of(what.place)
    with _failures_as(error, what, root):
        try:
            if path is not None:
                return user_files.load_file(path), root
            if root is not None:
                user_files.load_module(what.place, root)
            else:
                importlib.import_module(what.place)
        except ModuleNotFoundError as missing:
            if path is None and f"{what.place}.".startswith(f"{missing.name}."):
                raise error(_missing_module(what)) from missing
            raise
    return what.place, root


def _file(what: Import, error: type[SrsRayError]) -> Path:
    try:
        path = Path(what.place).expanduser().absolute()
    except RuntimeError as unknown:
        raise error(f"{what.label}: {what.place} names a home directory that there is not") from unknown
    if path.is_dir():
        raise error(f"{what.label}: {path} is a folder: expected a Python file")
    if not path.is_file():
        siblings = [entry.name for entry in path.parent.glob("*.py")]
        raise error(f"{what.label}: there is no file {path}{_did_you_mean(path.name, siblings)}")
    return path


def _missing_module(what: Import) -> str:
    text = f"{what.label}: the module {what.place} is not installed"
    if Path(what.place).is_file():
        return f"{text}; for the file of that name, expected one that ends in .py"
    if (file := Path(f"{what.place}.py")).is_file():
        return f"{text}: for the file, write {file}:{what.name}"
    return f"{text}: install its package, or name a file as FILE.py:{what.name}"


def _attribute(module: Any, what: Import, error: type[SrsRayError]) -> Any:
    """The object that the dotted name means, which can be called."""
    value, where = module, what._where
    for part in what.name.split("."):
        with _failures_as(error, what, None):  # a module may make its attributes when they are asked for
            found = getattr(value, part, _MISSING)
        if found is _MISSING:
            names = [name for name in dir(value) if not name.startswith("_")]
            raise error(f"{where} has no {part}{_did_you_mean(part, names) or _offer(value)}")
        value, where = found, f"{where}:{part}" if value is module else f"{where}.{part}"
    if not callable(value):
        raise error(f"{what.label} is a {type(value).__name__}: expected a function or class, which can be called")
    return value


_MISSING = object()


def _offer(value: Any) -> str:
    """What a module defines itself, not what it imports."""
    name = getattr(value, "__name__", None)
    own = [key for key, item in vars(value).items() if callable(item) and getattr(item, "__module__", None) == name]
    public = [key for key in own if not key.startswith("_")]
    return f": it defines {', '.join(public[:10])}{', ...' if len(public) > 10 else ''}" if public else ""


def _check_arguments(target: Any, args: Mapping[str, Any], what: Import, error: type[SrsRayError]) -> None:
    try:
        signature = inspect.signature(target)
    except (ValueError, TypeError):  # not every builtin has one
        return
    try:
        signature.bind(**args)
    except TypeError as mismatch:
        unknown = [key for key in args if key not in signature.parameters]
        hint = _did_you_mean(str(unknown[0]), list(signature.parameters)) if unknown else ""
        takes = ", ".join(str(each.replace(annotation=each.empty)) for each in signature.parameters.values())
        raise error(f"{what.label}: its args do not fit: {mismatch}{hint} (it takes {takes or 'none'})") from mismatch


@contextmanager
def _failures_as(error: type[SrsRayError], what: Import, root: Path | None) -> Iterator[None]:
    """Turns every exception of the user's code into `error`; KeyboardInterrupt passes."""
    try:
        yield
    except error:
        raise
    except AmbiguousImport as failure:
        raise error(str(failure)) from failure
    except (Exception, SystemExit) as failure:
        text = f"{what.label} raised {describe_failure(failure, [root] if root else [])}"
        if isinstance(failure, SystemExit):
            text += ': what it does as a script belongs under `if __name__ == "__main__":`'
        raise error(text) from failure


def _place(error: BaseException, roots: Sequence[Path]) -> str:
    """`my_models.py, line 41, in resnet110`; empty where the error was not raised in Python."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f"{Path(error.filename).name}, line {error.lineno}"
    ours = (__file__, user_files.__file__, user_sources.__file__)
    frames = [
        (frame.f_code, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename not in ours and not frame.f_code.co_filename.startswith("<frozen importlib")
    ]
    own = [each for each in frames if any(belongs(Path(each[0].co_filename), root) for root in roots)]
    for code, line in (own or frames)[-1:]:
        return f"{Path(code.co_filename).name}, line {line}, in {code.co_qualname}"
    return ""


def _loaded(name: str, root: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    found = user_files.loaded_by(name)
    code = {Path(source.path).relative_to(root).as_posix(): source.digest for source in found.values() if source}
    return dict(sorted(code.items())), tuple(found)


def _now(built: Built) -> tuple[Mapping[str, str], tuple[str, ...]]:
    """The code and modules of what was built, as they are now, unless the files were opened anew since."""
    if built.root is None or not user_files.is_open(built.modules[0]):
        return built.code, built.modules
    code, modules = _loaded(built.modules[0], Path(built.root))
    current = all(code.get(path) == digest for path, digest in built.code.items())
    return (code, modules) if current else (built.code, built.modules)


@lru_cache(maxsize=8)
def _owners(search_path: tuple[str, ...]) -> Mapping[str, list[str]]:
    """The distributions by the top-level names that they install; half a second where many are installed."""
    return importlib.metadata.packages_distributions()


def _is_dotted(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def _did_you_mean(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=2)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _shown(text: object) -> str:
    return repr(text) if isinstance(text, str) else f"{text!r} ({type(text).__name__})"
