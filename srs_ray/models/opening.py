"""From a job's section `model` to a model: read and checked once, on the driver, and opened on every worker."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from srs_ray.errors import JobError, UserCodeError, WeightsError
from srs_ray.models.contents import modules_of, move, tensors_of
from srs_ray.models.families import family_of
from srs_ray.models.guarded import Guarded
from srs_ray.models.opened import (
    ONE_EVALUATION,
    USUAL_REFERENCE,
    Opened,
    is_equilibrium,
    opened,
    state_shapes,
    stored_start_of,
)
from srs_ray.models.protocols import EQUILIBRIUM_PARTS
from srs_ray.models.settings import ArchitectureSettings, ImportedModelSettings
from srs_ray.models.trial import try_out
from srs_ray.models.user_code import (
    Built,
    Import,
    build,
    describe_failure,
    distributions_of,
    loaded_code,
    loaded_modules,
)
from srs_ray.models.weights import (
    STORED_START,
    Weights,
    misfits_of,
    named_classes,
    read_tensors,
    shown_briefly,
    without_common_prefix,
)
from srs_ray.settings import flattened
from srs_ray.solvers.iteration import SolverSetting

Identity = dict[str, Any]


class ModelSource(Protocol):
    """All that a job's model is made of. It can be sent to workers, and opened there.

    `identity` is what of it can change a prediction, by the dotted names of a run's fingerprint; `card` says how the
    weights were made, as far as their file does.
    """

    @property
    def label(self) -> str: ...

    @property
    def input_shape(self) -> tuple[int, int, int]: ...

    @property
    def classes(self) -> int: ...

    @property
    def class_names(self) -> tuple[str, ...] | None: ...

    @property
    def state_size(self) -> int:
        """Elements of one sample's state."""
        ...

    @property
    def reference(self) -> SolverSetting:
        """The solver setting of its base classifier, unless a job names another."""
        ...

    @property
    def parts(self) -> tuple[str, ...]:
        """See `Opened.parts`."""
        ...

    @property
    def has_start(self) -> bool:
        """Whether the base classifier can solve from a stored start."""
        ...

    @property
    def identity(self) -> Identity: ...

    @property
    def card(self) -> Mapping[str, Any]: ...

    @property
    def built(self) -> Built | None:
        """The user's own code, where the model is made of it."""
        ...

    @property
    def packages(self) -> Mapping[str, str]:
        """Versions of the installed distributions that workers need, by name."""
        ...

    def open(self, device: str | torch.device = "cpu", dtype: str = "float32") -> Opened: ...


@dataclass(frozen=True)
class ArchitectureSource:
    """An architecture of the package and its weights."""

    arch: str
    weights: Weights
    parts: tuple[str, ...] = EQUILIBRIUM_PARTS
    built: None = None
    packages: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return self.arch

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return family_of(self.arch).input_of(self.arch)[0]

    @property
    def classes(self) -> int:
        return family_of(self.arch).input_of(self.arch)[1]

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """As the card of the weights names them under `classes`."""
        return named_classes(self.card, self.classes)

    @property
    def state_size(self) -> int:
        return family_of(self.arch).state_size_of(self.arch)

    @property
    def reference(self) -> SolverSetting:
        return family_of(self.arch).reference_of(self.arch).setting()

    @property
    def has_start(self) -> bool:
        return STORED_START in self.weights.tensors

    @property
    def identity(self) -> Identity:
        return {"model.arch": self.arch, "model.weights.digest": self.weights.digest}

    @property
    def card(self) -> Mapping[str, Any]:
        return self.weights.card

    def open(self, device: str | torch.device = "cpu", dtype: str = "float32") -> Opened:
        return family_of(self.arch).open(self.arch, self.weights, torch.device(device), getattr(torch, dtype))


