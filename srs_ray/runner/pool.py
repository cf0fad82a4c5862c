"""The workers of a run: points handed out over Ray, and handed out again when a worker or its node is lost.

Scheduling, placement and the loss of nodes are Ray's; which point is done where, and which is given up, is decided
here.
"""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError

from srs_ray.errors import SrsRayError, reason_of
from srs_ray.runs.schema import Row

log = logging.getLogger(__name__)

IN_FLIGHT = 2  # a worker never waits for the driver between two points
POLL_SECONDS = 0.5
ROOM_SECONDS = 5.0  # how often the cluster is asked whether there is room for more workers
_STARTING = 8  # workers that start at once while none is ready
_START_ATTEMPTS = 3


@dataclass(eq=False)
class _Worker:
    """One place for an actor. It is `ready` while its actor is prepared and can be reached; points[0] has begun."""

    actor: Any = None
    node: str | None = None
    ready: bool = False
    starts: int = 0  # in a row, without success
    points: deque[int] = field(default_factory=deque)
    begun_at: float = 0.0
    out_of_reach_at: int | None = None  # the point that it had begun when it could not be reached any more


@dataclass(frozen=True)
class _Charge:
    """A failure of a point: where, and why."""

    node: str | None
    reason: str


class WorkerPool:
    """Actors, the points that wait for them, and what is in flight.

    An actor has three methods: `prepare(*arguments)` and `node()` return the id of its node, `certify(index, attempt)`
    returns a row. A point is charged when its actor fails while certifying it; when that happened `attempts` times, or
    when it takes longer than `point_seconds`, it is given up as `failed_row(index, failures, reason)`. Points that were
    only queued, and points of a node that died or was preempted, are charged nothing.
    """

    def __init__(
        self,
        new_actor: Callable[[], Any],
        arguments: tuple[Any, ...],
        indices: Sequence[int],
        *,
        room: Callable[[], int],
        attempts: int,
        point_seconds: float | None,
        failed_row: Callable[[int, int, str], Row],
    ) -> None:
        """`room()` is how many actors there may be now: it is asked again as the run goes."""
        self._new_actor = new_actor
        self._arguments = arguments
        self._room = room
        self._attempts = attempts
        self._point_seconds = point_seconds
        self._failed_row = failed_row
        self._waiting = deque(indices)
        self._unfinished = len(indices)
        self._workers: list[_Worker] = []
        self._room_then = 0  # when the cluster was last asked
        self._retired = 0
        self._begun = False  # whether any worker was ever ready
        self._room_asked_at = -math.inf
        self._charges: defaultdict[int, list[_Charge]] = defaultdict(list)
        self._in_flight: dict[ray.ObjectRef, tuple[_Worker, int | None]] = {}

    @property
    def ready(self) -> int:
        """How many workers are ready to certify, or at it."""
        return sum(worker.ready for worker in self._workers)

    def rows(self) -> Generator[Row | None, None, None]:
        """One row for each point, in the order they finish; None now and then while there is nothing new.

        Raises what a worker raises as SrsRayError, and SrsRayError where no worker can be set up.
        """
        while self._unfinished:
            self._grow()
            rows = [row for ref in self._ended() for row in self._take(ref)]
            rows += self._overdue()
            rows += self._feed()
            self._unfinished -= len(rows)
            yield from rows
            if not rows:
                yield None

    def kill(self) -> None:
        """Ends all actors at once."""
        for worker in self._workers:
            ray.kill(worker.actor)

    def _ended(self) -> list[ray.ObjectRef]:
        """The calls that have ended; if there is none, those that end within the poll's time."""
        calls = list(self._in_flight)
        if not calls:  # no room for any worker at the moment
            time.sleep(POLL_SECONDS)
            return []
        ended, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
        if not ended:
            ended, _ = ray.wait(calls, num_returns=1, timeout=POLL_SECONDS)
        return ended

    def _grow(self) -> None:
        """Adds workers as there is room, no more at a time than work already, so that the first ones begin soon."""
        if time.monotonic() - self._room_asked_at >= ROOM_SECONDS:
            room = self._room()
            if room > self._room_then:  # a node has joined, perhaps in the place of one where no worker would start
                self._retired = 0
            self._room_then = room
            self._room_asked_at = time.monotonic()
        starting = len(self._workers) - self.ready
        most = max(_STARTING, self.ready) - starting
        for _ in range(min(self._places - len(self._workers), most)):
            worker = _Worker()
            self._workers.append(worker)
            self._start(worker)

    @property
    def _places(self) -> int:
        """How many workers there may be: not more than points, and none where they would not start."""
        return min(self._room_then, self._unfinished) - self._retired

    def _start(self, worker: _Worker) -> None:
        """Gives the worker a new actor; it gets points when that is placed and prepared."""
        worker.starts += 1
        worker.actor = self._new_actor()
        worker.node = None
        self._in_flight[worker.actor.prepare.remote(*self._arguments)] = worker, None

    def _feed(self) -> list[Row]:
        """Hands waiting points to ready workers, evenly; the rows of those that have failed too often instead."""
        rows = []
        for in_flight in range(IN_FLIGHT):
            for worker in self._workers:
                while worker.ready and len(worker.points) == in_flight:
                    index = self._next_point(worker)
                    if index is None:
                        break
                    charges = self._charges_of(index)
                    if len(charges) >= self._attempts:
                        rows.append(self._failed_row(index, len(charges), charges[-1].reason))
                        continue
                    worker.points.append(index)
                    if in_flight == 0:
                        worker.begun_at = time.monotonic()
                    self._in_flight[worker.actor.certify.remote(index, len(charges) + 1)] = worker, index
        return rows

    def _next_point(self, worker: _Worker) -> int | None:
        """The next point for this worker: none that failed on its node while a worker elsewhere may have it."""
        for position, index in enumerate(self._waiting):
            failed_on = {charge.node for charge in self._charges.get(index, ())}
            if worker.node not in failed_on or not any(w.ready and w.node not in failed_on for w in self._workers):
                del self._waiting[position]
                return index
        return None

    def _charges_of(self, index: int) -> list[_Charge]:
        """The point's failures, less those on nodes that died since: they may have taken their workers with them."""
        charges = self._charges.get(index, [])
        if len(charges) >= self._attempts:
            alive = {entry["NodeID"] for entry in ray.nodes() if entry["Alive"]}
            charges[:] = [charge for charge in charges if charge.node in alive]
        return charges

    def _take(self, ref: ray.ObjectRef) -> list[Row]:
        """The rows that came of this call: none, or one."""
        if ref not in self._in_flight:  # its worker was replaced meanwhile
            return []
        worker, index = self._in_flight.pop(ref)
        try:
            value = ray.get(ref)
        except RayTaskError as error:
            reason = reason_of(error.cause)
            if index is None and not self._begun:  # as it will be on every other node
                if isinstance(error.cause, SrsRayError):
                    raise error.cause from None
                raise SrsRayError(f"a worker cannot be set up: {reason}") from error
            # The next point may fail likewise in this process, as after a CUDA error: it must not eat up the queue.
            self._replace(worker, reason)
        except ActorUnavailableError:
            self._ask_again(worker)
        except RayError as error:
            self._replace(worker, _reason(error), charged=not _node_is_gone(error, worker.node))
        else:
            if index is not None:
                worker.points.remove(index)
                worker.begun_at = time.monotonic()
                return [value]
            self._begun = True
            worker.node, worker.ready, worker.starts, worker.out_of_reach_at = value, True, 0, None
        return []

    def _ask_again(self, worker: _Worker) -> None:
        """The worker cannot be reached, and Ray does not know yet whether it lives: its points are done elsewhere."""
        if worker.node is None:  # it may never have heard that it is to be prepared
            self._replace(worker, "it was out of reach while starting", charged=False)
            return
        if worker.points:
            worker.out_of_reach_at = worker.points[0]
            log.warning("a worker at point %d is out of reach; its points go to others", worker.points[0])
        self._take_back(worker)
        self._in_flight[worker.actor.node.remote()] = worker, None

    def _take_back(self, worker: _Worker) -> None:
        """Puts the worker's points back to the front of the queue, and forgets its calls."""
        self._waiting.extendleft(reversed(worker.points))
        worker.points.clear()
        worker.ready = False
        self._in_flight = {ref: call for ref, call in self._in_flight.items() if call[0] is not worker}

    def _replace(self, worker: _Worker, reason: str, charged: bool = True) -> None:
        """Gives a worker that failed a new actor; of its points only the one that it had begun is charged for it."""
        begun = worker.points[0] if worker.points else worker.out_of_reach_at
        log.warning("a worker is replaced%s: %s", "" if begun is None else f" at point {begun}", reason)
        if charged and begun is not None:
            self._charges[begun].append(_Charge(worker.node, reason))
        self._take_back(worker)
        worker.out_of_reach_at = None
        ray.kill(worker.actor)
        if not charged:
            worker.starts = 0
        if worker.starts < _START_ATTEMPTS:
            self._start(worker)
        else:
            self._retired += 1
            self._workers.remove(worker)
        if not self._workers and self._places <= 0:
            raise SrsRayError(f"every worker failed while starting, {_START_ATTEMPTS} times each; the last: {reason}")

    def _overdue(self) -> list[Row]:
        """Ends the points that take longer than they may, and their actors with them."""
        limit = self._point_seconds
        if limit is None:
            return []
        rows = []
        for worker in list(self._workers):
            if worker.points and time.monotonic() - worker.begun_at > limit:
                index = worker.points[0]
                reason = f"it took longer than execution.point_seconds ({limit:g} s)"
                self._replace(worker, reason, charged=False)
                self._waiting.remove(index)
                rows.append(self._failed_row(index, len(self._charges.get(index, ())) + 1, reason))
        return rows


def _node_is_gone(error: RayError, node: str | None) -> bool:
    """Whether the actor died with its node."""
    if isinstance(error, RayActorError) and (error.preempted or "node has died" in str(error)):
        return True
    return any(entry["NodeID"] == node and not entry["Alive"] for entry in ray.nodes())


def _reason(error: RayError) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    if isinstance(error, RayActorError) and error.actor_init_failed:
        return f"it cannot be created: {lines[-1]}"
    return f"its worker died ({lines[0].rstrip('.:')})"
