"""Mistakes that a user can mend: the CLI prints them as one message without a traceback and exits with 2."""

from __future__ import annotations


class SrsRayError(Exception):
    """A mistake in what was asked for. The message names the thing, what was found, what was expected, what to do."""


class JobError(SrsRayError):
    """The job file, or an option that overrides it, is not usable."""


class WeightsError(SrsRayError):
    """A checkpoint is missing, unreadable, or does not fit the architecture."""


class DataError(SrsRayError):
    """A data set is missing, or is not what the job says it is."""


class RunDirectoryError(SrsRayError):
    """A run directory cannot be read, written, or continued with this job."""


class UserCodeError(Exception):
    """The user's own code raised while a point was certified. The message has type, text, file and line of it."""


def reason_of(error: BaseException | None) -> str:
    """An exception in the words of an error row."""
    return str(error) if isinstance(error, UserCodeError) else f"{type(error).__name__}: {error}"


class PointError(Exception):
    """One point cannot be certified (a broken image, a label out of range); the run goes on without it."""


class ShapeError(PointError):
    """An image has not the size that the model takes: as a rule no image of its data set has."""
