"""Several runs of one configuration, with different seeds, taken together: how far a figure depends on the seed, and whether
the main model differs from the others over all of them.

Spread and interval answer different questions. The spread over runs says how a figure moves when patients are divided and
networks trained anew; the interval, what other patients would have made of these same runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from slicewise.config import GateConfig
from slicewise.errors import InputError
from slicewise.evaluation.baselines import BASELINES
from slicewise.evaluation.cases import are_judged
from slicewise.evaluation.intervals import Resampling, Sample
from slicewise.evaluation.mask_pairs import pair_masks
from slicewise.evaluation.metrics import METRICS, Tables, measure
from slicewise.evaluation.paired import holm, wilcoxon_signed_rank
from slicewise.evaluation.record import Record
from slicewise.evaluation.results import choose_main
from slicewise.evaluation.statistics import resample_ranks

__all__ = ["FORMAT", "SHOWN", "compare_runs", "tabulate_runs"]

FORMAT = "slicewise-runs/1"
SHOWN = ("volume_dice", "slice_dice", "roc_auc", "sensitivity", "specificity", "false_mask_rate")
"""Figures of the table in words; the comparison has all."""

_PATIENT = ["source", "patient_id"]
_FEWEST_RUNS = 2


class _Run(NamedTuple):
    """The test slices and scans of a run."""

    cases: pd.DataFrame
    volumes: pd.DataFrame

    def of(self, model: str) -> Tables:
        return Tables.of(*(table[table["model"] == model] for table in self))


def compare_runs(records: Mapping[str, Record]) -> dict[str, Any]:
    """Take runs together.

    Source and patient name who is who: a patient tested in several runs is one patient, whose differences are averaged, and
    who is drawn for all these runs at once. Intervals, margin and confidence are those of the first run's facts.

    Args:
        records: By name of the run.

    Returns:
        Plain values. ``models``: by name and `METRICS` the ``mean``, ``standard_deviation``, ``min`` and ``max`` over the
        ``n_runs`` in which the test figure is defined, and ``by_run``. ``comparisons``: the main model against each other
        one that looks at the brain, as differences of ``volume_dice`` and ``roc_auc`` (None where there is none), with an
        interval over patients and the ``standard_deviation`` over runs; ``noninferiority`` of the volume Dice.
        ``left_out``: models that not all runs have.

    Raises:
        InputError: There are fewer than two runs or one of them twice, they are about different models, or one was not
            evaluated on test patients.
    """
    main = _check(records)
    runs = {name: _separate(record, number) for number, (name, record) in enumerate(records.items())}
    present = [set(run.cases["model"]) for run in runs.values()]
    ordered = list(dict.fromkeys(name for run in runs.values() for name in run.cases["model"]))
    names = [name for name in ordered if all(name in models for models in present)]
    facts = next(iter(records.values())).facts
    sample = Sample(resamples=facts.evaluation.resamples, confidence=facts.evaluation.confidence)
    resampling = Resampling(pd.concat([run.cases for run in runs.values()]), sample)
    comparisons = [
        _compare(runs, main, other, resampling, facts.gate) for other in names if other != main and other not in BASELINES
    ]
    tested = [entry["volume_dice"] for entry in comparisons if entry["volume_dice"]]
    adjusted = holm(np.array([_or_nan(entry["p_value"]) for entry in tested], dtype=float))
    for entry, p_adjusted in zip(tested, adjusted, strict=True):
        entry["p_adjusted"] = _or_none(float(p_adjusted))
    return {
        "format": FORMAT,
        "runs": list(records),
        "model": main,
        "sample": {"resamples": sample.resamples, "confidence": sample.confidence, "seed": sample.seed},
        "models": {name: _spread({run: tables.of(name) for run, tables in runs.items()}) for name in names},
        "comparisons": comparisons,
        "left_out": [name for name in ordered if name not in names],
    }


def tabulate_runs(comparison: Mapping[str, Any]) -> str:
    """What `compare_runs` found, as a table in Markdown and sentences."""
    rows = [("model", "figure", "mean ± SD", "range", "runs")]
    for model, figures in comparison["models"].items():
        for name in SHOWN:
            figure = figures[name]
            if not figure["n_runs"]:
                continue
            deviation = figure["standard_deviation"]
            spread = "" if deviation is None else f" ± {deviation:.3f}"
            limits = f"{figure['min']:.3f} to {figure['max']:.3f}"
            rows.append((model, METRICS[name], f"{figure['mean']:.3f}{spread}", limits, str(figure["n_runs"])))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |" for row in rows]
    lines.insert(1, f"|{'|'.join('-' * (width + 2) for width in widths)}|")
    sentences = [sentence for entry in comparison["comparisons"] for sentence in _say(entry, comparison["sample"])]
    if comparison["left_out"]:
        sentences.append(f"Left out, because not all runs have them: {', '.join(comparison['left_out'])}.")
    return "\n".join([*lines, *([""] if sentences else []), *sentences])


def _check(records: Mapping[str, Record]) -> str:
    """Refuse runs that cannot be compared; the main model of the others."""
    if len(records) < _FEWEST_RUNS:
        raise InputError(f"Expected at least two runs, got {', '.join(records) or 'none'}. Name runs of different seeds.")
    for name, record in records.items():
        if not (record.cases["split"] == "test").any():
            raise InputError(f"Expected test slices in the table of cases of {name}, it has none. Evaluate it again.")
    mains = {name: choose_main(record.cases) for name, record in records.items()}
    if len(set(mains.values())) > 1:
        models = ", ".join(f"{name}: {main}" for name, main in mains.items())
        raise InputError(f"Expected runs about the same model, got {models}. Name runs of the same configuration.")
    main = next(iter(mains.values()))
    first: dict[str, str] = {}
    for name, record in records.items():
        if not ((record.cases["split"] == "test") & (record.cases["model"] == main)).any():
            raise InputError(f"Expected test slices of model {main} in the table of {name}, it has none. Evaluate it again.")
        model_id = record.facts.models[main].model_id if main in record.facts.models else name
        if (twin := first.setdefault(model_id, name)) != name:
            raise InputError(
                f"Expected different runs, {twin} and {name} have the same weights of model {main} ({model_id}). "
                "Name each run once, and give each a seed of its own."
            )
    return main


def _separate(record: Record, number: int) -> _Run:
    """The test side; groups of duplicates are numbered apart from those of other runs, each of which counts from 0."""
    cases = record.cases[record.cases["split"] == "test"]
    digits = cases["duplicate_group"].astype("Int64")
    # Numbers of one run stay below 2**40, and there are fewer than 2**20 runs.
    cases = cases.assign(duplicate_group=digits + number * 2**40)
    return _Run(cases, record.volumes[record.volumes["split"] == "test"])


def _spread(runs: Mapping[str, Tables]) -> dict[str, Any]:
    """Every figure of a model over the runs."""
    measured = {name: measure(tables) for name, tables in runs.items()}
    figures = {}
    for metric in METRICS:
        values = {name: figure[metric].value for name, figure in measured.items()}
        known = np.array([value for value in values.values() if not math.isnan(value)])
        figures[metric] = {
            "mean": float(known.mean()) if len(known) else None,
            "standard_deviation": _deviation(known),
            "min": float(known.min()) if len(known) else None,
            "max": float(known.max()) if len(known) else None,
            "n_runs": len(known),
            "by_run": {name: _or_none(value) for name, value in values.items()},
        }
    return figures


def _compare(runs: Mapping[str, _Run], main: str, other: str, resampling: Resampling, gate: GateConfig) -> dict[str, Any]:
    pairs = [(run.of(main), run.of(other)) for run in runs.values()]
    scans = [paired for pair in pairs if (paired := pair_masks(*pair, "volume_dice")) is not None]
    return {
        "model": main,
        "against": other,
        **(_compare_dice(scans, resampling, gate) if scans else {"volume_dice": None, "noninferiority": None}),
        "roc_auc": _compare_ranks([_pair_answers(*pair) for pair in pairs], resampling),
    }


def _compare_dice(scans: list[pd.DataFrame], resampling: Resampling, gate: GateConfig) -> dict[str, Any]:
    """The difference of the volume Dice by patient, and whether it is not inferior.

    Args:
        scans: Of each run in which both models have counts of the same slices, see
            `slicewise.evaluation.mask_pairs.pair_masks`.
        resampling: The patients of all runs.
        gate: Margin and confidence.
    """
    # Scans of a patient in one run first, then runs, so that no run counts more for having more scans of a patient.
    by_run = [(run["ours"] - run["theirs"]).groupby([run[name] for name in _PATIENT]).mean() for run in scans]
    patients = pd.concat(by_run).groupby(level=_PATIENT).mean()
    differences, table = patients.to_numpy(float), patients.index.to_frame(index=False)
    resampled = resampling.means(table, differences)
    test = wilcoxon_signed_rank(differences, np.zeros(len(differences)))
    found = _with_interval(float(differences.mean()), resampled, resampling, table)
    found |= _over_runs(run.mean() for run in by_run)
    found |= {"p_value": _or_none(test.p_value), "rank_biserial": _or_none(test.rank_biserial), "n_patients": len(patients)}
    low = resampling.lower_bound(resampled, table, gate.confidence)
    noninferiority = {"margin": gate.margin, "confidence": gate.confidence, "low": _or_none(low)}
    noninferiority |= {"shown": bool(low >= -gate.margin), "n_patients": len(patients)}
    return {"volume_dice": found, "noninferiority": noninferiority}


def _pair_answers(ours: Tables, theirs: Tables) -> pd.DataFrame:
    """Slices of one run with a known label that both models judge."""
    mine = ours.cases.loc[are_judged(ours.cases), [*_PATIENT, "slice_id", "label", "probability"]]
    others = theirs.cases.loc[theirs.cases["probability"].notna(), ["source", "slice_id", "probability"]]
    return mine.merge(others, on=["source", "slice_id"], validate="one_to_one", suffixes=("", "_other"))


def _compare_ranks(answers: list[pd.DataFrame], resampling: Resampling) -> dict[str, Any] | None:
    """The difference of the slice ROC-AUC in each run, averaged over the runs in which both labels occur."""
    defined = [run for run in answers if run["label"].nunique() == 2]
    if not defined or resampling.weights is None:
        return None
    everybody = np.ones((1, resampling.count), dtype=np.uint8)
    weights = np.concatenate([everybody, resampling.weights])  # the first row is no resample, but the runs as they are
    differences = []
    for run in defined:
        label, clusters = run["label"].to_numpy(bool), resampling.clusters(run)
        ours, theirs = (
            resample_ranks(label, run[name].to_numpy(float), clusters, weights)[0]
            for name in ("probability", "probability_other")
        )
        differences.append(ours - theirs)
    # A resample that leaves a run without one of the labels is undefined: a mean of the other runs is another figure.
    values = np.mean(differences, axis=0)
    patients = pd.concat(defined)[_PATIENT].drop_duplicates()
    difference = _with_interval(float(values[0]), values[1:], resampling, patients)
    return difference | _over_runs(float(run[0]) for run in differences) | {"n_patients": len(patients)}


def _with_interval(
    value: float, resampled: NDArray[np.float64], resampling: Resampling, patients: pd.DataFrame
) -> dict[str, Any]:
    low, high = resampling.interval(resampled, patients)
    return {"value": value, "low": _or_none(low), "high": _or_none(high)}


def _over_runs(values: Iterable[float]) -> dict[str, Any]:
    known = np.array([value for value in values if not math.isnan(value)])
    return {"standard_deviation": _deviation(known), "n_runs": len(known)}


def _deviation(values: NDArray[np.float64]) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None


def _say(entry: Mapping[str, Any], sample: Mapping[str, Any]) -> list[str]:
    """The differences of one pair in words."""
    sentences = []
    for name in ("volume_dice", "roc_auc"):
        found = entry[name]
        if found is None:
            continue
        sentence = f"{METRICS[name][0].upper()}{METRICS[name][1:]} of {entry['model']} less that of {entry['against']}: "
        sentence += f"{found['value']:+.3f} ("
        if found["low"] is not None:
            sentence += f"{100 * sample['confidence']:g} % interval {found['low']:+.3f} to {found['high']:+.3f}; "
        sentence += f"{_count(found['n_patients'], 'patient')}, {_count(found['n_runs'], 'run')}"
        if found.get("p_value") is not None:
            sentence += f"; Wilcoxon {_p(found['p_value'])}, adjusted {_p(found['p_adjusted'])}"
        sentence += ")."
        sentences.append(sentence)
        if name == "volume_dice" and entry["noninferiority"]["low"] is not None:
            verdict = entry["noninferiority"]
            sentences.append(
                f"That {entry['model']} loses at most {verdict['margin']:g} of it is "
                f"{'shown' if verdict['shown'] else 'not shown'}: with a confidence of {100 * verdict['confidence']:g} % "
                f"the difference is at least {verdict['low']:+.3f}."
            )
    return sentences


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _or_none(value: float) -> float | None:
    """JSON has no NaN: undefined is null."""
    return None if math.isnan(value) else value


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
