"""What a person sees while a run goes on: one live line a step, and a line an epoch that stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["Display"]

_FIGURES = {
    "val_volume_dice": "volume Dice",
    "val_roc_auc": "ROC-AUC",
    "val_false_mask_rate": "false masks",
    "gradient_cosine": "gradient cosine",
    "dice_difference_low": "Dice at least",
}
_SIGNED = {"gradient_cosine", "dice_difference_low"}


class Display:
    """Progress bars and sentences on standard error, so that standard output stays for results."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._progress: Progress | None = None
        self._note = ""

    def say(self, sentence: str) -> None:
        """A sentence that stays."""
        self.console.print(sentence, markup=False, soft_wrap=True)

    @contextmanager
    def bar(self, description: str, total: int | None = None) -> Iterator[Callable[[int, int], None]]:
        """A bar for one step; the function it gives is called with what is done and the total."""
        with self._live() as progress:
            task = progress.add_task(description, total=total, note="")
            yield lambda done, of: progress.update(task, completed=done, total=of)

    @contextmanager
    def training(self) -> Iterator[None]:
        """While a phase is trained; the display can then be told of its steps and epochs."""
        with self._live() as self._progress:
            yield
        self._progress = None

    def phase_begins(self, phase: str, epochs: int, steps: int) -> None:
        """Start the bars of the phase and of an epoch."""
        self._phase, self._epochs, self._steps = phase, epochs, steps
        self._task = self._bars.add_task("", total=steps, note="")
        self._name_epoch(1)

    def step_ends(self, losses: Sequence[float]) -> None:
        """Move the bar; NaN stands for a loss that nobody has looked at."""
        if losses[0] == losses[0]:
            self._note = f"loss {losses[0]:.3f} (segmentation {losses[1]:.3f}, classification {losses[2]:.3f})"
        self._bars.update(self._task, advance=1, note=self._note)

    def epoch_ends(self, history: Sequence[dict[str, Any]]) -> None:
        """Leave a line and start the next epoch's bar."""
        row = history[-1]
        figures = [
            f"{label} {row[name]:{'+' if name in _SIGNED else ''}.3f}"
            for name, label in _FIGURES.items()
            if row.get(name) is not None
        ]
        verdict = "  refused" if row.get("accepted") is False else "  kept" if row["kept"] else ""
        self.say(
            f"  {row['model']} {row['epoch']}/{self._epochs}  loss {row['train_loss']:.3f}  {'  '.join(figures)}  "
            f"{row['slices_per_s']:.0f} slices/s{verdict}"
        )
        self._bars.reset(self._task, total=self._steps)
        self._name_epoch(row["epoch"] + 1)

    @property
    def _bars(self) -> Progress:
        if self._progress is None:
            raise RuntimeError("Display.training() must be open while a phase is trained")
        return self._progress

    def _name_epoch(self, epoch: int) -> None:
        self._bars.update(self._task, description=f"{self._phase} {min(epoch, self._epochs)}/{self._epochs}", note="")

    def _live(self) -> Progress:
        return Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,  # a log keeps the sentences, without a blank line for each bar
        )
