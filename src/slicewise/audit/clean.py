"""The remedy as a table: which files to keep, which to leave out, and why. Ingest leaves out what it says."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from slicewise.audit.audit import Audit
from slicewise.audit.findings import Severity
from slicewise.audit.survey import Survey
from slicewise.errors import InputError
from slicewise.files import write_atomically

__all__ = ["clean", "read_excluded", "write_clean"]

_COLUMNS = ("file", "source", "patient_id", "keep", "reason", "group")


def clean(result: Audit, survey: Survey) -> pd.DataFrame:
    """Decide on every file.

    Left out are files that cannot be used, all copies of a slice whose labels contradict each other, and of other groups of
    duplicates all but the representative: the one with most pixels, then with most bytes, then the first by name. Of volumes
    only those of identical bytes are duplicates.

    Args:
        result: The audit.
        survey: What it looked at.

    Returns:
        One row a file: ``file`` (absolute path), ``source``, ``patient_id``, ``keep``, ``reason`` (empty for what is kept),
        ``group`` of duplicates.
    """
    files = survey.table.dropna(subset="file").drop_duplicates("file").set_index("file")
    reasons: dict[str, str] = {}
    for group in result.copies.conflicting:
        reasons |= dict.fromkeys(group, "duplicate-across-labels")
    # A volume goes as a whole, and is a copy only where its bytes are: one slice in common costs it nothing.
    indices = survey.table.groupby("file")["slice_index"].nunique()
    volumes = set(indices.index[indices > 1])
    pictures = [[file for file in group if file not in volumes] for group in result.copies.groups]
    for group in [*result.copies.exact, *pictures]:
        left = files.loc[[file for file in group if file not in reasons]].reset_index()
        left["pixels"] = left["height_px"] * left["width_px"]
        left = left.sort_values(["pixels", "file_bytes", "file"], ascending=[False, False, True])
        for file in left["file"].iloc[1:]:
            reasons[file] = f"duplicate of {left['file'].iloc[0]}"
    for problem in survey.problems:
        reasons[problem.file] = problem.rule
    for finding in result.findings:
        if finding.severity is Severity.ERROR and finding.rule == "label-mask-conflict":
            reasons |= dict.fromkeys(finding.files, finding.rule)
    unusable = sorted({problem.file for problem in survey.problems} - set(files.index))
    table = pd.concat(
        [
            files.reset_index()[["file", "source", "patient_id"]],
            pd.DataFrame({"file": unusable, "source": "", "patient_id": ""}),
        ],
        ignore_index=True,
    )
    table["reason"] = [reasons.get(file, "") for file in table["file"]]
    table["keep"] = table["reason"] == ""
    table["group"] = table["file"].map(result.copies.group_of).astype("Int64")
    table["file"] = [str(Path(file).absolute()) for file in table["file"]]
    return table[list(_COLUMNS)]


def write_clean(result: Audit, survey: Survey, file: Path) -> None:
    """Write the table of `clean` as CSV."""
    write_atomically(file, clean(result, survey).to_csv(index=False, lineterminator="\n"))


def read_excluded(file: Path) -> frozenset[Path]:
    """The files that a cleaned table leaves out.

    Raises:
        InputError: The table is missing, is none, or lacks a column.
    """
    try:
        table = pd.read_csv(file, dtype={"file": "string", "keep": "boolean"}, keep_default_na=False)
        return frozenset(Path(name).absolute() for name in table.loc[~table["keep"], "file"])
    except FileNotFoundError:
        raise InputError(
            f"Expected a cleaned table at {file}, found none. Write one with `slicewise audit --write-clean`."
        ) from None
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"Expected the columns file and keep in {file}, could not read it: {reason}.") from None
