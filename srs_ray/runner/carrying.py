"""Takes objects that the user's code built to worker nodes, which do not have its files.

They are pickled once, on the driver, by value: with the code of the user's own modules. Installed packages are imported
on each node, and must have the driver's versions there.
"""

from __future__ import annotations

import functools
import importlib.metadata
import io
import pickle
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from ray import cloudpickle

from srs_ray.errors import JobError
from srs_ray.models.user_code import Built, installed_version, loaded_code, loaded_modules
from srs_ray.models.user_sources import source_of

# The globals of a module that Python sets for importing it.
_MACHINERY = ("__builtins__", "__cached__", "__loader__", "__path__", "__spec__")


@dataclass(frozen=True)
class Carried:
    """An object as bytes, with the modules of the user's that it needs, and the packages that a node must have."""

    label: str
    packages: Mapping[str, str]
    pickled: bytes = field(repr=False)

    def open(self) -> Any:
        """The object, in whatever process; its modules are importable from then on.

        Raises JobError where a package is missing or of another version, or the object cannot be made here.
        """
        host = socket.gethostname()
        for name, version in self.packages.items():
            _check_package(host, self.label, name, version)
        try:
            return pickle.loads(self.pickled)[1]
        except JobError as error:
            raise JobError(f"{host}: {self.label}: {error}") from error
        except Exception as error:
            reason = f"{type(error).__name__}: {_one_line(error)}"
            raise JobError(f"{host}: {self.label} cannot be opened on this node: {reason}") from error


def carry(value: Any, built: Sequence[Built], packages: Mapping[str, str]) -> Carried:
    """Pickles `value`, which consists of what `built` gave; `packages` are the distributions that it needs, by version.

    The modules of `built` go along, with the present values of their globals, so that the object can import them on a
    node. A global that cannot be pickled stays behind; importing it on a node raises ImportError with the reason.
    Raises JobError if the object itself cannot be pickled.
    """
    label = ", ".join(dict.fromkeys(each.label for each in built)) or type(value).__name__
    modules = {name: module for each in built for name, module in _modules_of(each).items()}
    with _by_value(modules):
        try:
            contents = [_contents(module, modules) for module in modules.values()]
            return Carried(label, dict(packages), _pickled((contents, value), modules))
        except Exception as error:
            part = _culprit(value, modules)
            where = f" (for its {part})" if part else ""
            raise JobError(
                f"{label} cannot be sent to workers{where}: {_one_line(error)}: have the code make such a thing where "
                "it is first used, or run with --no-ray"
            ) from error


@dataclass(frozen=True)
class _Contents:
    """The globals of a module of the user's, and why others of them are not among these."""

    module: ModuleType
    globals: dict[str, Any]
    left_out: dict[str, str]

    def __reduce__(self) -> tuple[Any, ...]:
        return _fill, (self.module, self.globals, self.left_out)


class _CarriedModule(ModuleType):
    """A module of the user's on a node; its globals are what they were on the driver."""

    _srs_ray_digest: str
    _srs_ray_left_out: Mapping[str, str] | None = None  # None until it is filled

    def __getattr__(self, name: str) -> Any:
        if self._srs_ray_left_out and name in self._srs_ray_left_out:
            raise ImportError(
                f"{name} of {self.__name__} did not come along from the driver: {self._srs_ray_left_out[name]}: "
                "have the code make such a thing where it is first used"
            )
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def _place(name: str, digest: str, file: str | None, is_package: bool) -> ModuleType:
    """The module of this name, to be filled, or as it is where the same was carried here before.

    In the driver's own process it is the driver's. Raises JobError where another module has the name.
    """
    present = sys.modules.get(name)
    if isinstance(present, _CarriedModule):
        if present._srs_ray_digest == digest:
            return present
    elif present is not None:
        if getattr(present, "__file__", None) != file:
            raise JobError(f"the name of its module {name} is taken by {present}: rename the file")
        return present
    module = _CarriedModule(name)
    module._srs_ray_digest = digest
    module.__spec__ = ModuleSpec(name, None, is_package=is_package)
    if is_package:
        module.__path__ = []  # nothing is taken from a folder that happens to be here
    sys.modules[name] = module
    return module


