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
PLACING_SECONDS = 60.0  # how long others may still come when every worker that was placed has failed to start
_STARTING = 8  # workers that start at once while none is ready
_START_ATTEMPTS = 3


@dataclass(eq=False)
class _Worker:
    """One place for an actor. It is `ready` while its actor is prepared and can be reached; points[0] has begun."""

    actor: Any = None
    node: str | None = None  # None until Ray has placed it
    prepared: bool = False
    ready: bool = False
    starts: int = 0  # in a row, without success
    points: deque[int] = field(default_factory=deque)
    begun_at: float = 0.0  # the first of its points, or its preparation once it is placed
    out_of_reach_at: int | None = None  # the point that it had begun when it could not be reached any more


class _Placed:
    """In the place of a point's index: the call that says where an actor is."""


_PLACED = _Placed()


@dataclass(frozen=True)
class _Charge:
    """A failure of a point: where, and why."""

    node: str | None
    reason: str


@dataclass(frozen=True)
class _Refusal:
    """A worker that could not be prepared: where, and the error to raise should it be so everywhere."""

    node: str | None
    error: SrsRayError

    def is_like(self, other: _Refusal) -> bool:
        """Whether it is the same on another node, names of nodes aside."""
        apart = self.node is not None and other.node is not None and self.node != other.node
        return apart and type(self.error) is type(other.error) and _unnamed(self.error) == _unnamed(other.error)


