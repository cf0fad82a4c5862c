"""The kinds of data there are, by name. To add one: a file that declares its `Kind`, and a line here.

A setting that no other kind has is a field of `DataSettings` besides.
"""

from __future__ import annotations

import difflib

from srs_ray.data import cifar10, digits, folders, imagenet, imported, parquet
from srs_ray.data.kind import Kind

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        cifar10.KIND,
        imagenet.KIND,
        folders.KIND,
        parquet.KIND,
        digits.KIND,
        imported.KIND,
    )
}


def kind_named(name: str) -> Kind:
    """The kind of that name. Raises ValueError with the names there are, and the one that was probably meant."""
    if name not in KINDS:
        near = difflib.get_close_matches(name, KINDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"expected one of {', '.join(KINDS)}{hint}")
    return KINDS[name]
