"""The user's network in use: what its code raises is told with type, text, file and line, on whatever machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from srs_ray.errors import UserCodeError
from srs_ray.models.opened import Flat
from srs_ray.models.out_of_memory import is_out_of_memory
from srs_ray.models.protocols import Shape
from srs_ray.models.user_code import Built, describe_failure


class Guarded:
    """A network of the user's code. Its failures are UserCodeErrors, but for a lack of memory, which a smaller batch
    can mend."""

    def __init__(self, flat: Flat, built: Built) -> None:
        self._flat, self._built = flat, built

    @property
    def state_shape(self) -> Shape:
        return self._flat.state_shape

    def inject(self, x_BCHW: Tensor) -> Tensor:
        with self._told():
            return self._flat.inject(x_BCHW)

    def f(self, z_BD: Tensor, injection: Tensor) -> Tensor:
        with self._told():
            return self._flat.f(z_BD, injection)

    def head(self, z_BD: Tensor) -> Tensor:
        with self._told():
            return self._flat.head(z_BD)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (Exception, SystemExit) as error:
            if is_out_of_memory(error):
                raise
            raise UserCodeError(describe_failure(error, self._built)) from error