class WorkerPool:
    """Actors, the points that wait for them, and what is in flight.

    An actor has three methods: `prepare(*arguments)`, `node()` returns the id of its node, `certify(index, attempt)`
    returns a row. A point is charged when its actor fails while certifying it; when that happened `attempts` times, or
    when it takes longer than `point_seconds`, it is given up as `failed_row(index, failures, reason)`. Points that were
    only queued, and points of a node that died or was preempted, are charged nothing.

    An actor that cannot be prepared, or that `admit` refuses, keeps its place without work, so that no other comes
    there. While none ever worked, the run ends when all that have a place are so, or two on different nodes alike.
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
        start_seconds: float | None = None,
        failed_row: Callable[[int, int, str], Row],
        admit: Callable[[Any], str | None] = lambda prepared: None,
    ) -> None:
        """`room()` is how many actors there may be now: it is asked again as the run goes. `admit` gets what `prepare`
        returned, and says why such an actor is not to work, if it is not."""
        self._new_actor = new_actor
        self._arguments = arguments
        self._room = room
        self._attempts = attempts
        self._point_seconds = point_seconds
        self._start_seconds = start_seconds
        self._failed_row = failed_row
        self._admit = admit
        self._waiting = deque(indices)
        self._unfinished = len(indices)
        self._workers: list[_Worker] = []
        self._room_then = 0  # when the cluster was last asked
        self._retired = 0
        self._idle: list[Any] = []  # actors that keep their places without work
        self._refusals: list[_Refusal] = []  # while no worker was ready yet
        self._refused_at = 0.0
        self._begun = False  # whether any worker was ever ready
        self._room_asked_at = -math.inf
        self._charges: defaultdict[int, list[_Charge]] = defaultdict(list)
        self._in_flight: dict[ray.ObjectRef, tuple[_Worker, int | _Placed | None]] = {}

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
            self._give_up_if_none_starts()
            rows = [row for ref in self._ended() for row in self._take(ref)]
            rows += self._overdue()
            rows += self._feed()
            self._unfinished -= len(rows)
            yield from rows
            if not rows:
                yield None

    def kill(self) -> None:
        """Ends all actors at once."""
        for actor in (*(worker.actor for worker in self._workers), *self._idle):
            ray.kill(actor)

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
                for actor in self._idle:
                    ray.kill(actor)
                self._idle.clear()
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
        return min(self._room_then - self._retired, self._unfinished)

    def _start(self, worker: _Worker) -> None:
        """Gives the worker a new actor; it gets points when that is placed and prepared."""
        worker.starts += 1
        worker.actor = self._new_actor()
        worker.node, worker.prepared = None, False
        self._in_flight[worker.actor.node.remote()] = worker, _PLACED
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
            if index is None:
                self._refuse(worker, error)
            else:
                # The next point may fail likewise in this process, as after a CUDA error: it must not eat up the queue.
                self._replace(worker, reason_of(error.cause))
        except ActorUnavailableError:
            self._ask_again(worker)
        except RayError as error:
            self._replace(worker, _reason(error), charged=not _node_is_gone(error, worker.node))
        else:
            if isinstance(index, _Placed):
                worker.node, worker.begun_at = value, time.monotonic()
            elif index is not None:
                worker.points.remove(index)
                worker.begun_at = time.monotonic()
                return [value]
            else:
                self._take_in(worker, value)
        return []

    def _take_in(self, worker: _Worker, value: Any) -> None:
        """A worker is prepared, or can be reached again."""
        reason = None if worker.prepared else self._admit(value)
        if reason is not None:
            log.warning("a worker is retired: %s", reason)
            self._retire(worker, reason)
            return
        self._begun = True
        worker.prepared, worker.ready, worker.starts, worker.out_of_reach_at = True, True, 0, None

    def _refuse(self, worker: _Worker, error: RayTaskError) -> None:
        """The worker cannot be prepared. On another node it may go well, unless one there has failed alike."""
        reason = reason_of(error.cause)
        if self._begun and not isinstance(error.cause, SrsRayError):
            self._replace(worker, reason)  # others work, and this one may yet
            return
        refusal = _Refusal(worker.node, _as_told(error))
        log.warning("a worker cannot be set up, and its place stays empty: %s", reason)
        if not self._begun:
            if any(refusal.is_like(other) for other in self._refusals):
                raise refusal.error from None
            self._refusals.append(refusal)
            self._refused_at = time.monotonic()
        self._retire(worker, reason)

    def _retire(self, worker: _Worker, reason: str) -> None:
        """Has a worker keep its place without work: Ray would put the next one there."""
        self._take_back(worker)
        self._workers.remove(worker)
        self._retired += 1
        self._idle.append(worker.actor)
        if self._begun and not self._workers and self._places <= 0:
            raise SrsRayError(f"no worker is left; the last one was retired: {reason}")

    def _give_up_if_none_starts(self) -> None:
        """Raises the last refusal where every worker that has a place refused, and no other is given one."""
        if self._begun or not self._refusals or any(worker.node is not None for worker in self._workers):
            return
        if not self._workers or time.monotonic() - self._refused_at > PLACING_SECONDS:
            raise self._refusals[-1].error from None

    def _ask_again(self, worker: _Worker) -> None:
        """The worker cannot be reached, and Ray does not know yet whether it lives: its points are done elsewhere."""
        if not worker.prepared:  # the call of `prepare` may be lost
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
        """Ends the points and the starts that take longer than they may, and their actors with them."""
        rows = []
        for worker in list(self._workers):
            index = worker.points[0] if worker.points else None
            preparing = worker.node is not None and not worker.prepared
            limit = self._point_seconds if index is not None else self._start_seconds if preparing else None
            if limit is None or time.monotonic() - worker.begun_at <= limit:
                continue
            if index is None:
                self._replace(worker, f"its start took longer than {limit:g} s")
                continue
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


def _as_told(error: RayTaskError) -> SrsRayError:
    """The error that `prepare` raised, wrapped in an SrsRayError where it is none."""
    if isinstance(error.cause, SrsRayError):
        return error.cause
    told = SrsRayError(f"a worker cannot be set up: {reason_of(error.cause)}")
    told.__cause__ = error
    return told


def _unnamed(error: SrsRayError) -> str:
    """The error's text without the names and addresses of nodes."""
    text = str(error)
    for node in ray.nodes():
        for name in ("NodeManagerHostname", "NodeManagerAddress", "NodeID"):
            text = text.replace(str(node.get(name)), "")
    return text
