"""Tables of cases given by what matters of them."""

import numpy as np
import pandas as pd

from slicewise.evaluation.cases import CASE_COLUMNS

KINDS = {name: kind for name, (kind, _) in CASE_COLUMNS.items()}


def make_table(cases):
    """Cases of 100 pixels given by what matters; each is a patient of its own unless it says otherwise."""
    rows = []
    for number, changes in enumerate(cases):
        row = {"source": "a", "patient_id": f"p{number}", "study_id": "s", "sequence": "flair", "mask_state": "unknown"}
        row |= {"model": "m", "split": "test", "slice_id": f"slice {number}", "threshold": 0.5}
        row |= {"label": None, "classification": True, "probability": 0.5, "is_tumor": True} | changes
        if "counts" in row:
            row |= dict(zip(("tp", "fp", "fn"), row.pop("counts"), strict=True))
            row["tn"] = 100 - row["tp"] - row["fp"] - row["fn"]
            row["predicted_area_px"], row["reference_area_px"] = row["tp"] + row["fp"], row["tp"] + row["fn"]
            row["mask_state"] = "present" if row["reference_area_px"] else "empty"
        rows.append(row)
    return pd.DataFrame(rows, columns=list(KINDS)).astype(KINDS)


def decided(label, called, count):
    return [{"label": label, "is_tumor": called, "probability": 0.9 if called else 0.1}] * count


PUBLISHED = decided(False, False, 11) + decided(False, True, 10) + decided(True, False, 4) + decided(True, True, 136)
"""A published test set of 161 pictures, each of a patient of its own."""


def random_cases(seed, patients=8, models=("m",), sources=("a", "b")):
    """Patients of one to five slices, two in three with masks, of these the first slice with tumor; every model sees all."""
    random, rows = np.random.default_rng(seed), []
    for number in range(patients):
        for place in range(random.integers(1, 6)):
            scored = number % 3 > 0
            label = bool(random.random() < 0.6) or (scored and not place)
            row = {"patient_id": f"p{number}", "source": sources[number % len(sources)], "label": label}
            row |= {"slice_id": f"{number}/{place}", "study_id": f"s{number}", "slice_index": place}
            row |= {"slice_position": place / 5, "plane": ["axial", "coronal"][number % 2]}
            for model in models:
                answer = random.integers(0, 21) / 20
                counts = random.integers(0, 9, 3) * (1, 1, label) * (label, random.random() < 0.5, 1) + (0, 0, label)
                masks = {"counts": tuple(int(count) for count in counts)} if scored else {}
                rows.append(row | masks | {"model": model, "probability": answer, "is_tumor": answer >= 0.5})
    cases = make_table(rows)
    drawn = cases["predicted_area_px"].astype(float) * random.integers(0, 2, len(cases))
    return cases.assign(
        raw_probability=cases["probability"] ** 0.7,
        uncertainty=random.random(len(cases)),
        decoder_area_px=drawn.astype("Int64"),
        hausdorff95=np.where(cases["tp"].notna(), random.gamma(2, 2, len(cases)), np.nan),
        surface_dice=np.where(cases["tp"].notna(), random.random(len(cases)), np.nan),
        distance_unit=pd.array(random.choice(["mm", "px"], len(cases)), "string"),
    )


def repeat(cases, times):
    """The rows of each (source, patient) as often as it is drawn, every copy a patient of its own."""
    parts = []
    for (source, patient), count in times.items():
        rows = cases[(cases["source"] == source) & (cases["patient_id"] == patient)]
        for copy in range(count):
            name = f"{patient}, copy {copy}"
            parts.append(rows.assign(patient_id=name, study_id=rows["study_id"] + name, slice_id=rows["slice_id"] + name))
    return pd.concat(parts, ignore_index=True).astype(KINDS)
