"""What the files of a run say, as facts for the checklists and the model card; what they do not say is left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

import slicewise
from slicewise.config import Config
from slicewise.data.preprocess import PREPROCESSING
from slicewise.evaluation.facts import Facts, ModelFacts
from slicewise.evaluation.metrics import METRICS
from slicewise.model.engine import Calibration
from slicewise.report.conclusion import Sentence
from slicewise.report.wording import behind, percent, with_interval

__all__ = ["gather_facts", "licences_of"]

_FIGURES = (
    "roc_auc",
    "average_precision",
    "balanced_accuracy",
    "mcc",
    "sensitivity",
    "specificity",
    "precision",
    "volume_dice",
    "slice_dice",
    "false_mask_rate",
)


def gather_facts(
    results: Mapping[str, Any],
    facts: Facts,
    config: str | None,
    environment: Mapping[str, Any],
    audit: Mapping[str, Any],
    sentences: Iterable[Sentence],
) -> dict[str, Any]:
    """By the names of `slicewise.report.checklists.FACTS`.

    Args:
        results: Content of ``results.json``.
        facts: What the table of cases does not say.
        config: Text of ``config.yaml``; None for a table that comes alone.
        environment: Content of ``environment.json``.
        audit: Content of ``audit.json``.
        sentences: The report's conclusions; its warnings are the limits.
    """
    known = _of_results(results) | _of_data(facts.data)
    known["limits"] = "; ".join(sentence.text.rstrip(".") for sentence in sentences if sentence.kind == "warning")
    if facts.models:
        known |= {"title": facts.name, "skipped_files": len(facts.skipped), "license": "Apache-2.0"}
        known["code_availability"] = f"slicewise {slicewise.__version__}"
        known["model_id"] = results["model_id"]
        described = facts.models.get(str(results["model"]))
        if described is not None:
            known |= described.model_dump(include={"parameters", "threshold", *Calibration._fields, "data_fingerprint"})
            known["mask_from"] = max(described.threshold, described.mask_from)
    if config is not None:
        settings = Config.model_validate(yaml.safe_load(config))
        known |= _of_config(settings)
        main = str(results["model"])
        started = _initialization(facts.models, main, settings.seed)
        known["initialization"] = started and started + _distillation(facts.models, main)
    if environment:
        hardware = ("platform", "cores", "threads", "device")
        known["software"] = ", ".join(f"{name} {value}" for name, value in environment.items() if name not in hardware)
        known["hardware"] = ", ".join(f"{name} {environment[name]}" for name in hardware if name in environment)
    if audit:
        known["duplicates"] = (
            f"{len(audit['exact_groups'])} groups of equal slices and {len(audit['groups'])} groups of copies in all; "
            "patients who share one are kept on one side and count as one in intervals"
        )
    return known


def licences_of(config: str | None) -> dict[str, str]:
    """Attribution and licence by source, as the configuration of a run, in YAML, says."""
    sources = Config.model_validate(yaml.safe_load(config)).sources if config is not None else {}
    return {name: source.licence for name, source in sources.items() if source.licence}


def _of_results(results: Mapping[str, Any]) -> dict[str, Any]:
    test, sample = results["test"], results["sample"]
    known: dict[str, Any] = {
        name: f"{with_interval(test[name])}, {behind(test[name])}" for name in _FIGURES if test[name]["value"] is not None
    }
    main = [
        f"{METRICS[name]} {known[name]}"
        for name in ("volume_dice", "roc_auc", "sensitivity", "specificity")
        if name in known
    ]
    boundary = [
        f"{METRICS[name]} {with_interval(test[name])}, {behind(test[name])}"
        for name in METRICS
        if ("hausdorff95" in name or "surface_dice" in name) and test[name]["value"] is not None
    ]
    patients = [
        f"{METRICS[name]} {with_interval(test[name])}, {behind(test[name])}"
        for name in METRICS
        if name.startswith("patient_") and test[name]["value"] is not None
    ]
    groups = [
        f"{group['dimension']} {group['name']}: "
        + ", ".join(
            f"{name.replace('_', ' ')} {with_interval(group['figures'][name])}"
            for name in ("slice_dice", "sensitivity")
            if group["figures"][name]["value"] is not None
        )
        for group in results["subgroups"]
        if any(group["figures"][name]["value"] is not None for name in ("slice_dice", "sensitivity"))
    ]
    known |= {
        "n_tumor_test": test["sensitivity"]["n_slices"],
        "n_tumor_free_test": test["specificity"]["n_slices"],
        "failures": _failures(test),
        "metrics": ", ".join(METRICS[name] for name in METRICS if test[name]["value"] is not None),
        "intervals": f"{percent(sample['confidence'])} percentile intervals of a bootstrap over patients (basic ones of "
        "the expected calibration error), Wilson's for rates of which each patient gives one",
        "resamples": sample["resamples"],
        "test_figures": "; ".join(main),
        "boundary": "; ".join(boundary) + " (tolerance 2 mm or px)" if boundary else None,
        "patient_figures": "; ".join(patients),
        "subgroups": "; ".join(groups),
        "small_tumors": "; ".join(group for group in groups if group.startswith("lesion size")),
    }
    if results["calibration"] and "after" in results["calibration"]:
        after = results["calibration"]["after"]
        known["calibration"] = (
            f"Brier score {with_interval(after['brier_score'])}, expected calibration error "
            f"{with_interval(after['expected_calibration_error'])}, {behind(after['brier_score'])}"
        )
    if results["uncertainty"]:
        area, rate = results["uncertainty"]["area_under_risk_coverage"], results["uncertainty"]["error_rate"]
        known["uncertainty"] = (
            "the standard deviation of the probability over augmented views and dropout draws; area under the risk-coverage "
            f"curve {area:.4f} at an error rate of {rate:.4f}"
        )
    if results["explanations"]:
        explained = results["explanations"]
        center = explained["center"]["pointing"]["value"]
        by_center = "" if center is None else f"by the brain's center in {percent(center)}, "
        known["explanation"] = (
            "HiResCAM of the classification head, scored against the masks: strongest point on the tumor in "
            f"{percent(explained['cam']['pointing']['value'])} of the slices, {by_center}{behind(explained)}"
        )
        if explained["randomized_similarity"] is not None:
            similarity = f"{explained['randomized_similarity']:.2f}"
            known["explanation"] += f"; rank correlation with the map of randomized weights {similarity}"
    return {name: value for name, value in known.items() if value not in (None, "")}


def _failures(test: Mapping[str, Any]) -> str:
    """Counts of what was wrong, from the rates and what stands behind them."""
    counts = (
        ("sensitivity", "{wrong} of {count} tumor slices missed"),
        ("specificity", "{wrong} of {count} tumor-free slices called tumor"),
        ("false_mask_rate", "a mask drawn in {right} of {count} tumor-free slices"),
    )
    known = []
    for name, sentence in counts:
        count, rate = test[name]["n_slices"], test[name]["value"]
        if rate is not None:
            right = round(rate * count)
            known.append(sentence.format(right=right, wrong=count - right, count=count))
    return ", ".join(known)


def _of_data(data: list[dict[str, Any]]) -> dict[str, Any]:
    if not data:
        return {}
    known: dict[str, Any] = {}
    for side in ("train", "val", "test"):
        entries = [entry for entry in data if entry["split"] == side]
        known[f"n_patients_{side}"] = sum(entry["patients"] for entry in entries)
        known[f"n_slices_{side}"] = sum(entry["slices"] for entry in entries)
    names = list(dict.fromkeys(entry["source"] for entry in data))
    totals = {
        name: tuple(sum(entry[what] for entry in data if entry["source"] == name) for what in ("patients", "slices"))
        for name in names
    }
    known["sources"] = "; ".join(
        f"{name}: {patients} patients, {slices} slices" for name, (patients, slices) in totals.items()
    )
    known["layouts"] = ", ".join(dict.fromkeys(entry["layout"] for entry in data))
    labels, masks = (sum(entry[what] for entry in data) for what in ("label_unknown", "mask_unknown"))
    known["unknown_annotations"] = f"{labels} slices have no known label and {masks} no known mask"
    return known


def _initialization(models: Mapping[str, ModelFacts], name: str, seed: int) -> str | None:
    """What a model's weights started from, back through the models of the run; None where that is not known."""
    if name not in models or models[name].starts_from is None:
        return None
    origins = models[name].starts_from
    if not origins:
        return f"random weights of seed {seed}"
    found = _before(models, name)
    if found is None:
        return f"weights {' and '.join(origins)}{', averaged' if len(origins) > 1 else ''}"
    before = _initialization(models, found, seed)
    return f"those of {found} ({origins[0]})" + ("" if before is None else f", which started from {before}")


