"""What an evaluation leaves on disk, and how it is read again: everything that figures and report are computed from.

::

    cases.parquet      one row a slice and model; also as cases.csv
    volumes.parquet    one row a scan and model
    patients.parquet   one row a patient and model, also as patients.csv; for readers, computed from the other two
    facts.json         what the tables do not say of the run
    results.json       every figure; computed from the above
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from pydantic import ValidationError

from slicewise.errors import InputError
from slicewise.evaluation.facts import Facts
from slicewise.evaluation.patients import make_patients
from slicewise.evaluation.results import choose_main, in_order, summarize
from slicewise.evaluation.schema import Results
from slicewise.evaluation.table import read_cases, read_volumes
from slicewise.files import write_atomically

__all__ = ["Record"]


class Record(NamedTuple):
    """The tables of an evaluation and what they do not say."""

    cases: pd.DataFrame
    volumes: pd.DataFrame
    facts: Facts

    @classmethod
    def read(cls, table: Path) -> Record:
        """Read a table of cases, in an order of its own, and, where they lie beside it, the scans and facts of its run.

        Raises:
            InputError: As `slicewise.evaluation.table.read_cases`, or the facts are damaged.
        """
        cases = read_cases(table)
        cases = in_order(cases, choose_main(cases), ["slice_id"])
        facts = table.parent / "facts.json"
        try:
            found = Facts.model_validate_json(facts.read_text(encoding="utf-8")) if facts.is_file() else Facts()
        except (OSError, UnicodeDecodeError, ValidationError) as error:
            problem = " ".join(str(error).split())
            raise InputError(
                f"Expected facts of a run in {facts}, could not read them: {problem}. Evaluate again."
            ) from None
        return cls(cases, read_volumes(table.parent / "volumes.parquet", cases), found)

    def write(self, folder: Path) -> None:
        """Write all but the results."""
        patients = make_patients(self.cases, self.volumes)
        for name, table in (("volumes", self.volumes), ("patients", patients), ("cases", self.cases)):
            write_atomically(folder / f"{name}.parquet", partial(table.to_parquet, index=False))
        for name, table in (("patients", patients), ("cases", self.cases)):
            write_atomically(folder / f"{name}.csv", partial(table.to_csv, index=False, lineterminator="\n"))
        write_atomically(folder / "facts.json", self.facts.model_dump_json(indent=2))

    def write_results(self, folder: Path) -> dict[str, Any]:
        """Compute and write ``results.json``."""
        results = summarize(self.cases, self.volumes, self.facts)
        Results.model_validate(results)
        write_atomically(folder / "results.json", json.dumps(results, indent=2, allow_nan=False))
        return results