def _fill(module: ModuleType, contents: Mapping[str, Any], left_out: Mapping[str, str]) -> None:
    if isinstance(module, _CarriedModule) and module._srs_ray_left_out is None:
        vars(module).update(contents)
        module._srs_ray_left_out = left_out


class _Pickler(cloudpickle.CloudPickler):
    """Pickles the user's modules as names, with what it takes to make an empty one."""

    def __init__(self, file: io.BytesIO, modules: Mapping[str, ModuleType]) -> None:
        super().__init__(file)
        self._modules = modules

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, ModuleType) and self._modules.get(obj.__name__) is obj:
            source = source_of(obj)
            place = obj.__name__, source.digest if source else "", getattr(obj, "__file__", None), _is_package(obj)
            return _place, place
        if isinstance(obj, _LRU_CACHE) and getattr(obj, "__module__", None) in self._modules:
            return _lru_cached, (obj.__wrapped__, obj.cache_parameters())  # or a node would look for it by its name
        if type(obj) is functools.cached_property:
            return _cached_property, (obj.func, obj.attrname)  # Python 3.11 has a lock in it
        return super().reducer_override(obj)


_LRU_CACHE = type(functools.lru_cache(lambda: None))


def _lru_cached(function: Callable[..., Any], parameters: Mapping[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _cached_property(function: Callable[[Any], Any], name: str | None) -> Any:
    made = functools.cached_property(function)
    made.attrname = name
    return made


def _pickled(value: Any, modules: Mapping[str, ModuleType]) -> bytes:
    file = io.BytesIO()
    _Pickler(file, modules).dump(value)
    return file.getvalue()


def _contents(module: ModuleType, modules: Mapping[str, ModuleType]) -> _Contents:
    names = {name: value for name, value in vars(module).items() if name not in _MACHINERY}
    left_out = {name: reason for name, value in names.items() if (reason := _obstacle(value, modules)) is not None}
    return _Contents(module, {name: value for name, value in names.items() if name not in left_out}, left_out)


def _obstacle(value: Any, modules: Mapping[str, ModuleType]) -> str | None:
    """Why the value cannot be pickled, if it cannot."""
    try:
        _pickled(value, modules)
    except Exception as error:
        return _one_line(error)
    return None


def _culprit(value: Any, modules: Mapping[str, ModuleType], depth: int = 6) -> str:
    """`encoder.lock`, where that is the part of the value that cannot be pickled."""
    parts = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    for name, part in parts.items() if depth else ():
        if _obstacle(part, modules) is not None:
            return f"{name}.{_culprit(part, modules, depth - 1)}".removesuffix(".")
    return ""


def _modules_of(built: Built) -> dict[str, ModuleType]:
    """The user's modules that go along; compiled ones are looked for on the node. JobError where a file was opened anew
    since with another text, which is not that of what was built."""
    modules, code = {}, loaded_code(built).values()
    for name in loaded_modules(built):
        module = sys.modules.get(name)
        source = source_of(module)
        if module is None or (source is not None and source.digest not in code):
            raise JobError(
                f"{built.label} is of files that were opened anew, or forgotten, since it was built: build it again"
            )
        if source is None or source.path.endswith(".py"):
            modules[name] = module
    return modules


@contextmanager
def _by_value(modules: Mapping[str, ModuleType]) -> Iterator[None]:
    """Has cloudpickle take classes and functions of these modules along."""
    registered = [modules[name] for name in modules.keys() - cloudpickle.list_registry_pickle_by_value()]
    for module in registered:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in registered:
            cloudpickle.unregister_pickle_by_value(module)


def _check_package(host: str, label: str, name: str, version: str) -> None:
    try:
        found = installed_version(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise JobError(
            f"{host}: {label} needs the package {name} {version}, which is not installed on this node: install it there"
        ) from error
    if found != version:
        raise JobError(
            f"{host}: {label} needs the package {name} {version}, as the driver has it, but this node has {found}: "
            f"install {name} {version} there"
        )


def _is_package(module: ModuleType) -> bool:
    return "__path__" in vars(module)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