def _before(models: Mapping[str, ModelFacts], name: str) -> str | None:
    """The model of the run whose weights one started from."""
    # Only models before it: one that the gate refused has the weights of an earlier one, and so its ID.
    earlier = list(models)[: list(models).index(name)]
    return next((other for other in earlier if (models[other].model_id,) == models[name].starts_from), None)


def _distillation(models: Mapping[str, ModelFacts], name: str | None) -> str:
    """Whose masks a model, and those it started from, learned from beside the data's."""
    if name is None or name not in models:
        return ""
    teacher, said = models[name].teacher, ""
    if teacher is not None:
        found = next((other for other in models if models[other].model_id == teacher), None)
        said = f"; {name} learned from the masks of {teacher if found is None else f'{found} ({teacher})'} too"
    return said + _distillation(models, _before(models, name))


def _threshold_rule(config: Config) -> str:
    rule = (
        f"the highest threshold up to 0.5 that reaches the predefined slice sensitivity of {config.evaluation.sensitivity}"
    )
    spared = config.evaluation.specificity
    return rule if spared is None else f"{rule}, lowered further down to a predefined slice specificity of {spared}"


def _of_config(config: Config) -> dict[str, Any]:
    training, split, model = config.training, config.split, config.model
    phases = "; ".join(
        f"{name}: at most {phase.epochs} epochs, learning rates encoder {phase.encoder_learning_rate:g}, decoder "
        f"{phase.decoder_learning_rate:g}, head {phase.classifier_learning_rate:g}, loss weights segmentation "
        f"{phase.segmentation_weight:g}, classification {phase.classification_weight:g}"
        for name, phase in ((name, getattr(config.phases, name)) for name in ("segmentation", "classification", "joint"))
    )
    changes = ", ".join(
        f"{name.replace('_', ' ')} {value:g}" for name, value in config.augmentation.model_dump().items() if value
    )
    chosen = [f"{name}: {', '.join(source.sequences)}" for name, source in config.sources.items() if source.sequences]
    known: dict[str, Any] = {
        "seed": config.seed,
        "split_shares": f"train {split.train:g}, val {split.val:g}, test {1 - split.train - split.val:g}",
        "held_out": ", ".join(split.held_out) or "none",
        "preprocessing": f"aspect ratio kept, padded or scaled to 256×256, foreground z-score ({PREPROCESSING})",
        "augmentation": changes,
        "architecture": "residual encoder behind a space-to-depth stem, feature-pyramid decoder, one classification head; "
        f"widths {', '.join(map(str, model.widths))}, residual blocks {', '.join(map(str, model.blocks))}, decoder width "
        f"{model.decoder_width}",
        "phases": phases + f"; early stopping after {training.patience} epochs without a gain",
        "optimization": f"AdamW, warm-up and cosine, batches of {training.batch_size}, weight decay "
        f"{training.weight_decay:g}, averaged weights with decay {training.ema_decay:g}, precision {training.precision}",
        "class_balance": f"share of draws from sources and sequences with masks {training.masked_fraction}, of tumor slices "
        f"{training.tumor_fraction:g}",
        "selection_rule": "the epoch with the highest mean of pooled Dice and ROC-AUC on validation; joint epochs only "
        f"where the volume Dice is not inferior to the segmentation phase's (margin {config.gate.margin:g})",
        "ensemble": "one network, no ensemble",
        "sensitivity_target": config.evaluation.sensitivity,
        "threshold_rule": _threshold_rule(config),
        "mask_threshold": config.evaluation.mask_threshold,
    }
    if chosen or config.clean is not None:
        known["subsets"] = "; ".join([*chosen, *(["files left out by a cleaned table"] if config.clean else [])])
    return known
