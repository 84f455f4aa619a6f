"""The same prediction under Ray Data: on this machine, or on a cluster that is already there (RAY_ADDRESS).

Every worker predicts as `slicewise.batch.batch` does, and writes its results whole. What a killed worker had not finished is
done by another; what it had is found finished, by checksum, and not done again. The same holds after a killed driver.
Input and output folders must be seen by all machines under the same paths.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from slicewise.batch.batch import Options, Worker, predict_job
from slicewise.batch.inputs import Job
from slicewise.errors import InputError, OutputError
from slicewise.inference.decoding import Decoder
from slicewise.inference.predictor import Predictor
from slicewise.inference.record import InputRecord

__all__ = ["predict_on_ray"]

_BLOCKS_A_WORKER = 64
"""A killed worker's block is looked through again: small blocks, but not so many that Ray is busy with itself."""


def predict_on_ray(
    jobs: Sequence[Job],
    model: Path,
    output: Path,
    options: Options,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[InputRecord], list[str]]:
    """Predict inputs with several processes, on one machine or many.

    Args:
        jobs: Of `slicewise.batch.inputs.find_inputs`.
        model: Folder of a run or of a checkpoint, with an export where there is no torch.
        output: Folder for the results.
        options: What is asked for.
        workers: Processes, a core each; None: as many as the cluster has cores.
        progress: Called with the number done and the total.

    Returns:
        The records in the order of the jobs, and one sentence for each input that was refused.

    Raises:
        InputError: Ray is not installed.
        OutputError: The disk is full; what is finished is kept.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    try:
        import ray
        from ray.data import ActorPoolStrategy
    except ModuleNotFoundError:
        raise InputError("Expected Ray for --engine ray, it is not installed. Install slicewise[ray].") from None
    started_here = not ray.is_initialized()
    if started_here:
        address = os.environ.get("RAY_ADDRESS")
        local = {} if address else {"num_cpus": workers, "include_dashboard": False}
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **local)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        size = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        rows = [{"number": number, "path": str(job.path), "target": str(job.target)} for number, job in enumerate(jobs)]
        blocks = min(len(rows), size * _BLOCKS_A_WORKER)
        answers = ray.data.from_items(rows, override_num_blocks=blocks).map(
            _Actor,
            fn_constructor_args=(str(model.resolve()), str(output.resolve()), options),
            compute=ActorPoolStrategy(size=size),
            num_cpus=1,
            max_restarts=-1,
            max_task_retries=-1,
        )
        found: dict[int, dict[str, Any]] = {}
        for answer in answers.iter_rows():
            if answer["full"]:
                raise OutputError(answer["full"])
            found[answer["number"]] = answer
            progress(len(found), len(jobs))
    finally:
        if started_here:
            ray.shutdown()
    ordered = [found[number] for number in sorted(found)]
    records = [InputRecord.model_validate_json(answer["record"]) for answer in ordered if answer["record"]]
    return records, [answer["refusal"] for answer in ordered if answer["refusal"]]


class _Actor:
    """A worker: the model is loaded once, and files are decoded in a child of its own."""

    def __init__(self, model: str, output: str, options: Options) -> None:
        predictor = Predictor.from_checkpoint(Path(model), threads=1)
        self.worker = Worker(predictor, Decoder(), options, Path(output))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        record, refusal, full = "", "", ""
        try:
            record = predict_job(Job(Path(row["path"]), Path(row["target"])), self.worker).model_dump_json()
        except InputError as error:
            refusal = str(error)
        except OutputError as error:  # raised here, it would come out as an error of Ray's
            full = str(error)
        return {"number": row["number"], "record": record, "refusal": refusal, "full": full}
