"""Objects from a user's own code: named in a job, imported, built, and described when they fail.

A minimal stand-in with the interface of the full module.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from srs_ray.errors import JobError, SrsRayError


@dataclass(frozen=True)
class Import:
    """`place` is a file or a module, `name` what is called in it; `label` names both without the file's folder."""

    place: str
    name: str
    is_file: bool
    label: str

    @staticmethod
    def parse(text: str) -> Import:
        """From 'FILE.py:NAME' or 'PACKAGE.MODULE:NAME'; JobError for anything else."""
        place, colon, name = text.rpartition(":")
        if not colon or not place or not name:
            raise JobError(f"{text!r} is no import: expected FILE.py:NAME or PACKAGE.MODULE:NAME")
        is_file = place.endswith(".py")
        return Import(place, name, is_file, f"{Path(place).name if is_file else place}:{name}")


@dataclass(frozen=True)
class Built:
    """What was built, and the code that it comes from: sha256 by relative file."""

    value: Any
    label: str
    code: Mapping[str, str]
    modules: tuple[ModuleType, ...]


def build(what: Import, args: Mapping[str, Any], error: type[SrsRayError]) -> Built:
    """Calls what is named with the arguments; raises `error` where that is not possible."""
    try:
        code: dict[str, str] = {}
        if what.is_file:
            path = Path(what.place).expanduser().absolute()
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[path.stem] = module
            spec.loader.exec_module(module)
            code[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            module = importlib.import_module(what.place)
        value = getattr(module, what.name)(**args)
    except Exception as failure:
        raise error(f"{what.label}: {_described(failure)}") from failure
    return Built(value, what.label, code, (module,))


def describe_failure(error: BaseException, built: Built) -> str:
    """Such as 'KeyError: 3 (my_data.py, line 12, in __getitem__)'."""
    return _described(error, set(built.code))


def _described(error: BaseException, files: set[str] | None = None) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if files is None or Path(frame.filename).name in files] or list(frames)
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if not own:
        return text
    return f"{text} ({Path(own[-1].filename).name}, line {own[-1].lineno}, in {own[-1].name})"
