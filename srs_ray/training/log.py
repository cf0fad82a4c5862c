"""A training's log: `epochs.csv`, one row an epoch, and TensorBoard's events, in the folder beside the weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import pandas as pd
from tensorboardX import SummaryWriter

from srs_ray.errors import WeightsError
from srs_ray.training.reports import EpochReport, StepReport


class TrainingLog:
    """Takes reports as they come. A training that goes on passes the earlier ones, and the step it goes on from.

    The table is written anew each time and events after `step` are void: an epoch that is done again is there once.
    """

    def __init__(self, folder: Path, reports: Sequence[EpochReport], step: int, enabled: bool = True) -> None:
        self.path = folder / "epochs.csv"
        self.rows = [report.flat() for report in reports]
        self.events: SummaryWriter | None = None
        if enabled:
            self.events = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.events is not None:
            self.events.close()

    def __call__(self, report: StepReport | EpochReport) -> None:
        """Logs a report."""
        assert self.events is not None
        if isinstance(report, StepReport):
            for name, value in report.losses.items():
                self.events.add_scalar(f"batch/{name}", value, report.step)
            self.events.add_scalar("batch/learning_rate", report.rate, report.step)
            return
        row = report.flat()
        self.rows.append(row)
        try:
            pd.DataFrame(self.rows).to_csv(self.path, index=False)
        except OSError as error:
            raise WeightsError(f"cannot write the log {self.path}: {error}; the last checkpoint is whole") from error
        for name, value in row.items():
            if name not in ("epoch", "phase"):
                self.events.add_scalar(f"epoch/{name}", value, report.epoch)
        self.events.flush()