@dataclass(frozen=True)
class ImportedSource:
    """A model that the user's own code built, with its weights."""

    settings: ImportedModelSettings
    built: Built
    identity: Identity
    packages: Mapping[str, str]
    card: Mapping[str, Any]

    @property
    def label(self) -> str:
        return self.built.label

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return self.settings.input_shape

    @property
    def classes(self) -> int:
        return self.settings.classes

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return self.settings.class_names or named_classes(self.card, self.classes)

    @property
    def state_size(self) -> int:
        if not self.parts:
            return self.classes
        return sum(map(prod, state_shapes(self.built.value.state_shape)[1]))

    @property
    def reference(self) -> SolverSetting:
        if not self.parts:
            return ONE_EVALUATION
        return USUAL_REFERENCE if self.settings.reference is None else self.settings.reference.setting()

    @property
    def has_start(self) -> bool:
        return bool(self.parts) and getattr(self.built.value, "stored_start", None) is not None

    @property
    def parts(self) -> tuple[str, ...]:
        return EQUILIBRIUM_PARTS if is_equilibrium(self.built.value) else ()

    def open(self, device: str | torch.device = "cpu", dtype: str = "float32") -> Opened:
        settings = self.settings
        move(self.built.value, torch.device(device), getattr(torch, dtype))
        made = opened(
            self.built.value,
            label=self.label,
            input_shape=self.input_shape,
            classes=self.classes,
            device=torch.device(device),
            dtype=getattr(torch, dtype),
            reference=self.reference,
            class_names=settings.class_names,
        )
        return replace(made, flat=Guarded(made.flat, self.built))


def read_model(settings: ArchitectureSettings | ImportedModelSettings, dtype: str = "float32") -> ModelSource:
    """The model that a job's section names; one of the user's own is built, given its weights and tried out.

    Raises WeightsError for weights that do not fit, and JobError for code that cannot be imported or that raises, and
    for a model that `try_out` refuses.
    """
    if isinstance(settings, ArchitectureSettings):
        family = family_of(settings.arch)
        return ArchitectureSource(settings.arch, family.read(settings.arch, settings.weights))
    return _read_imported(settings, dtype)


def _read_imported(settings: ImportedModelSettings, dtype: str) -> ImportedSource:
    what = Import.parse(settings.import_)
    built = build(what, settings.args, JobError)
    network, card = built.value, dict[str, Any]()
    if all(hasattr(network, part) for part in EQUILIBRIUM_PARTS) and not is_equilibrium(network):
        raise JobError(
            f"{built.label} has inject, f and head, but no state_shape: give it the shape of one sample's state, or a "
            "list of shapes where that is several tensors"
        )
    if is_equilibrium(network):
        _check_state_shape(network, built.label)
        try:
            stored_start_of(network, torch.device("cpu"), torch.float32)
        except (TypeError, ValueError) as error:
            raise JobError(f"{built.label}: {error}") from error
    if not callable(network) and not is_equilibrium(network):
        raise JobError(
            f"{built.label} gives a {type(network).__name__}: expected a classifier, which is called with images, or "
            "an equilibrium with state_shape, inject, f and head"
        )
    if settings.reference is not None and not is_equilibrium(network):
        raise JobError(
            f"model.reference is a solver setting of an equilibrium, and {built.label} has no state_shape, inject, f "
            "and head: leave reference out"
        )
    if settings.weights is not None:
        weights = read_tensors(settings.weights)
        load_weights(network, weights, built.label)
        card = weights.card
    modules = [module for _, module in modules_of(network)]
    for module in modules:
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(parameter, UninitializedParameter):
                raise JobError(
                    f"{built.label}: {name} of its {type(module).__name__} has no shape before the first call: call "
                    "the model once on an image in the factory"
                )
            parameter.requires_grad_(False)
    if isinstance(network, nn.Module) and network.training:  # as factories leave it; one in evaluation mode stays as is
        network.eval()
    digest, held = _digest_of(network, built), {name for name, _ in tensors_of(network)}
    source = ImportedSource(settings, built, {}, {}, card)
    try:
        ready = source.open("cpu", dtype)
        try_out(ready)
        made = _made_once(network, held, ready)
    except JobError:
        raise
    except Exception as error:
        shape = "x".join(map(str, settings.input_shape))
        reason = str(error) if isinstance(error, UserCodeError) else describe_failure(error, built)
        raise JobError(f"{built.label}, tried on images of {shape}, raised {reason}") from error
    if made:
        raise JobError(f"{built.label} makes the tensor {made} when it is first called: make it in the factory")
    made_of = {getattr(network, "__module__", ""), *(type(module).__module__ for module in modules)}
    packages = distributions_of(made_of if what.is_file else {what.place, *made_of})
    identity = {
        "model.import": built.label,
        **flattened("model.args", settings.args),
        **{f"model.code.{name}": digest for name, digest in loaded_code(built).items()},
        **{f"model.packages.{name}": version for name, version in packages.items()},
        "model.weights.digest": digest,
        "model.input_shape": list(settings.input_shape),
        "model.classes": settings.classes,
    }
    return ImportedSource(settings, built, identity, packages, card)


