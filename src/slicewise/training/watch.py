"""Where a training can be watched: the terminal, ``history.csv``, ``curves.png``, example predictions, a logger."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import pandas as pd

from slicewise.charts import draw_curves, draw_examples
from slicewise.config import Config, LoggingConfig
from slicewise.console import Display
from slicewise.errors import TrainingError
from slicewise.files import write_atomically
from slicewise.model.engine import infer
from slicewise.model.network import MultiTaskNetwork
from slicewise.model.torch_engine import TorchEngine
from slicewise.training.phases import Phase
from slicewise.training.supervision import Data, supervised_rows

__all__ = ["Watchers"]

_MLFLOW_STORE = os.environ.get("MLFLOW_TRACKING_URI")  # as the user set it: MLflow sets it too, once a run is open


class _Logger(Protocol):
    """What Lightning's loggers have in common."""

    def log_hyperparams(self, params: dict[str, Any]) -> None: ...
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None: ...
    def finalize(self, status: str) -> None: ...

    @property
    def experiment(self) -> Any: ...
    @property
    def version(self) -> int | str | None: ...


class Watchers:
    """All that watch one training; open while it goes on.

    Args:
        folder: The run's.
        config: The run.
        data: Where the examples come from.
        earlier: Rows of the history of trainings before this one.
        display: The terminal; None in all but the first of several processes, which then watch nothing.
        accept: Called when the phase begins, with everything it was given found to be in order.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        data: Data,
        earlier: Sequence[dict[str, Any]],
        display: Display | None,
        accept: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder, self._config, self._data, self._earlier, self._display = folder, config, data, earlier, display
        self._accept = accept
        self._logger: _Logger | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Watchers:
        """Show the bars."""
        if self._display is not None:
            self._stack.enter_context(self._display.training())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Take the bars away and close the logger."""
        self._stack.close()
        if self._logger is None:
            return
        backend = self._config.logging.backend
        with _refused_in_a_sentence(backend) if error is None else suppress(Exception):  # the first error is the one to tell
            self._logger.finalize("success" if error is None else "failed")
            if backend == "wandb":  # an open run would take the next phase's figures as well
                self._logger.experiment.finish(exit_code=int(error is not None))

    def phase_begins(self, phase: Phase, epochs: int, steps: int) -> None:
        """Start the bar and the logger."""
        self._phase = phase
        if self._display is not None:
            with _refused_in_a_sentence(self._config.logging.backend):
                self._logger = _open_logger(self._folder, self._config, phase)
            self._accept()
            self._display.phase_begins(phase.name, epochs, steps)

    def step_ends(self, losses: Sequence[float]) -> None:
        """Move the bar."""
        if self._display is not None:
            self._display.step_ends(losses)

    def epoch_ends(self, history: Sequence[dict[str, Any]], network: MultiTaskNetwork) -> None:
        """Leave a row, the curves, and now and then a sheet of examples."""
        if self._display is None:
            return
        self.write(history)
        row = history[-1]
        self._display.epoch_ends(history)
        if self._logger is not None:
            figures = {f"{row['model']}/{name}": float(value) for name, value in row.items() if _is_number(value)}
            with _refused_in_a_sentence(self._config.logging.backend):
                self._logger.log_metrics(figures, step=row["epoch"])
        every = self._config.logging.example_epochs
        if every and self._phase.segments and row["epoch"] % every == 0:
            sheet = _draw_sheet(network, self._phase, self._data, self._config)
            write_atomically(self._folder / "examples" / f"{row['model']}_{row['attempt']}_{row['epoch']:03}.png", sheet)

    def write(self, history: Sequence[dict[str, Any]]) -> None:
        """Write ``history.csv`` and ``curves.png``, whole each time: an interruption leaves no gap in them."""
        if self._display is None:
            return
        table = pd.DataFrame([*self._earlier, *history])
        write_atomically(self._folder / "history.csv", table.to_csv(index=False, lineterminator="\n"))
        write_atomically(self._folder / "curves.png", draw_curves(table))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


@contextmanager
def _refused_in_a_sentence(backend: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError:
        raise TrainingError(
            f"Expected the packages of logging.backend={backend}, they are not installed. Install slicewise[{backend}], or "
            "set logging.backend=none."
        ) from None
    except Exception as error:  # a server that is away, a key that is missing: each package has its own
        raise TrainingError(
            f"Expected logging.backend={backend} to take the course of the training, it refused: {str(error).rstrip('.')}. "
            "Mend the cause, or set logging.backend=none; a training that was begun goes on with --resume."
        ) from None


def _open_logger(folder: Path, config: Config, phase: Phase) -> _Logger | None:
    """Lightning's logger for the configured backend; an interrupted training goes on in the run that it began there."""
    backend = config.logging.backend
    name = f"{phase.name}_{phase.attempt}"
    if backend == "none":
        return None
    if backend == "tensorboard":
        from lightning_fabric.loggers import TensorBoardLogger

        return TensorBoardLogger(folder, name="tensorboard", version=name)
    known = folder / phase.folder / "states" / f"attempt_{phase.attempt}" / f"{backend}_run"
    begun = known.read_text() if known.is_file() else None
    logger: _Logger
    if backend == "mlflow":
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from pytorch_lightning.loggers import MLFlowLogger

        store = _MLFLOW_STORE or f"sqlite:///{folder / 'mlflow.db'}"
        logger = MLFlowLogger(config.name, run_name=name, tracking_uri=store, run_id=begun)
    else:
        from pytorch_lightning.loggers import WandbLogger

        logger = WandbLogger(name, save_dir=folder, version=begun, project=config.name)
    _ = logger.experiment  # opened now: what it refuses shall not cost an epoch first
    if begun is None:
        logger.log_hyperparams(config.model_dump(mode="json"))
        write_atomically(known, str(logger.version))
    return logger


def _draw_sheet(network: MultiTaskNetwork, phase: Phase, data: Data, config: Config) -> bytes:
    rows = _examples(data, phase, config.logging)
    outcomes = infer(TorchEngine(network), data.store.images[rows], segment=True, classify=phase.classifies)
    return draw_examples(
        [np.asarray(data.store.images[row], dtype=np.float32) for row in rows],
        list(data.store.masks(rows)),
        [np.asarray(outcome.mask) >= config.evaluation.mask_threshold for outcome in outcomes],
        [
            f"{data.store.table['slice_id'].iloc[row].rsplit('/', 3)[-3]}\ntumor {outcome.tumor:.2f}"
            for row, outcome in zip(rows, outcomes, strict=True)
        ],
    )


def _examples(data: Data, phase: Phase, config: LoggingConfig) -> np.ndarray:
    """The same validation slices every time: with and without tumor in turn, spread over the side."""
    rows = supervised_rows(data.val_rows, data.targets, phase)
    rows = rows[data.targets.mask_known[rows]]
    tumor, free = rows[data.targets.label[rows]], rows[~data.targets.label[rows]]
    wanted = min(config.examples, len(rows))
    of_tumor = min(len(tumor), max(wanted - wanted // 2, wanted - len(free)))
    return np.concatenate(list(_spread(tumor, of_tumor, free, wanted - of_tumor)))


def _spread(tumor: np.ndarray, of_tumor: int, free: np.ndarray, of_free: int) -> Iterator[np.ndarray]:
    for rows, count in ((tumor, of_tumor), (free, of_free)):
        if count:
            yield rows[np.linspace(0, len(rows) - 1, count).round().astype(int)]
