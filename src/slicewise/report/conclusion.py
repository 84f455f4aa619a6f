"""Conclusions computed from the numbers: each sentence is chosen by them and carries them with its n."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import pandas as pd

from slicewise.evaluation.metrics import dice

__all__ = ["Sentence", "conclude"]

_FEW_PATIENTS = 10


class Sentence(NamedTuple):
    """One conclusion."""

    kind: Literal["finding", "warning"]
    """A warning says that a figure promises less than it seems to."""
    text: str
    """Plain text."""


def conclude(results: Mapping[str, Any], cases: pd.DataFrame) -> list[Sentence]:
    """What the test patients say about the joint model.

    Differences are described, not tested: a sentence never claims significance.

    Args:
        results: Content of ``results.json``.
        cases: The table of cases.
    """
    return [
        *_where(results),
        *_whether(results),
        *_gate(results),
        *_against_phases(results),
        *_against_single_tasks(results),
        *_worst_patient(cases),
        *_cautions(results),
    ]


def _where(results: Mapping[str, Any]) -> Iterator[Sentence]:
    test = results["phases"]["joint"]["test"]
    volume, false_masks = test["volume_dice"], test["false_mask_rate"]
    if volume["value"] is None:
        yield Sentence("warning", "No test slice has an outlined tumor: this run says nothing about where a tumor is.")
        return
    yield Sentence(
        "finding",
        f"On test patients of sources with outlined tumors, the joint model's masks reach a mean volume Dice of "
        f"{volume['value']:.3f} ({_n(volume)}).",
    )
    if false_masks["value"] is not None:
        yield Sentence(
            "finding", f"It draws a mask in {_percent(false_masks['value'])} of the tumor-free slices ({_n(false_masks)})."
        )
    if volume["n_patients"] < _FEW_PATIENTS:
        yield Sentence(
            "warning",
            f"The Dice comes from {volume['n_patients']} patients: an example, not a figure to compare or to rely on.",
        )


def _whether(results: Mapping[str, Any]) -> Iterator[Sentence]:
    test = results["phases"]["joint"]["test"]
    auc, accuracy, trivial = test["roc_auc"], test["accuracy"], test["always_tumor_accuracy"]
    if accuracy["value"] is None:
        yield Sentence("warning", "No test slice has a known label: this run says nothing about whether there is a tumor.")
        return
    if auc["value"] is not None:
        yield Sentence(
            "finding", f"It ranks tumor slices above tumor-free ones with a ROC-AUC of {auc['value']:.3f} ({_n(auc)})."
        )
    best_guess = max(trivial["value"], 1 - trivial["value"])
    guess = "tumor" if trivial["value"] >= 0.5 else "no tumor"
    comparison = f'{accuracy["value"]:.3f} against {best_guess:.3f} for always answering "{guess}" ({_n(accuracy)})'
    if accuracy["value"] > best_guess:
        yield Sentence("finding", f"Its accuracy at the operating threshold is {comparison}.")
    else:
        yield Sentence("warning", f"Its accuracy at the operating threshold does not beat a constant answer: {comparison}.")
    yield from _operating_point(results)


def _operating_point(results: Mapping[str, Any]) -> Iterator[Sentence]:
    joint = results["phases"]["joint"]
    on_val, on_test = joint["val"]["sensitivity"], joint["test"]["sensitivity"]
    specificity = joint["test"]["specificity"]
    if on_val["value"] is None or on_test["value"] is None:
        return
    text = (
        f"The threshold {joint['threshold']:.3f}, chosen on validation, where it reaches a sensitivity of "
        f"{on_val['value']:.3f}, gives {on_test['value']:.3f} on test"
    )
    text += "." if specificity["value"] is None else f" at a specificity of {specificity['value']:.3f}."
    yield Sentence("finding", text)


def _gate(results: Mapping[str, Any]) -> Iterator[Sentence]:
    gate = results["phases"]["joint"].get("gate")
    if gate is None:
        return
    last = gate["attempts"][-1]
    measured = "no patient could be compared"
    if last["low"] is not None:
        measured = (
            f"mean difference {last['difference']:+.3f}, at least {last['low']:+.3f} with {_percent(last['confidence'])} "
            f"confidence, {last['n_patients']} patients; margin {last['margin']:g}"
        )
    if gate["accepted"]:
        yield Sentence(
            "finding",
            f"The gate is passed: on validation patients the joint model's volume Dice is not inferior to the segmentation "
            f"phase's ({measured}).",
        )
    else:
        count = len(gate["attempts"])
        yield Sentence(
            "warning",
            f"The gate refused joint training in {count} of {count} attempts: no epoch's volume Dice on validation patients "
            f"was shown not to be inferior to the segmentation phase's (best: {measured}). The model of the {gate['kept']} "
            "phase is kept in its place.",
        )


def _against_phases(results: Mapping[str, Any]) -> Iterator[Sentence]:
    phases = results["phases"]
    before, after = (phases[name]["test"]["volume_dice"] for name in ("segmentation", "joint"))
    yield from _compare("Joint training", after, "the segmentation phase before it", before, "volume Dice")


def _against_single_tasks(results: Mapping[str, Any]) -> Iterator[Sentence]:
    single, joint = results.get("single_task", {}), results["phases"]["joint"]
    for task, metric, name in (("segmentation", "volume_dice", "volume Dice"), ("classification", "roc_auc", "ROC-AUC")):
        if task in single:
            other = single[task]["test"][metric]
            yield from _compare("The joint model", joint["test"][metric], f"a model trained for {task} alone", other, name)
    if {"segmentation", "classification"} <= set(single):
        two = sum(single[task]["parameters"] for task in ("segmentation", "classification"))
        yield Sentence(
            "finding",
            f"One model of {joint['parameters'] / 1e6:.2f} million parameters does what the two do with "
            f"{two / 1e6:.2f} million ({_percent(joint['parameters'] / two)}).",
        )


def _compare(
    subject: str, value: Mapping[str, Any], other_name: str, other: Mapping[str, Any], metric: str
) -> Iterator[Sentence]:
    if value["value"] is None or other["value"] is None:
        return
    difference = value["value"] - other["value"]
    if abs(difference) < 0.0005:
        verdict = f"equals {other_name} in {metric} ({value['value']:.3f}"
    else:
        verdict = f"{'gains' if difference > 0 else 'loses'} {abs(difference):.3f} {metric} against {other_name} "
        verdict += f"({value['value']:.3f} and {other['value']:.3f}"
    kind: Literal["finding", "warning"] = "warning" if difference < -0.01 else "finding"
    yield Sentence(kind, f"{subject} {verdict}; {_n(value)}; not tested for significance).")


def _worst_patient(cases: pd.DataFrame) -> Iterator[Sentence]:
    joint = cases[(cases["model"] == "joint") & (cases["split"] == "test") & cases["tp"].notna()]
    counts = joint.groupby(["source", "patient_id"])[["tp", "fp", "fn"]].sum().astype(float)
    counts = counts[(counts["tp"] + counts["fn"]) > 0]
    if counts.empty:
        return
    scores = counts.apply(lambda row: dice(*row), axis=1)
    worst = scores.reset_index().iloc[scores.argmin()]
    poor = int((scores < 0.5).sum())
    yield Sentence(
        "finding",
        f"The worst test patient with tumor is {worst['patient_id']} of {worst['source']}, "
        f"with a Dice of {scores.min():.3f}; {poor} of {len(scores)} are below 0.5.",
    )


def _cautions(results: Mapping[str, Any]) -> Iterator[Sentence]:
    by_source = results["phases"]["joint"]["by_source"]
    trained = [entry for entry in results["data"] if entry["split"] == "train"]
    for entry in trained:
        of_source = by_source.get(entry["source"], {})
        takes_part = of_source.get("accuracy", {}).get("value") is not None
        if takes_part and not (entry["tumor"] and entry["tumor_free"]):
            only = "tumor" if entry["tumor"] else "no tumor"
            yield Sentence(
                "warning",
                f"Source {entry['source']} teaches classification but has only {only!r} slices: the model may have "
                "learned to recognize the source.",
            )
    classified = {
        name: figures["accuracy"] for name, figures in by_source.items() if figures["accuracy"]["value"] is not None
    }
    if len(classified) > 1:
        parts = ", ".join(f"{name} {figure['value']:.3f} ({_n(figure)})" for name, figure in sorted(classified.items()))
        yield Sentence("finding", f"Accuracy by source: {parts}.")
    if results["skipped"]:
        yield Sentence("warning", f"{len(results['skipped'])} files could not be read and are missing from every figure.")


def _n(figure: Mapping[str, Any]) -> str:
    return f"n = {figure['n_slices']} slices of {figure['n_patients']} patients"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
