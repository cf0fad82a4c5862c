"""A first job file for a model and a kind of data, with a comment on each setting, as `srs-ray init` writes it."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from srs_ray.data.registry import kind_named
from srs_ray.errors import JobError
from srs_ray.job import Job
from srs_ray.models.families import architectures
from srs_ray.models.shipped import shipped_card, shipped_weights
from srs_ray.settings_reference import Section, sections
from srs_ray.smoothing.samplers import SAMPLINGS

IMPORT, TORCHVISION = "import", "torchvision"
METHODS = {
    "standard": "independent samples",
    "srs": "serialized sampling",
    "anchored": "a few steps from each point's anchor",
    "auto": "the method that is cheapest for each point",
}
CHANGE = "CHANGE:"  # how the comment of a line begins that names files or code of the user's
OTHER_SIGMA = 0.25  # where no card of weights names one
COMMENT_COLUMN, LINE = 50, 120
# Of the kinds of data that are one data set: the input of a model for it, its classes, and the distance of points.
_OF_DATA: dict[str, tuple[tuple[int, int, int], int, int]] = {
    "digits": ((3, 32, 32), 10, 15),
    "cifar10": ((3, 32, 32), 10, 20),
    "imagenet": ((3, 224, 224), 1000, 100),
}
_OTHER_DATA = ((3, 224, 224), 10, 1)
_YOUR_DATA: dict[str, str] = {
    "path": "the file or folder of your images",
    "import": "your file, and in it a function that returns (image, label) by index",
}

Line = tuple[str, Any, str]  # a setting of a section, its value, and what the user has to change of it ("": nothing)


def model_choices() -> list[str]:
    """What `--model` may be: every architecture by name, `import` and `torchvision`."""
    return [*architectures(), IMPORT, TORCHVISION]


def job_template(model: str, data: str, method: str | None, output: str) -> str:
    """The text of a job file that certifies such a model on such data.

    `model` is one of `model_choices`, `data` a kind of data, `method` a sampling method (None: `srs` for architectures,
    else `standard`). Comments are the descriptions of the settings. Raises JobError for an unknown name, and for what
    cannot go together.
    """
    _refuse(model, data, method)
    method = method or ("srs" if model in architectures() else "standard")
    weights = _weights_of(model)
    trained_at = shipped_card(weights).get("sigma") if weights else None
    sigma = OTHER_SIGMA if trained_at is None else float(trained_at)
    content: dict[str, list[Line]] = {
        "model": _model(model, data, weights),
        "data": list(_data(data)),
        "noise": [("sigma", sigma, "the noise that the model was trained under" if trained_at is None else "")],
        "sampling": list(_sampling(method, data, sigma)),
        "certificate": [("alpha", 0.001, ""), *([("audit", 400, "")] if method in ("srs", "anchored") else [])],
        "report": [] if method == "auto" else [("radii", _radii(sigma), "")],
        "output": [("", output, "")],
    }
    lines = [
        f"# Certifies {_named(model)} on data of kind {data} by {METHODS[method]}.",
        "# Written by `srs-ray init`; `srs-ray settings` tells all settings.",
        f"# A line marked {CHANGE[:-1]} names something of yours.",
    ]
    for section in sections(Job):
        if content.get(section.name):
            lines += ["", *_written(section, content[section.name], method)]
    return "\n".join(lines) + "\n"


def _refuse(model: str, data: str, method: str | None) -> None:
    if model not in model_choices():
        raise JobError(f"--model is {model!r}: expected one of {', '.join(model_choices())}{_near(model)}")
    try:
        kind_named(data)
    except ValueError as error:
        raise JobError(f"--data is {data!r}: {error}") from None
    if method is not None and method not in SAMPLINGS:
        raise JobError(f"--method is {method!r}: expected one of {', '.join(SAMPLINGS)}")
    if model == TORCHVISION and method not in (None, "standard"):
        raise JobError(f"--method is {method}, but a model of torchvision has no equilibrium: leave --method out")
    own = model.rpartition("-")[2]
    if data in _OF_DATA and own in _OF_DATA and own != data:
        raise JobError(f"{model} classifies {own}, not {data}: choose --data {own}, or a folder or file of such images")


def _near(model: str) -> str:
    near = difflib.get_close_matches(model, model_choices(), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _named(model: str) -> str:
    return {IMPORT: "a model of your own", TORCHVISION: "a model of torchvision"}.get(model, model)


def _weights_of(model: str) -> str | None:
    """The shipped weights of that architecture, those without a stored start before others."""
    fitting = [name for name in shipped_weights() if shipped_card(name).get("architecture") == model]
    return min(fitting, key=len, default=None)


def _model(model: str, data: str, weights: str | None) -> list[Line]:
    if model in architectures():
        change = "" if weights else "the weights that you trained or converted"
        return [("arch", model, ""), ("weights", weights or f"weights/{model}.safetensors", change)]
    input_shape, classes, _ = _OF_DATA.get(data, _OTHER_DATA)
    shape: list[Line] = [
        ("input_shape", list(input_shape), "" if data in _OF_DATA else "what your model takes"),
        ("classes", classes, "" if data in _OF_DATA else "how many your model has"),
    ]
    if model == TORCHVISION:
        return [
            ("import", "torchvision.models:resnet18", ""),
            ("args", {"num_classes": classes}, ""),
            ("weights", "weights/resnet18.safetensors", "your state dict, trained on pixels in [0, 1]"),
            *shape,
        ]
    return [("import", "my_model.py:model", "your file, and in it a function that returns the model"), *shape]


def _data(data: str) -> Iterator[Line]:
    kind = kind_named(data)
    yield "kind", data, ""
    for name in kind.needs:
        name = name.removesuffix("_")
        own = {"path": "data" if data == "cifar10" else f"data/{data}", "import": "my_data.py:data"}[name]
        yield name, own, "where CIFAR-10 lies, or goes with --download" if data == "cifar10" else _YOUR_DATA[name]
    if kind.default_split is not None:
        yield "split", kind.default_split, ""
    yield "every", _OF_DATA.get(data, _OTHER_DATA)[2], ""
    if data in ("digits", "import"):
        yield "pixels", "rounded", ""


def _sampling(method: str, data: str, sigma: float) -> Iterator[Line]:
    yield "method", method, ""
    yield "n0", 100, ""
    yield "n", 2000 if data == "digits" else 10_000, ""
    if method == "srs":
        yield from (("chains", 100, ""), ("steps", 3, ""))
    if method == "anchored":
        yield "steps", 2, ""
    if method == "auto":
        yield "target_radii", _radii(sigma), ""


def _radii(sigma: float) -> list[float]:
    """0 to 1.5 sigma in steps of sigma / 2, which n and K here can earn."""
    return [round(sigma * step / 2, 6) for step in range(4)]


def _written(section: Section, lines: Sequence[Line], method: str) -> Iterator[str]:
    """A section with a comment on each line, or above it where it is long."""
    if lines[0][0] == "":
        yield from _commented(f"{section.name}: {_flow(lines[0][1])}", [section.meaning])
        return
    yield f"{section.name}:"
    for name, value, change in lines:
        meaning = _meaning(section, f"{section.name}.{name}", method)
        yield from _commented(f"  {name}: {_flow(value)}", [f"{CHANGE} {change}.", meaning] if change else [meaning])


def _commented(line: str, comments: Sequence[str]) -> Iterator[str]:
    beside = f"{line:<{COMMENT_COLUMN - 1}} # {' '.join(comments)}"
    if len(beside) <= LINE:
        yield beside
        return
    for comment in comments:
        yield f"{line[: len(line) - len(line.lstrip())]}# {comment}"
    yield line


def _meaning(section: Section, name: str, method: str) -> str:
    """What the setting means, by the alternative of the section that this method chooses."""
    groups = sorted(section.groups, key=lambda group: group.title not in ("", f"sampling.method: {method}"))
    return next(each.meaning for group in groups for each in group.settings if each.name == name)


def _flow(value: Any) -> str:
    """A value as YAML in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_flow(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str):
        return value if re.fullmatch(r"[\w./:-]+", value, re.ASCII) else json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
