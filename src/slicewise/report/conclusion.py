"""Conclusions computed from the numbers: each sentence is chosen by them and carries them with interval and n."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import pandas as pd

from slicewise.evaluation.metrics import METRICS
from slicewise.evaluation.subgroups import FEWEST_PATIENTS
from slicewise.report.wording import behind, percent, percent_with_interval, with_interval

__all__ = ["Sentence", "conclude"]

_NAMES = {
    "segmentation": "the segmentation phase",
    "classification": "the classification phase",
    "joint": "the joint model",
    "segmentation_only": "a model trained for segmentation alone",
    "classification_only": "a model trained for classification alone",
    "metadata_only": "a classifier that sees the file's metadata alone",
    "border_only": "a classifier that sees the picture's border alone",
    "source_only": "a classifier that sees the source's name alone",
}
_TASK_METRICS = {
    "segmentation": (("volume_dice", "volume Dice"),),
    "segmentation_only": (("volume_dice", "volume Dice"),),
    "classification": (("roc_auc", "ROC-AUC"),),
    "classification_only": (("roc_auc", "ROC-AUC"),),
}
_BASELINES = ("metadata_only", "border_only", "source_only")
_SIGNIFICANT = 0.05
_MARGIN_OF_NOTE = 0.01
_POOR_DICE = 0.5


class Sentence(NamedTuple):
    """One conclusion."""

    kind: Literal["finding", "warning"]
    """A warning says that a figure promises less than it seems to."""
    text: str
    """Plain text."""


def conclude(results: Mapping[str, Any], patients: pd.DataFrame) -> list[Sentence]:
    """What the test patients say about the main model.

    Args:
        results: Content of ``results.json``.
        patients: Test patients of the main model, see `slicewise.evaluation.patients.make_patients`.
    """
    return [
        *_where(results),
        *_whether(results),
        *_against_baselines(results),
        *_gate(results),
        *_against_models(results),
        *_agreement_of_heads(results),
        *_calibration(results),
        *_uncertainty(results),
        *_worst_patient(patients),
        *_worst_subgroups(results),
        *_explanations(results),
        *_cautions(results),
    ]


def _where(results: Mapping[str, Any]) -> Iterator[Sentence]:
    false_masks = results["test"]["false_mask_rate"]
    # Where no scan's masks are all known there is no volume.
    metric = next((name for name in ("volume_dice", "slice_dice") if results["test"][name]["value"] is not None), None)
    if metric is None:
        yield Sentence("warning", "No test slice has an outlined tumor: these cases say nothing about where a tumor is.")
        return
    dice = results["test"][metric]
    yield Sentence(
        "finding",
        f"On test patients, where tumors are outlined, the masks reach a mean {METRICS[metric]} of "
        f"{with_interval(dice)}; {behind(dice)}.",
    )
    if false_masks["value"] is not None:
        yield Sentence(
            "finding",
            f"A mask is drawn in {percent_with_interval(false_masks)} of the tumor-free slices; {behind(false_masks)}.",
        )
    if dice["n_patients"] < FEWEST_PATIENTS:
        yield Sentence(
            "warning",
            f"The Dice comes from fewer than {FEWEST_PATIENTS} patients ({dice['n_patients']}): an example, not a figure "
            "to compare or to rely on.",
        )


def _whether(results: Mapping[str, Any]) -> Iterator[Sentence]:
    auc, accuracy = results["test"]["roc_auc"], results["test"]["accuracy"]
    if accuracy["value"] is None:
        yield Sentence("warning", "No test slice has a known label: these cases say nothing about whether there is a tumor.")
        return
    if auc["value"] is not None:
        yield Sentence(
            "finding",
            f"Tumor slices are ranked above tumor-free ones with a ROC-AUC of {with_interval(auc)}; {behind(auc)}.",
        )
    yield from _operating_point(results)
    if accuracy["n_patients"] < FEWEST_PATIENTS:
        yield Sentence(
            "warning",
            f"Labels are known of fewer than {FEWEST_PATIENTS} patients ({accuracy['n_patients']}): examples, not figures.",
        )
    constant = results["constant"]
    always = f'always answering "{constant["answer"]}"'
    if constant["answer"] == "tumor":
        always = '"always tumor"'
    if constant["p_value"] is None:  # slices share patients, so that the difference speaks, resampled by patient
        tested = f"difference {_signed({**constant, 'value': constant['difference']})}"
    else:
        tested = f"exact McNemar p = {constant['p_value']:.3g}"
    figures = (
        f"an accuracy of {with_interval(accuracy)} against {constant['accuracy']:.3f} for {always} "
        f"({tested}, {behind(accuracy)})"
    )
    if constant["beaten"]:
        yield Sentence("finding", f"It is right significantly more often than a constant answer: {figures}.")
    else:
        yield Sentence("warning", f"Its accuracy is not significantly above that of a constant answer: {figures}.")


def _operating_point(results: Mapping[str, Any]) -> Iterator[Sentence]:
    model = _main(results)
    on_val, on_test = model.get("val", {}).get("sensitivity"), results["test"]["sensitivity"]
    specificity = results["test"]["specificity"]
    if on_test["value"] is None:
        return
    text = f"sensitivity is {with_interval(on_test)}"
    if specificity["value"] is not None:
        text += f" and specificity {with_interval(specificity)}"
    if on_val is not None and on_val["value"] is not None and "threshold" in model:
        text += (
            f", at the threshold {model['threshold']:.3f} chosen on validation, where sensitivity is {on_val['value']:.3f}"
        )
    yield Sentence("finding", f"On test, {text}.")


def _against_baselines(results: Mapping[str, Any]) -> Iterator[Sentence]:
    """Classifiers that never see the brain: what they reach of the ROC-AUC is not evidence of a tumor being seen."""
    compared = {entry["against"]: entry for entry in results["comparisons"]}
    for name in _BASELINES:
        difference = compared.get(name, {}).get("differences", {}).get("roc_auc")
        if difference is None:
            continue
        theirs = results["test"]["roc_auc"]["value"] - difference["value"]
        text = (
            f"{_NAMES[name].capitalize()} reaches a ROC-AUC of {theirs:.3f} on the same slices; the model is "
            f"{_signed(difference)} from it"
        )
        if difference["low"] is not None and difference["low"] > 0:
            yield Sentence("finding", f"{text}.")
        else:
            yield Sentence("warning", f"{text}, which is not significantly more.")


def _gate(results: Mapping[str, Any]) -> Iterator[Sentence]:
    gate = results["phases"].get("joint", {}).get("gate")
    if gate is None:
        return
    # An attempt that is accepted is the last, and nearer than those refused before.
    best = max(gate["attempts"], key=lambda attempt: -math.inf if attempt["low"] is None else attempt["low"])
    measured = "no patient could be compared"
    if best["low"] is not None:
        measured = (
            f"mean difference {best['difference']:+.3f}, at least {best['low']:+.3f} with {percent(best['confidence'])} "
            f"confidence, {best['n_patients']} patients; margin {best['margin']:g}"
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


def _against_models(results: Mapping[str, Any]) -> Iterator[Sentence]:
    for entry in results["comparisons"]:
        other = entry["against"]
        if other in _BASELINES:
            continue
        for metric, name in _TASK_METRICS.get(other, (("volume_dice", "volume Dice"), ("roc_auc", "ROC-AUC"))):
            difference = entry["differences"].get(metric)
            if difference is None:
                continue
            test = next((test for test in entry["tests"] if test["metric"] == metric), None)
            tested = ""
            if test is not None and test["p_adjusted"] is not None:
                tested = f", {test['test']} p = {test['p_adjusted']:.3g}, adjusted by Holm"
            certain = difference["low"] is not None and (difference["low"] > 0 or difference["high"] < 0)
            adjusted = test is not None and test["p_adjusted"] is not None and test["p_adjusted"] < _SIGNIFICANT
            verdict = "a difference that is significant" if certain and adjusted else "no significant difference"
            worse = difference["value"] < -_MARGIN_OF_NOTE
            yield Sentence(
                "warning" if worse else "finding",
                f"Against {_NAMES.get(other, other)} the {name} differs by {_signed(difference)}: {verdict} "
                f"({behind(difference)}{tested}).",
            )
    single, joint = results["single_task"], results["phases"].get("joint", {})
    if {"segmentation", "classification"} <= set(single) and "parameters" in joint:
        two = sum(single[task]["parameters"] for task in ("segmentation", "classification"))
        yield Sentence(
            "finding",
            f"One model of {joint['parameters'] / 1e6:.2f} million parameters answers both questions; those trained for one "
            f"each have {two / 1e6:.2f} million together, it has {percent(joint['parameters'] / two)} of that.",
        )


def _agreement_of_heads(results: Mapping[str, Any]) -> Iterator[Sentence]:
    contradiction, both = results["test"]["contradiction_rate"], results["test"]["both_right_rate"]
    if contradiction["value"] is None or both["value"] is None:
        return
    yield Sentence(
        "finding",
        f"Answer and decoder contradict each other in {percent_with_interval(contradiction)} of the slices, "
        f"{behind(contradiction)}; answer and mask are both right (a Dice of at least 0.5, or rightly no mask) in "
        f"{percent_with_interval(both)}, {behind(both)}.",
    )


def _calibration(results: Mapping[str, Any]) -> Iterator[Sentence]:
    moments = results["calibration"] or {}
    if "after" not in moments:
        return
    after = moments["after"]["expected_calibration_error"]
    before = ""
    if "before" in moments:
        before = f", before calibration {with_interval(moments['before']['expected_calibration_error'])}"
    yield Sentence(
        "finding",
        f"The expected calibration error is {with_interval(after)}{before}; {behind(after)}.",
    )


def _uncertainty(results: Mapping[str, Any]) -> Iterator[Sentence]:
    uncertainty = results["uncertainty"]
    if uncertainty is None:
        return
    kept, referred = uncertainty["kept"], uncertainty["referred"]
    told = f"With the least certain slices referred to a reader ({percent(1 - uncertainty['coverage'])} on test), "
    of_all = percent(uncertainty["error_rate"])
    if kept["value"] is None:
        told += f"no answer remains; of all {of_all} are wrong"
    else:
        told += f"{percent(kept['value'])} of the answers that remain are wrong, in place of {of_all}"
    if referred["value"] is not None:
        told += f"; of those referred {percent(referred['value'])} would have been"
    helps = uncertainty["area_under_risk_coverage"] < uncertainty["error_rate"]
    yield Sentence(
        "finding" if helps or not uncertainty["error_rate"] else "warning",
        f"{told}. Area under the risk-coverage curve {uncertainty['area_under_risk_coverage']:.4f}; an uncertainty that "
        f"tells nothing has {uncertainty['error_rate']:.4f}.",
    )


def _worst_patient(patients: pd.DataFrame) -> Iterator[Sentence]:
    scored = patients[patients["volume_dice"].notna() & (patients["reference_px"] > 0)]
    if scored.empty:
        return
    worst = scored.sort_values(["volume_dice", "source", "patient_id"]).iloc[0]
    poor = int((scored["volume_dice"] < _POOR_DICE).sum())
    yield Sentence(
        "finding",
        f"The worst test patient with tumor is {worst['patient_id']} of {worst['source']}, "
        f"with a Dice of {worst['volume_dice']:.3f}; {poor} of {len(scored)} are below {_POOR_DICE}.",
    )


def _worst_subgroups(results: Mapping[str, Any]) -> Iterator[Sentence]:
    groups = {(group["dimension"], group["name"]): group for group in results["subgroups"]}
    for worst in results["worst_subgroups"]:
        lowest, highest = (
            groups[worst["dimension"], worst[which]]["figures"][worst["metric"]] for which in ("name", "best")
        )
        yield Sentence(
            "finding",
            f"By {worst['dimension']}, {worst['name']} is lowest: {worst['metric'].replace('_', ' ')} "
            f"{with_interval(lowest)} "
            f"of {lowest['n_patients']} patients, against {with_interval(highest)} for {worst['best']} of "
            f"{highest['n_patients']}{_overlap(lowest, highest)}.",
        )


def _explanations(results: Mapping[str, Any]) -> Iterator[Sentence]:
    explained = results["explanations"]
    if explained is None:
        return
    center, above = explained["center"]["pointing"]["value"], explained["above_center"]["pointing"]
    better = above["low"] is not None and above["low"] > 0
    similarity = ""
    if explained["randomized_similarity"] is not None:
        similarity = f" Its rank correlation with the map of randomized weights is {explained['randomized_similarity']:.2f}."
    if center is None:
        compared = "pointing at the brain's center was not scored, so the map was not shown to tell more than that ("
    else:
        compared = (
            f"pointing at the brain's center does in {percent(center)}, so the map "
            f"{'tells more than' if better else 'was not shown to tell more than'} the center (difference {_signed(above)}, "
        )
    yield Sentence(
        "finding" if better else "warning",
        f"Grad-CAM's strongest point lies on the tumor in {percent(explained['cam']['pointing']['value'])} of the slices "
        f"with one; {compared}{behind(explained)}).{similarity}",
    )


def _cautions(results: Mapping[str, Any]) -> Iterator[Sentence]:
    known = {group["name"]: group["figures"] for group in results["subgroups"] if group["dimension"] == "source"}
    for entry in results["data"]:
        takes_part = known.get(entry["source"], {}).get("accuracy", {}).get("value") is not None
        if entry["split"] == "train" and takes_part and not (entry["tumor"] and entry["tumor_free"]):
            only = "tumor" if entry["tumor"] else "no tumor"
            yield Sentence(
                "warning",
                f"Source {entry['source']} teaches classification but has only {only!r} slices: the model may have "
                "learned to recognize the source.",
            )
    if results["skipped"]:
        yield Sentence("warning", f"{len(results['skipped'])} files could not be read and are missing from every figure.")


def _main(results: Mapping[str, Any]) -> Mapping[str, Any]:
    """The main model's entry, wherever it stands."""
    name = results["model"]
    for section in ("phases", "models", "single_task"):
        if name in results[section]:
            found: Mapping[str, Any] = results[section][name]
            return found
    return {}


def _overlap(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    if None in (one["low"], other["low"]) or one["high"] < other["low"] or other["high"] < one["low"]:
        return ""
    return "; their intervals overlap"


def _signed(difference: Mapping[str, Any]) -> str:
    if difference["low"] is None:
        return f"{difference['value']:+.3f}"
    return f"{difference['value']:+.3f} ({difference['low']:+.3f} to {difference['high']:+.3f})"
