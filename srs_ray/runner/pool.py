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

from srs_ray.errors import SrsRayError
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
        self._places = 0  # for workers, when the cluster was last asked
        self._retired = 0
        self._room_asked_at = -math.inf
        self._charges: defaultdict[int, list[str | None]] = defaultdict(list)  # by point, the nodes where it failed
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
            self._feed()
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
            self._places = min(self._room(), self._unfinished) - self._retired
            self._room_asked_at = time.monotonic()
        starting = len(self._workers) - self.ready
        most = max(_STARTING, self.ready) - starting
        for _ in range(min(self._places - len(self._workers), most)):
            worker = _Worker()
            self._workers.append(worker)
            self._start(worker)

    def _start(self, worker: _Worker) -> None:
        """Gives the worker a new actor; it gets points when that is placed and prepared."""
        worker.starts += 1
        worker.actor = self._new_actor()
        worker.node = None
        self._in_flight[worker.actor.prepare.remote(*self._arguments)] = worker, None

    def _feed(self) -> None:
        """Hands waiting points to ready workers, evenly."""
        for in_flight in range(IN_FLIGHT):
            for worker in self._workers:
                if self._waiting and worker.ready and len(worker.points) == in_flight:
                    index = self._next_point(worker)
                    worker.points.append(index)
                    if in_flight == 0:
                        worker.begun_at = time.monotonic()
                    call = worker.actor.certify.remote(index, len(self._charges.get(index, ())) + 1)
                    self._in_flight[call] = worker, index

    def _next_point(self, worker: _Worker) -> int:
        """The next point, but one that failed on this worker's node goes to another node if it can."""
        if self._charges and any(other.ready and other.node != worker.node for other in self._workers):
            for position, index in enumerate(self._waiting):
                if worker.node not in self._charges.get(index, ()):
                    del self._waiting[position]
                    return index
        return self._waiting.popleft()

    def _take(self, ref: ray.ObjectRef) -> list[Row]:
        """The rows that came of this call: none, or one."""
        if ref not in self._in_flight:  # its worker was replaced meanwhile
            return []
        worker, index = self._in_flight.pop(ref)
        try:
            value = ray.get(ref)
        except RayTaskError as error:
            if isinstance(error.cause, SrsRayError):
                raise error.cause from None
            reason = f"{type(error.cause).__name__}: {error.cause}"
            if index is None:
                raise SrsRayError(f"a worker cannot be set up: {reason}") from error
            # The next point may fail likewise in this process, as after a CUDA error: it must not eat up the queue.
            return self._replace(worker, reason)
        except ActorUnavailableError:
            self._ask_again(worker)
            return []
        except RayError as error:
            return self._replace(worker, _reason(error), charged=not _node_is_gone(error, worker.node))
        if index is not None:
            worker.points.popleft()
            worker.begun_at = time.monotonic()
            return [value]
        worker.node, worker.ready, worker.starts, worker.out_of_reach_at = value, True, 0, None
        return []

    def _ask_again(self, worker: _Worker) -> None:
        """The worker cannot be reached, and Ray does not know yet whether it lives: its points are done elsewhere."""
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

    def _replace(self, worker: _Worker, reason: str, charged: bool = True) -> list[Row]:
        """Gives a worker that failed a new actor; of its points only the one that it had begun is charged for it."""
        begun = worker.points[0] if worker.points else None
        log.warning("a worker is replaced%s: %s", "" if begun is None else f" at point {begun}", reason)
        self._take_back(worker)
        rows = []
        if charged and begun is not None:
            rows = self._charge(begun, worker.node, reason)
        elif charged and worker.out_of_reach_at is not None:  # done elsewhere meanwhile, or at work
            self._charges[worker.out_of_reach_at].append(worker.node)
        worker.out_of_reach_at = None
        ray.kill(worker.actor)
        if not charged:
            worker.starts = 0
        if worker.starts < _START_ATTEMPTS:
            self._start(worker)
        else:
            self._retired += 1
            self._places -= 1
            self._workers.remove(worker)
        if not self._workers:
            raise SrsRayError(f"every worker failed while starting, {_START_ATTEMPTS} times each; the last: {reason}")
        return rows

    def _charge(self, index: int, node: str | None, reason: str) -> list[Row]:
        """Counts a failure of the point, which waits again; or gives it up."""
        charges = self._charges[index]
        charges.append(node)
        if len(charges) >= self._attempts:  # a node that died since may have taken its workers with it before
            alive = {entry["NodeID"] for entry in ray.nodes() if entry["Alive"]}
            charges[:] = [place for place in charges if place in alive]
        return self._give_up(index, len(charges), reason) if len(charges) >= self._attempts else []

    def _give_up(self, index: int, failures: int, reason: str) -> list[Row]:
        self._waiting.remove(index)
        self._charges.pop(index, None)
        return [self._failed_row(index, failures, reason)]

    def _overdue(self) -> list[Row]:
        """Ends the points that take longer than they may, and their actors with them."""
        limit = self._point_seconds
        if limit is None:
            return []
        rows = []
        for worker in list(self._workers):
            if worker.points and time.monotonic() - worker.begun_at > limit:
                index, failures = worker.points[0], len(self._charges.get(worker.points[0], ())) + 1
                reason = f"it took longer than execution.point_seconds ({limit:g} s)"
                rows += self._replace(worker, reason, charged=False)
                rows += self._give_up(index, failures, reason)
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
