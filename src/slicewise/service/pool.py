"""Workers, and the queue before them. A worker that dies is replaced, and what it held is answered all the same."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from slicewise.service.logs import log, place_of
from slicewise.service.problems import Problem
from slicewise.service.settings import KEYS_VARIABLE
from slicewise.service.wire import SliceTask, StudyTask, WorkerSettings, line_of, read_frame

__all__ = ["Pool"]

_COMMAND = (sys.executable, "-P", "-m", "slicewise.service.worker")
_START_LIMIT_S = 60.0
_DEATHS = 2
_STABLE_S = 5.0
_LONGEST_PAUSE_S = 5.0

Progress = Callable[[int, int], None]


class _Entry:
    """A task on its way through the pool."""

    def __init__(self, number: int, task: SliceTask | StudyTask, progress: Progress | None) -> None:
        self.number = number
        self.line = line_of(task, number)
        self.progress = progress
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.deaths = 0
        """Workers that died of it."""
        self.is_overdue = False
        self.worker: _Worker | None = None

    def __lt__(self, other: _Entry) -> bool:
        """Earlier ones first: what a dead worker held goes before what came later."""
        return self.number < other.number

    def tell(self, done: int, total: int) -> None:
        """Tell of progress; what goes wrong there is no fault of the worker, and costs it nothing."""
        if self.progress is None or self.answer.done():
            return
        try:
            self.progress(done, total)
        except Exception as error:
            log("progress-failed", logging.ERROR, error=type(error).__name__, where=place_of(error))


class _Worker:
    """One process, and the tasks it was sent, in their order."""

    def __init__(self, process: Process, depth: int, timeout_s: float) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process, self.requests, self.answers = process, process.stdin, process.stdout
        self.held: dict[int, _Entry] = {}
        self.room = asyncio.Semaphore(depth)
        self._timeout_s = timeout_s
        self._alarm: asyncio.TimerHandle | None = None

    def take(self, entry: _Entry) -> None:
        """Send it a task."""
        entry.tell(0, 0)
        entry.worker = self
        self.held[entry.number] = entry
        self.requests.write(entry.line)
        if len(self.held) == 1:
            self._watch()

    def release(self, number: int) -> _Entry:
        """A task that it has answered."""
        entry = self.held.pop(number)
        entry.worker = None
        self.room.release()
        self._watch()
        return entry

    def kill(self) -> None:
        """End it, whatever it does, and its decoder, which is of its group and would have nobody to watch its memory."""
        if self._alarm is not None:
            self._alarm.cancel()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def _watch(self) -> None:
        """It works on the oldest of its tasks; that one is timed."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = None
        if self.held:
            oldest = next(iter(self.held.values()))
            self._alarm = asyncio.get_running_loop().call_later(self._timeout_s, self._give_up, oldest)

    def _give_up(self, entry: _Entry) -> None:
        entry.is_overdue = True
        self.kill()


