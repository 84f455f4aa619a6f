"""A run: its folder, and the steps from raw files to a report. Each step reads what the one before it left on disk.

::

    RUN/
      config.yaml  environment.json
      phantom/           the generated cohort, where the configuration asks for one
      store/             the preprocessed slices
      audit/             audit.html, audit.json and groups.csv: what is wrong with the data
      split.csv          one row a patient
      history.csv        one row an epoch
      curves.png  examples/  tensorboard/              the course of the training
      phases/{segmentation,classification,joint}/      checkpoints
      single_task/{segmentation,classification}/       checkpoints of the models compared with
      cases.parquet  volumes.parquet  patients.parquet  facts.json     what figures are computed from
      results.json       every figure
      explanations/  gallery/                          pictures of test slices
      report.html  model_card.md
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from slicewise.config import Config, SourceConfig
from slicewise.config_file import load_config, save_config
from slicewise.console import Display
from slicewise.data.ingest import ingest, refuse_skipped
from slicewise.data.split import SIDES, assign_sides, read_split, split_patients, write_split
from slicewise.data.store import SliceStore
from slicewise.errors import AuditError, ConfigError, InputError, SplitError, TrainingError
from slicewise.files import write_atomically

__all__ = ["Run"]

_CHANGEABLE = ("training", "phases", "gate", "model", "augmentation", "evaluation", "logging")
"""Sections of the configuration that nothing before the training depends on."""


class Run:
    """One folder and its steps, to be taken in the order of the methods."""

    def __init__(self, folder: Path, config: Config, display: Display) -> None:
        self.folder = folder
        self.config = config
        self.display = display

    @classmethod
    def begin(cls, folder: Path, config: Config, display: Display, *, resume: bool = False) -> Run:
        """Start a run in a new folder, or go on with an interrupted one.

        Raises:
            ConfigError: ``audit.accept`` names a rule that does not exist.
            InputError: The folder holds something and ``resume`` is off, or it was begun with another configuration.
        """
        from slicewise.audit.findings import RULES

        if unknown := sorted(set(config.audit.accept) - set(RULES)):
            raise ConfigError(f"Expected audit.accept to name rules, got {unknown[0]!r}. The rules are {', '.join(RULES)}.")
        saved = folder / "config.yaml"
        if folder.exists() and not folder.is_dir():
            raise InputError(f"Expected a folder for the run, {folder} is a file. Name another.")
        if resume and saved.is_file():
            begun = load_config(saved)
            # What one is ready to accept may change once one has seen it; it changes nothing that was computed.
            if begun.model_copy(update={"audit": config.audit}) != config:
                raise InputError(
                    f"Expected the configuration that {saved} was begun with, got a different one. "
                    "Give the same configuration and settings, or another --out."
                )
            if begun != config:
                write_atomically(saved, lambda temporary: save_config(config, temporary))
        elif folder.exists() and any(folder.iterdir()):
            way_on = "Add --resume to go on with the run that it holds, or name" if saved.is_file() else "Name"
            raise InputError(f"Expected a new or empty folder for the run, {folder} holds files. {way_on} another.")
        return cls(folder, config, display)

    @classmethod
    def open(cls, folder: Path, display: Display, settings: Sequence[str] = ()) -> Run:
        """Open a run that was begun before.

        Args:
            folder: The run's.
            display: Where progress goes.
            settings: Changes for the steps from training on, such as ``training.batch_size=16``.

        Raises:
            ConfigError: A setting is impossible, or one of the data, which the run has read already.
            InputError: The folder is not a run's.
        """
        if not (folder / "config.yaml").is_file():
            raise InputError(
                f"Expected the folder of a run with config.yaml, found none in {folder}. Begin with `slicewise ingest`."
            )
        begun, config = load_config(folder / "config.yaml"), load_config(folder / "config.yaml", settings)
        changed = [name for name in Config.model_fields if getattr(begun, name) != getattr(config, name)]
        if fixed := [name for name in changed if name not in _CHANGEABLE]:
            raise ConfigError(
                f"Expected settings of {', '.join(_CHANGEABLE)}, got one of {', '.join(fixed)}: the data of {folder} was "
                "read and divided by it. Begin a new run."
            )
        return cls(folder, config, display)

    def ingest(self, *, strict: bool = False) -> SliceStore:
        """Read every source into the slice store; refused input leaves no folder behind that was not there.

        Raises:
            InputError: As `slicewise.data.ingest.ingest`.
        """
        with self._nothing_left_where_refused():
            # First of all, so that whoever finds the folder, this code included, knows what it was begun with.
            if not (self.folder / "config.yaml").is_file():
                self._describe()
            if not (self.folder / "store").is_dir():
                self._read_sources(strict)
            store = self.store()
            if strict:
                refuse_skipped(store.description["skipped"])
        return store

    def audit(self) -> None:
        """Audit the store, once; what it found stays in the folder.

        Raises:
            AuditError: There is a finding of error level whose rule ``audit.accept`` does not name.
        """
        folder = self.folder / "audit"
        if not (folder / "audit.json").is_file():
            from slicewise.audit.audit import audit, write_audit
            from slicewise.audit.survey import survey_store

            survey = survey_store(self.store(), {name: source.classification for name, source in self.sources().items()})
            write_audit(audit(survey), survey, folder)
        findings = json.loads((folder / "audit.json").read_text(encoding="utf-8"))["findings"]
        accepted = self.config.audit.accept
        errors = [finding for finding in findings if finding["severity"] == "error"]
        counts = Counter(finding["severity"] for finding in findings)
        self.display.say(f"  findings: {', '.join(f'{level} {counts[level]}' for level in ('error', 'warning', 'info'))}")
        for finding in errors:
            taken = " (accepted)" if finding["rule"] in accepted else ""
            where = f" in {finding['source']}" if finding["source"] else ""
            self.display.say(f"  {finding['rule']}{where}{taken}: {finding['message']}")
        if refused := sorted({finding["rule"] for finding in errors} - set(accepted)):
            rules = ", ".join(refused)
            raise AuditError(
                f"Expected data without errors, the audit found {rules}. Look at {folder / 'audit.html'}; correct the data, "
                f"or go on in spite of it with --resume and audit.accept=[{', '.join(sorted({*refused, *accepted}))}]."
            )

    def split(self) -> pd.DataFrame:
        """Divide the patients, those with copies of the same slices together; audit the data first.

        Raises:
            AuditError: As `audit`.
            SplitError: The patients cannot be divided as configured.
        """
        self.audit()
        file = self.folder / "split.csv"
        if not file.is_file():
            split = split_patients(self.store().table, self.duplicates(), self.config.split, self.config.seed)
            write_atomically(file, lambda temporary: write_split(split, temporary))
        split = read_split(file)
        counts = split["split"].value_counts()
        self.display.say(f"  patients: {', '.join(f'{side} {counts.get(side, 0)}' for side in SIDES)}")
        return split

    def train(self, *, only: str | None = None, init_from: Sequence[Path] = ()) -> None:
        """Train every phase that has no checkpoint yet, or the one that is named; go on with what was interrupted.

        Raises:
            InputError: The store has changed.
            TrainingError: As `slicewise.training.trainer.train_run`.
        """
        from slicewise.training.trainer import gather_data, train_run

        store, sides = self.store(), self.sides()
        store.check_pixels()
        data = gather_data(self.sources(), store, sides)
        train_run(
            self.folder, self.config, data, sides, self.display, only=only, init_from=init_from, accept=self._keep_settings
        )

    def refuse_begun(self, *, only: str | None = None) -> None:
        """Training is not begun where one was interrupted, nor that of a named phase which is finished.

        Raises:
            InputError: There is the state of an interrupted training, or the checkpoint of the phase ``only``.
        """
        from slicewise.training.trainer import is_interrupted, select_phases

        for phase in select_phases(self.config, only):
            if only is not None and (self.folder / phase.folder / "model.json").is_file():
                raise InputError(
                    f"Expected a phase without a checkpoint, {self.folder / phase.folder} holds one. Remove that folder to "
                    f"train {phase.name} again, or do so in a new run."
                )
            if is_interrupted(self.folder, phase):
                states = self.folder / phase.folder / "states"
                raise InputError(
                    f"Expected no interrupted training of phase {phase.name}, {states} holds one. Add --resume to go on "
                    "with it, or remove that folder to begin the phase again."
                )

    def plan(self, *, only: str | None = None, init_from: Sequence[Path] = ()) -> str:
        """What `train` would do, in words; a few steps are taken, and forgotten, to estimate the time."""
        from slicewise.training.plan import describe_plan
        from slicewise.training.trainer import gather_data, hand_out, select_phases

        data = gather_data(self.sources(), self.store(), self.sides())
        phases = select_phases(self.config, only, self.folder)
        unfinished = [phase for phase in phases if not (self.folder / phase.folder / "model.json").is_file()]
        return describe_plan(self.config, data, unfinished, hand_out(init_from, unfinished, only))

    def evaluate(self) -> dict[str, Any]:
        """Predict the validation and test slices with every model; write the cases and the figures computed from them."""
        from slicewise.evaluation.models import evaluate_models
        from slicewise.evaluation.record import Record

        store = self.store()
        evaluated = evaluate_models(
            self.folder, self.config, self.sources(), store, self.sides(), self.duplicates(), self.display
        )
        cases = self._score_explanations(evaluated.cases)
        record = Record(cases, evaluated.volumes, evaluated.facts)
        record.write(self.folder)
        return record.write_results(self.folder)

    def explain(self) -> None:
        """Draw test slices: with Grad-CAM, and the worst and random ones."""
        from slicewise.explanation.gallery import write_examples, write_explanations

        store, cases = self.store(), self.cases()
        write_explanations(self.folder, self.config.evaluation.explanations, store, cases, self.display)
        write_examples(self.folder, store, cases)

    def report(self) -> Path:
        """Write ``results.json``, ``report.html`` and ``model_card.md`` from what the other steps left."""
        from slicewise.report.document import write_report

        self.cases()  # says what to do where there are none
        return write_report(self.folder / "cases.parquet", self.folder)

    def all_steps(self, *, strict: bool = False) -> Path:
        """From files to report."""
        with self._nothing_left_where_refused():
            self.display.say("Reading the data")
            self.ingest(strict=strict)
            self.display.say("Auditing the data, dividing the patients")
            self.split()
        steps = (
            ("Training", self._train_all),
            ("Evaluating on patients the models never saw", self.evaluate),
            ("Explaining", self.explain),
        )
        for name, step in steps:
            self.display.say(name)
            step()
        self.display.say("Writing the report")
        return self.report()

    def store(self) -> SliceStore:
        """The slice store."""
        return SliceStore(self.folder / "store")

    def sides(self) -> pd.Series[str]:
        """The side of each row of the store."""
        return assign_sides(self.store().table, self.duplicates(), read_split(self.folder / "split.csv"))

    def duplicates(self) -> dict[str, int]:
        """Groups of files that show the same slice, as the run's audit found them.

        Raises:
            InputError: The run was not audited.
        """
        file = self.folder / "audit" / "groups.csv"
        if not file.is_file():
            raise InputError(f"Expected the groups of duplicates in {file}, found none. Run `slicewise split` first.")
        groups = pd.read_csv(file, dtype={"file": "string"}, keep_default_na=False)
        return dict(zip(groups["file"], groups["group"], strict=True))

    def cases(self) -> pd.DataFrame:
        """The table of cases.

        Raises:
            InputError: There is none yet.
        """
        file = self.folder / "cases.parquet"
        if not file.is_file():
            raise InputError(f"Expected the table of cases in {file}, found none. Run `slicewise evaluate` first.")
        return pd.read_parquet(file)

    def sources(self) -> dict[str, SourceConfig]:
        """The configured sources, or those that the phantom cohort consists of."""
        if self.config.phantom is None:
            return self.config.sources
        cohort = self.folder / "phantom"
        return {
            "phantom_studies": SourceConfig(layout="brats", path=cohort / "studies"),
            "phantom_pictures": SourceConfig(layout="labelled_folders", path=cohort / "pictures"),
        }

    def _score_explanations(self, cases: pd.DataFrame) -> pd.DataFrame:
        """The table with Grad-CAM's scores for the joint model's test slices whose tumor is outlined."""
        from slicewise.explanation.faithfulness import EXPLANATION_COLUMNS, score_explanations
        from slicewise.inference.predictor import Predictor

        rows = cases[(cases["model"] == "joint") & (cases["split"] == "test") & (cases["mask_state"] == "present")]
        with self.display.bar("scoring Grad-CAM", len(rows)) as progress:
            scores = score_explanations(Predictor.from_checkpoint(self.folder), self.store(), rows, progress=progress)
        columns = [name for name in EXPLANATION_COLUMNS if name not in ("slice_id", "row")]
        cases.loc[rows.index, columns] = scores[columns].to_numpy(float)
        return cases

    def _keep_settings(self) -> None:
        """What a training was accepted with is what its run is of."""
        if load_config(self.folder / "config.yaml") != self.config:
            write_atomically(self.folder / "config.yaml", lambda temporary: save_config(self.config, temporary))

    def _train_all(self) -> None:
        """In this process, or in one a device."""
        if self.config.training.devices == 1:
            self.train()
            return
        from slicewise.training.processes import launch

        if code := launch(["train", str(self.folder), "--resume"], self.config.training.devices):
            raise TrainingError(
                f"Expected the training's processes to end well, got exit code {code}. Their output says why."
            )

    @contextmanager
    def _nothing_left_where_refused(self) -> Iterator[None]:
        """Bad input leaves the place as it was: no folder, or an empty one. A run begun before keeps all it has."""
        existed, begun = self.folder.is_dir(), (self.folder / "config.yaml").is_file()
        try:
            yield
        except (InputError, SplitError):
            if not begun:
                shutil.rmtree(self.folder, ignore_errors=True)
                if existed:
                    self.folder.mkdir(exist_ok=True)
            raise

    def _read_sources(self, strict: bool) -> None:
        self._generate_phantom()
        with self.display.bar("reading studies") as progress:
            store = ingest(
                self.sources(),
                self.folder / "store",
                workers=self.config.workers,
                strict=strict,
                excluded=self._excluded(),
                progress=progress,
            )
        table = store.table
        patients = table.groupby("source")["patient_id"].nunique()
        for source, slices in table.groupby("source"):
            states = slices["mask_state"].value_counts()
            self.display.say(
                f"  {source}: {patients[source]} patients, {len(slices)} slices; "
                f"mask {', '.join(f'{state} {states.get(state, 0)}' for state in ('present', 'empty', 'unknown'))}"
            )
        for item in store.description["skipped"]:
            self.display.say(f"  skipped: {item['reason']}")

    def _excluded(self) -> frozenset[Path]:
        if self.config.clean is None:
            return frozenset()
        from slicewise.audit.clean import read_excluded

        return read_excluded(self.config.clean)

    def _generate_phantom(self) -> None:
        if self.config.phantom is None or (self.folder / "phantom").is_dir():
            return
        from slicewise.sources.phantom import generate_phantom

        self.display.say("  generating the phantom cohort")
        generate_phantom(self.config.phantom, self.config.seed, self.folder / "phantom", workers=self.config.workers)

    def _describe(self) -> None:
        from slicewise.environment import describe_environment

        write_atomically(self.folder / "config.yaml", lambda temporary: save_config(self.config, temporary))
        write_atomically(self.folder / "environment.json", json.dumps(describe_environment(), indent=2))
