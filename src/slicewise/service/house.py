"""What one service owns: its workers, its uploads and its studies."""

from __future__ import annotations

import asyncio
import fcntl
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import IO

from slicewise.errors import ConfigError
from slicewise.model.description import find_checkpoint, read_description
from slicewise.service.limits import Lane
from slicewise.service.pool import Pool
from slicewise.service.settings import ServiceSettings
from slicewise.service.studies import Studies
from slicewise.service.uploads import Spool
from slicewise.service.wire import WorkerSettings

__all__ = ["House"]

_DEPTH = 2
# Slices whose answer needs torch share one worker, which takes a second for each: as many of them as the house has places
# would leave none for the others.
_THOROUGH = 8


class House:
    """Made before the web framework is loaded: the workers start meanwhile.

    Three pools, so that nothing slow stands in the way of a slice: single slices; slices whose answer needs torch, which the
    first pool does not load for an exported model; studies, which give way to both. The last two start when they are first
    needed.

    Args:
        settings: Of the service.

    Raises:
        CheckpointError: There is no model, or it is damaged.
        ConfigError: The state folder is another service's.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        self.model = find_checkpoint(settings.model)
        self.description = read_description(self.model)
        if settings.state is not None:
            settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock: IO[bytes] | None = _locked(settings.state / "lock")
            self._scratch = settings.state / "scratch"
            shutil.rmtree(self._scratch, ignore_errors=True)  # of an earlier service that was killed
            self._scratch.mkdir(mode=0o700)
        else:
            self._lock = None
            self._scratch = Path(tempfile.mkdtemp(prefix="slicewise-service-"))
        uploads, workers = self._scratch / "uploads", self._scratch / "workers"
        uploads.mkdir()
        workers.mkdir()
        worker = WorkerSettings(
            str(self.model.resolve()),
            settings.threads_each,
            0,
            settings.decode_timeout_s,
            settings.decoder_bytes,
            settings.slice_pixels,
        )
        thorough = replace(worker, threads=settings.threads, nice=2)
        study = replace(
            worker,
            threads=settings.threads,
            nice=5,
            decode_timeout_s=settings.study_decode_timeout_s,
            decoder_bytes=settings.study_decoder_bytes,
        )
        timeout_s = settings.answer_timeout_s
        self.slices = Pool("slices", worker, workers, workers=settings.workers, depth=_DEPTH, timeout_s=timeout_s)
        self.thorough = Pool("thorough", thorough, workers, workers=1, depth=1, timeout_s=timeout_s)
        self._studies_pool = Pool(
            "studies",
            study,
            workers,
            workers=1,
            depth=1,
            timeout_s=settings.study_timeout_s,
            is_disposable=True,
        )
        self.pools = (self.slices, self.thorough, self._studies_pool)
        self.lanes = {
            "predict": Lane(settings.queue),
            "thorough": Lane(_THOROUGH),
            "batch": Lane(settings.batches),
            "studies": Lane(settings.study_uploads),
        }
        self.spool = Spool(uploads)
        state = settings.state or self._scratch
        self.studies = Studies(state, self._studies_pool, keep_s=settings.keep_s)

    async def start(self) -> None:
        """Start the workers that single slices need, and take up the studies of an earlier service."""
        self.slices.start()
        await self.slices.wait_until_spawned()
        self.studies.start()

    async def close(self) -> None:
        """End everything, and remove what is not kept."""
        await self.studies.close()
        await asyncio.gather(*(pool.close() for pool in self.pools))
        shutil.rmtree(self._scratch, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()


def _locked(file: Path) -> IO[bytes]:
    """A file that one process holds at a time, until it ends; two services would take each other's studies up."""
    stream = file.open("wb")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        stream.close()
        raise ConfigError(
            f"Expected a state folder of this service alone, another one uses {file.parent}. Give each its own with --state."
        ) from None
    return stream
