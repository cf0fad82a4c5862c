"""A data set of one's own: any object with a length and (image, label) by index, from the user's code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from srs_ray.data.images import image_tensor, preprocessing_name
from srs_ray.data.kind import Kind
from srs_ray.data.points import class_label, class_list_digest, digest, refuse_labels_from_one
from srs_ray.errors import DataError, PointError
from srs_ray.models.user_code import Built, Import, build, describe_failure, loaded_code
from srs_ray.settings import flattened

if TYPE_CHECKING:
    from torch import Tensor

    from srs_ray.data.settings import DataSettings

PROBES = 16
"""So many items, evenly spaced, stand for all of them in the content digest."""


class ImportedData:
    """The items of an object that was built from the user's code; an item's position is its index.

    The object has a length and gives (image, label) by index: images as `image_tensor` takes them, labels as
    `class_label` does. A list of str in its attribute `class_names`, or else `classes`, names the classes; without one
    there are `class_count`. An attribute `identity`, text or a mapping of names to scalars, says what makes an index
    mean an image; without one its arguments and a digest of some items do. Raises DataError for an object that is not
    of that form. Whatever an item raises, or is instead of an image and a label, makes that point a PointError.
    """

    def __init__(
        self, built: Built, args: Mapping[str, Any], input_shape: tuple[int, int, int], class_count: int | None
    ) -> None:
        self.built = built
        self._args = args
        self._input_shape = input_shape
        self._length = self._measured()
        self.class_names = self._named_classes()
        if self.class_names is not None:
            self._class_count = len(self.class_names)
        elif class_count is not None:
            self._class_count = class_count
        else:
            raise DataError(f"{built.label} does not say its classes: give it class_names, a list of str")
        self._refuse_labels_from_one()
        self._last: tuple[int, object] | None = None  # label and image are asked for one after the other

    def __len__(self) -> int:
        return self._length

    @property
    def class_count(self) -> int:
        """The number of the object's class names, or the number given."""
        return self._class_count

    @cached_property
    def identity(self) -> dict[str, Any]:
        """See `PointDataset.identity`: the import, the code and the length; beside them the object's own `identity`, or
        the arguments and a digest over 16 evenly spaced items (label, shape and pixels, or what they raise).

        Raises DataError if one of these items is another image, or another label, when read again.
        """
        identity: dict[str, Any] = {"kind": KIND.name, "import": self.built.label, "points": len(self)}
        if self.class_names is not None:
            identity["classes"] = class_list_digest(self.class_names)
        identity["preprocessing"] = preprocessing_name(self._input_shape)
        own = self._attribute("identity")
        if own is not None:
            identity |= self._checked_identity(own)
        else:
            identity |= flattened("args", self._args) | {"content": self._content_digest()}
        # Last: reading items may have loaded further files.
        return identity | {f"code.{file}": content for file, content in loaded_code(self.built).items()}

    def label(self, index: int) -> int:
        """The item's label. Raises PointError if the item cannot be had, or its label is no class."""
        _, label = self._item(index)
        return class_label(label, self._class_count, self.name(index))

    def image(self, index: int) -> Tensor:
        """x_CHW, float32 in [0, 1]."""
        image, _ = self._item(index)
        return image_tensor(image, self._input_shape, self.name(index))

    def name(self, index: int) -> str:
        """Such as 'item 17 of my_data.py:Patches'."""
        return f"item {index} of {self.built.label}"

    def _item(self, index: int) -> tuple[Any, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        if self._last is not None and self._last[0] == index:
            item = self._last[1]
        else:
            self._last = None
            try:
                item = self.built.value[index]
            except (Exception, SystemExit) as error:  # It is the user's code: anything.
                raise PointError(f"{self.name(index)}: {describe_failure(error, self.built)}") from error
            self._last = index, item
        if not isinstance(item, tuple | list) or len(item) != 2:
            found = f"{type(item).__name__} of {len(item)}" if isinstance(item, tuple | list) else type(item).__name__
            raise PointError(f"{self.name(index)}: is a {found}, expected the pair (image, label)")
        return item[0], item[1]

    def _measured(self) -> int:
        value, label = self.built.value, self.built.label
        missing = [name for name in ("__len__", "__getitem__") if not hasattr(type(value), name)]
        if missing:
            raise DataError(
                f"{label} gives a {type(value).__name__} without {' and '.join(missing)}: expected an object that has "
                "a length and gives (image, label) by index"
            )
        try:
            length = len(value)
        except (Exception, SystemExit) as error:
            raise DataError(f"{label} has no length: {describe_failure(error, self.built)}") from error
        if length == 0:
            raise DataError(f"{label} has no items: expected one per image")
        return length

    def _attribute(self, name: str) -> Any:
        """The object's attribute, None if it has none. Raises DataError if it cannot be had."""
        try:
            return getattr(self.built.value, name, None)
        except (Exception, SystemExit) as error:
            raise DataError(f"{name} of {self.built.label}: {describe_failure(error, self.built)}") from error

    def _named_classes(self) -> tuple[str, ...] | None:
        for attribute in ("class_names", "classes"):
            names = self._attribute(attribute)
            if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
                return tuple(names)
        return None

    def _refuse_labels_from_one(self) -> None:
        """Looks at the list of labels that many objects have; of others labels are not known before they are read."""
        for attribute in ("targets", "labels"):
            try:
                labels_N = np.asarray(self._attribute(attribute))
            except Exception:  # whatever it is, it is no list of labels
                continue
            if labels_N.dtype.kind in "iu" and labels_N.shape == (len(self),):
                refuse_labels_from_one(labels_N, self._class_count, f"{attribute} of {self.built.label}")

    def _checked_identity(self, own: object) -> dict[str, Any]:
        if isinstance(own, str):
            return {"identity": own}
        if isinstance(own, Mapping) and own and all(isinstance(name, str) and _is_scalar(own[name]) for name in own):
            return {f"identity.{name}": value for name, value in own.items()}
        raise DataError(
            f"identity of {self.built.label} is {own!r}: expected text, or a mapping of names to text, finite "
            "numbers, true, false or null"
        )

    def _content_digest(self) -> str:
        count = min(PROBES, len(self))
        indices = [number * len(self) // count for number in range(count)]
        contents = [self._content(index) for index in indices]
        for index, content in zip(indices, contents, strict=True):
            if self._content(index) != content:
                raise DataError(
                    f"{self.name(index)} is not the same when it is read again: a point must be one image, with one "
                    f"label; take what is random out of {self.built.label}, or seed it by the index"
                )
        return digest(contents)

    def _content(self, index: int) -> bytes:
        """Label, shape and pixels of the item, read anew; in place of an item that cannot be had the error's type."""
        self._last = None
        try:
            label, x_CHW = self.label(index), self.image(index)
        except PointError as error:
            return f"{type(error.__cause__ or error).__name__}\0".encode()
        return f"{label} {tuple(x_CHW.shape)}\0".encode() + x_CHW.numpy().astype("<f4").tobytes()


def open_imported(
    what: Import, args: Mapping[str, Any], input_shape: tuple[int, int, int], class_count: int | None
) -> ImportedData:
    """The data set that the user's code builds from the arguments. Raises DataError if it does not."""
    return ImportedData(build(what, args, DataError), args, input_shape, class_count)


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _open(
    section: DataSettings, input_shape: tuple[int, int, int], class_count: int | None, download: bool
) -> ImportedData:
    if section.import_ is None:
        raise DataError("data of kind import needs an import: FILE.py:NAME or MODULE:NAME")
    return open_imported(Import.parse(section.import_), section.args or {}, input_shape, class_count)


KIND = Kind("import", _open, needs=("import_",), takes=("args",), channels=None)
