"""Studies: sent, predicted when their turn comes, asked for, cancelled, and taken up again after a restart."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import shutil
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from starlette.datastructures import UploadFile

from slicewise.service.jobs import FINISHED, Job, JobStore
from slicewise.service.logs import log
from slicewise.service.pool import Pool
from slicewise.service.problems import Problem, document
from slicewise.service.schemas import StudyStatus
from slicewise.service.uploads import save_study
from slicewise.service.wire import ENDINGS, RESULT, StudyTask

__all__ = ["Studies"]

_DATABASE = "jobs.sqlite"
_ATTEMPTS = 3
_SWEEP_S = 30.0


class Studies:
    """The jobs of one service.

    ::

        jobs.sqlite
        studies/ID/upload/     removed when the job ends
        studies/ID/results/

    Args:
        folder: Where they are kept; of this service alone.
        pool: That predicts them.
        keep_s: How long the results of a finished one are kept.
    """

    def __init__(self, folder: Path, pool: Pool, *, keep_s: float) -> None:
        self._folder = folder / "studies"
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._store = JobStore(folder / _DATABASE)
        self._pool = pool
        self._keep_s = keep_s
        self._running: dict[str, asyncio.Task[None]] = {}
        self._progress: dict[str, tuple[int, int]] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self._is_closing = False

    @property
    def unfinished(self) -> int:
        """Jobs that wait or run."""
        return len(self._running)

    def start(self) -> None:
        """Take up what an earlier service left: jobs with their upload are queued again, those without are lost."""
        jobs = self._store.all()
        for job in jobs:
            if job.status in FINISHED:
                continue
            if not self._upload(job.id).is_dir():
                self._store.change(job.id, status="lost", problem="study-lost")
                log("study-lost", logging.WARNING, study=job.id)
            elif job.attempts >= _ATTEMPTS:
                self._end(job.id, "failed", "worker-died")
            else:
                self._store.change(job.id, status="queued")
                log("study-resumed", study=job.id)
                self._queue(job)
        known = {job.id for job in jobs}
        for folder in self._folder.iterdir():  # uploads that were cut off
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)
        self._sweeper = asyncio.create_task(self._sweep())

    async def close(self) -> None:
        """Stop; unfinished jobs wait for the next service, and that they were cut short is not held against them."""
        self._is_closing = True
        tasks = [*self._running.values(), *([self._sweeper] if self._sweeper else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(sqlite3.Error):
            self._store.put_back()
        self._store.close()

    async def add(self, owner: str, uploads: Sequence[UploadFile], *, uncertainty: bool, segment: str) -> StudyStatus:
        """Take a study on. Whether there is room for one is the caller's to know."""
        now = time.time()
        job = Job(secrets.token_hex(16), owner, "queued", now, now, 0, uncertainty, segment, 0, None)
        try:
            await save_study(uploads, self._upload(job.id))
            await asyncio.to_thread(self._store.add, job)
        except BaseException:
            shutil.rmtree(self._folder / job.id, ignore_errors=True)
            raise
        self._queue(job)
        return self._status(job)

    def status(self, owner: str, study: str) -> StudyStatus:
        """Where a study stands.

        Raises:
            Problem: There is none with this id and owner.
        """
        return self._status(self._find(owner, study))

    async def cancel(self, owner: str, study: str) -> StudyStatus:
        """End a study, if it has not ended, and remove all its files.

        Raises:
            Problem: There is none with this id and owner.
        """
        job = self._find(owner, study)
        task = self._running.pop(study, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._progress.pop(study, None)
        # Before the files: who asks for them meanwhile is told so.
        if job.status != "lost":
            self._store.change(study, status="cancelled", problem=None)
        await asyncio.to_thread(shutil.rmtree, self._folder / study, True)
        return self.status(owner, study)

    def result(self, owner: str, study: str) -> Path:
        """The file with the result.

        Raises:
            Problem: There is no such study, or it is not finished.
        """
        if self._find(owner, study).status != "done":
            raise Problem("not-finished")
        file = self._results(study) / RESULT
        if not file.is_file():
            raise Problem("no-such-study")
        return file

    def file(self, owner: str, study: str, scan: int, name: str) -> Path:
        """A file of a scan.

        Raises:
            Problem: There is no such study or file, or it is not finished.
        """
        file = self.result(owner, study).with_name(f"{scan}_{ENDINGS[name]}")
        if not file.is_file():
            raise Problem("no-such-file")
        return file

    def _queue(self, job: Job) -> None:
        task = asyncio.create_task(self._run(job))
        self._running[job.id] = task

    async def _run(self, job: Job) -> None:
        try:
            (upload,) = self._upload(job.id).iterdir()
            task = StudyTask(
                str(upload),
                job.id,
                str(self._results(job.id)),
                uncertainty=job.uncertainty,
                segment=job.segment,
            )
            await self._pool.ask(task, progress=partial(self._advance, job.id))
        except Problem as problem:
            if not self._is_closing:
                self._end(job.id, "failed", problem.name)
        except Exception as error:
            log("study-failed", logging.ERROR, study=job.id, error=type(error).__name__)
            self._end(job.id, "failed", "internal")
        else:
            self._end(job.id, "done")

    def _advance(self, study: str, done: int, total: int) -> None:
        self._progress[study] = (done, total)
        if not total:
            # Before its files are decoded: one that takes the whole service with it there is not taken up for ever.
            self._store.begin(study)

    def _end(self, study: str, status: str, problem: str | None = None) -> None:
        _, total = self._progress.pop(study, (0, 0))
        try:
            self._store.change(study, status=status, problem=problem, slices=total)
        except sqlite3.Error as error:  # such as of a full disk: its upload stays, and the next service takes it up
            log("study-not-kept", logging.ERROR, study=study, error=type(error).__name__)
            return
        finally:
            self._running.pop(study, None)
        shutil.rmtree(self._upload(study), ignore_errors=True)
        shutil.rmtree(f"{self._results(study)}.scratch", ignore_errors=True)
        log("study-ended", study=study, result=status, problem=problem, slices=total)

    async def _sweep(self) -> None:
        """Remove what has been kept for long enough."""
        while True:
            await asyncio.sleep(min(_SWEEP_S, self._keep_s))
            try:
                for job in self._store.all():
                    if job.status in FINISHED and time.time() - job.updated > self._keep_s:
                        self._store.remove(job.id)
                        await asyncio.to_thread(shutil.rmtree, self._folder / job.id, True)
            except sqlite3.Error as error:  # such as of a full disk; the next time it may do
                log("sweep-failed", logging.ERROR, error=type(error).__name__)

    def _find(self, owner: str, study: str) -> Job:
        job = self._store.find(study)
        if job is None or job.owner != owner:
            raise Problem("no-such-study")
        return job

    def _status(self, job: Job) -> StudyStatus:
        done, total = self._progress.get(job.id, (job.slices, job.slices) if job.status == "done" else (0, 0))
        problem: dict[str, Any] | None = None
        if job.problem is not None:
            problem = json.loads(document(job.problem, job.id))
        created = datetime.fromtimestamp(job.created, UTC).isoformat(timespec="milliseconds")
        return StudyStatus(id=job.id, status=job.status, created=created, done=done, total=total or None, problem=problem)

    def _upload(self, study: str) -> Path:
        return self._folder / study / "upload"

    def _results(self, study: str) -> Path:
        return self._folder / study / "results"