def _digest_of(network: Any, built: Built) -> str:
    """The digest of all tensors that the network holds, and of those that its own files have as globals."""
    tensors = dict(tensors_of(network))
    for module in loaded_modules(built):
        for name, value in vars(sys.modules[module]).items() if module in sys.modules else ():
            held = (
                list(vars(value).items()) if isinstance(value, type) and value.__module__ == module else [("", value)]
            )
            for inner, item in held:
                if isinstance(item, Tensor | np.ndarray):
                    tensors |= {f"globals.{name}.{inner}.{key}": tensor for key, tensor in tensors_of(item)}
    return Weights(tensors, {}).digest


def _made_once(network: Any, held: set[str], ready: Opened) -> str | None:
    """The name of a tensor that came at the first call and stays, so that the digest lacks it; None without one."""
    came = {name: tensor.clone() for name, tensor in tensors_of(network) if name not in held}
    if not came:
        return None
    with torch.inference_mode():
        ready(torch.full((2, *ready.input_shape), 0.5))
    now = dict(tensors_of(network))
    return next((name for name, tensor in came.items() if name in now and torch.equal(now[name], tensor)), None)


def _check_state_shape(network: Any, label: str) -> None:
    """Raises JobError unless state_shape is a shape, or several of them."""

    def is_shape(value: Any) -> bool:
        return isinstance(value, tuple | list) and bool(value) and all(type(size) is int and size > 0 for size in value)

    found = network.state_shape
    if not is_shape(found) and not (isinstance(found, tuple | list) and found and all(map(is_shape, found))):
        raise JobError(
            f"state_shape of {label} is {found!r}: expected the shape of one sample's state without the batch, such as "
            "(64, 8, 8), or a list of shapes where that is several tensors"
        )


def load_weights(network: Any, weights: Weights, label: str) -> None:
    """Gives a network its state dict; WeightsError names what is missing, extra, of the wrong shape, or not finite."""
    if not isinstance(network, nn.Module):
        raise WeightsError(
            f"model.weights is set, but {label} gives a {type(network).__name__}, which is no torch module and takes "
            "no state dict: leave weights out, and load them in the factory"
        )
    expected = {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}
    in_full = {name.removeprefix("module."): name for name in expected}  # of a network that has a part `module` itself
    found = {in_full.get(name, name): tensor for name, tensor in weights.tensors.items()}
    bare = without_common_prefix(weights.tensors)
    if not found.keys() & expected.keys() and bare.keys() & expected.keys():
        found = bare
    problems = misfits_of(found, expected, "model")
    if problems:
        raise WeightsError(f"the weights do not fit {label}:\n  {shown_briefly(problems)}")
    network.load_state_dict(found, strict=False)