class Pool:
    """Worker processes that share one queue.

    Args:
        name: In logs and metrics.
        settings: Of each worker.
        scratch: Folder in which each worker has one for its temporary files; removed when the worker has ended.
        workers: How many.
        depth: Tasks that a worker is sent at once: while it predicts one, the file of the next is decoded.
        timeout_s: Longest work on a task, after which its worker is killed.
        is_disposable: A task that is cancelled takes its worker with it; else it is finished, and its answer dropped.
    """

    def __init__(
        self,
        name: str,
        settings: WorkerSettings,
        scratch: Path,
        *,
        workers: int,
        depth: int,
        timeout_s: float,
        is_disposable: bool = False,
    ) -> None:
        self.name = name
        self.size = workers
        self.depth = depth
        self.restarts = 0
        self.failure: str | None = None
        """Why the last worker that could not start did not."""
        self._settings = settings
        self._scratch = scratch
        self._timeout_s = timeout_s
        self._is_disposable = is_disposable
        self._queue: asyncio.PriorityQueue[_Entry] = asyncio.PriorityQueue()
        self._numbers = count()
        self._workers: dict[int, _Worker] = {}
        self._tenders: list[asyncio.Task[None]] = []
        self._spawned, self._settled = asyncio.Event(), asyncio.Event()

    @property
    def ready(self) -> int:
        """How many workers are ready."""
        return len(self._workers)

    @property
    def waiting(self) -> int:
        """Tasks that no worker has yet."""
        return self._queue.qsize()

    @property
    def running(self) -> int:
        """Tasks that a worker has."""
        return sum(len(worker.held) for worker in self._workers.values())

    def start(self) -> None:
        """Start the workers, without waiting for them."""
        if not self._tenders:
            self._tenders = [asyncio.create_task(self._tend(place)) for place in range(self.size)]

    async def wait_until_spawned(self) -> None:
        """Until the first worker is on its way: what blocks the event loop then does not keep it."""
        await self._spawned.wait()

    async def close(self) -> None:
        """End the workers; what still waits is answered with "shutting-down"."""
        for tender in self._tenders:
            tender.cancel()
        await asyncio.gather(*self._tenders, return_exceptions=True)
        while not self._queue.empty():
            entry = self._queue.get_nowait()
            if not entry.answer.done():
                entry.answer.set_exception(Problem("shutting-down"))

    async def ask(
        self, task: SliceTask | StudyTask, *, patience_s: float | None = None, progress: Progress | None = None
    ) -> bytes:
        """The answer to a task.

        Args:
            task: What to do; starts the pool, where it was not.
            patience_s: Longest time until the answer, waiting included; None: any.
            progress: Told ``0, 0`` whenever a worker is sent the task, then the slices done and their total.

        Raises:
            Problem: The task was refused or failed, or its time was up.
        """
        self.start()
        entry = _Entry(next(self._numbers), task, progress)
        self._queue.put_nowait(entry)
        try:
            async with asyncio.timeout(patience_s):
                return await entry.answer
        except TimeoutError:
            raise Problem("answer-timeout" if self.ready else "not-ready", {"Retry-After": "5"}) from None
        except asyncio.CancelledError:
            if self._is_disposable and entry.worker is not None:
                entry.worker.kill()
            raise

    async def _tend(self, place: int) -> None:
        """Keep one worker running, whatever happens."""
        if place:  # the first is ready sooner where the others do not start beside it
            await self._settled.wait()
        pause_s = 0.0
        while True:
            began = time.monotonic()
            try:
                await self._employ(place)
            except Exception as error:  # such as no memory or no pipe for a process: there may be some later
                log("pool-failed", logging.ERROR, pool=self.name, error=type(error).__name__, where=place_of(error))
            finally:  # nobody shall wait for what has failed
                self._spawned.set()
                self._settled.set()
            self.restarts += 1
            pause_s = 0.0 if time.monotonic() - began > _STABLE_S else min(_LONGEST_PAUSE_S, 2 * pause_s + 0.05)
            await asyncio.sleep(pause_s)

    async def _employ(self, place: int) -> None:
        """One worker, from its start to its end."""
        began = time.monotonic()
        with TemporaryDirectory(dir=self._scratch, ignore_cleanup_errors=True) as folder:
            worker = await self._spawn(folder)
            self._spawned.set()
            pid = worker.process.pid
            try:
                if await self._is_ready(worker):
                    self._workers[place] = worker
                    self._settled.set()
                    log("worker-ready", pool=self.name, pid=pid, duration_s=round(time.monotonic() - began, 2))
                    await self._serve(worker)
            finally:
                self._workers.pop(place, None)
                worker.kill()
                code = await asyncio.shield(worker.process.wait())
                self._recover(worker)
            log("worker-ended", logging.WARNING, pool=self.name, pid=pid, code=code)

    async def _spawn(self, folder: str) -> _Worker:
        environment = {name: value for name, value in os.environ.items() if name != KEYS_VARIABLE}
        process = await asyncio.create_subprocess_exec(
            *_COMMAND,
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env=environment | {"TMPDIR": folder},
            start_new_session=True,
        )
        worker = _Worker(process, self.depth, self._timeout_s)
        worker.requests.write(line_of(self._settings))
        return worker

    async def _is_ready(self, worker: _Worker) -> bool:
        try:
            async with asyncio.timeout(_START_LIMIT_S):
                header, _ = await read_frame(worker.answers)
        except (TimeoutError, asyncio.IncompleteReadError, OSError):
            header = {"kind": "failed", "detail": "it ended, or did not speak, before it was ready"}
        self.failure = header.get("detail")
        if self.failure is not None:
            # Of the model alone: no request has been here yet.
            log("worker-failed", logging.ERROR, pool=self.name, detail=self.failure)
        return self.failure is None

    async def _serve(self, worker: _Worker) -> None:
        """Feed a worker until it ends."""
        feeder = asyncio.create_task(self._feed(worker))
        try:
            while True:
                header, payload = await read_frame(worker.answers)
                number, kind = header["number"], header["kind"]
                if kind == "progress":
                    worker.held[number].tell(header["done"], header["total"])
                    continue
                entry = worker.release(number)
                if entry.answer.done():  # nobody waits for it any more
                    continue
                if kind == "answer":
                    entry.answer.set_result(payload)
                elif kind == "refusal":
                    entry.answer.set_exception(Problem(header["problem"]))
                else:
                    log("task-failed", logging.ERROR, pool=self.name, error=header["error"], where=header["where"])
                    entry.answer.set_exception(Problem("internal"))
        except (asyncio.IncompleteReadError, OSError):
            return
        finally:
            feeder.cancel()
            await asyncio.gather(feeder, return_exceptions=True)

    async def _feed(self, worker: _Worker) -> None:
        while True:
            await worker.room.acquire()
            entry = await self._queue.get()
            while entry.answer.done():
                entry = await self._queue.get()
            worker.take(entry)

    def _recover(self, worker: _Worker) -> None:
        """Send what a dead worker held to the others; what has cost two workers is refused.

        It died of the oldest, the one that it worked on: the next is no worse for having waited there.
        """
        for place, entry in enumerate(worker.held.values()):
            entry.worker = None
            entry.deaths += place == 0
            if entry.answer.done():
                continue
            if entry.is_overdue:
                entry.answer.set_exception(Problem("answer-timeout"))
            elif entry.deaths >= _DEATHS:
                entry.answer.set_exception(Problem("worker-died", {"Retry-After": "1"}))
            else:
                self._queue.put_nowait(entry)
        worker.held.clear()
