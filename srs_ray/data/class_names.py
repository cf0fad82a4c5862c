"""Compares the class names of a data set with those that a model was made for: a label means a place among them."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import lru_cache

from srs_ray.errors import DataError

log = logging.getLogger(__name__)


def check_class_names(data: Sequence[str] | None, model: Sequence[str] | None, label: str) -> None:
    """Compares the names by label, those that both sides have; `label` is the model in words.

    Raises DataError where a name of the data stands at another place among the model's: labels would mean other
    classes. Where names differ that the model does not know at all, a warning says so. Letters' case, spaces, hyphens
    and underscores make no difference.
    """
    if data is None or model is None:
        return
    ours, theirs = [_plain(name) for name in data], [_plain(name) for name in model]
    differing = [place for place, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]]
    known_once = {name for name in ours if ours.count(name) == theirs.count(name) == 1}  # ImageNet has two cranes
    moved = next((place for place in differing if ours[place] in known_once), None)
    if moved is not None:
        there = theirs.index(ours[moved])
        raise DataError(
            f"the data's class {moved} is {data[moved]!r}, which is class {there} of {label} (its class {moved} is "
            f"{model[moved]!r}): {len(differing)} of {len(data)} labels would mean another class; give the data the "
            "model's order of classes, for kind imagefolder by data.classes"
        )
    if differing:
        place = differing[0]
        _tell_once(f"{len(differing)} of {len(data)}", label, place, data[place], model[place])


@lru_cache(maxsize=64)
def _tell_once(share: str, label: str, place: int, data: str, model: str) -> None:
    """A driver and its workers open the same data, often in one process."""
    log.warning(
        "%s class names differ between the data and %s, the first at class %d: %a in the data, %a of the model; see "
        "that they mean the same",
        share,
        label,
        place,
        data,
        model,
    )


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-]+", "", name).casefold()


def class_names_of(dataset: object) -> tuple[str, ...] | None:
    """The data set's class names by label, None where it does not say them."""
    names = getattr(dataset, "class_names", None)
    return None if names is None else tuple(names)
