"""What a phase trains on: which slices, in which order, as which batches. The label contract is applied here, once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from slicewise.config import AugmentationConfig, SourceConfig, TrainingConfig
from slicewise.data.augment import augment
from slicewise.data.store import SliceStore
from slicewise.errors import InputError, TrainingError
from slicewise.records import MaskState

__all__ = ["Batch", "Epoch", "Share", "Targets", "count_steps", "draw_epoch", "find_targets", "load_batch"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Slices with what is known of them."""

    images: Tensor
    """``(B, 1, 256, 256)`` float32, preprocessed."""
    masks: Tensor
    """``(B, 1, 256, 256)`` float32, 0 or 1; zeros where the mask is not known."""
    mask_known: Tensor
    """``(B,)`` bool: segmentation is supervised (*present* or *empty*)."""
    labels: Tensor
    """``(B,)`` float32, 0 or 1; zero where the label is not known."""
    label_known: Tensor
    """``(B,)`` bool: classification is supervised."""

    def pin_memory(self) -> Batch:
        """The same batch in memory that a GPU can copy from on its own."""
        return Batch(*(getattr(self, name).pin_memory() for name in self.__slots__))

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``."""
        return Batch(*(getattr(self, name).to(device, non_blocking=True) for name in self.__slots__))


class Share(NamedTuple):
    """Which part of every batch a process of a training sees."""

    rank: int = 0
    """Number of the process."""
    processes: int = 1
    """How many share a batch."""


@dataclass(frozen=True, slots=True)
class Targets:
    """Per row of the store: what may be taught and scored, by the label contract and the sources' settings."""

    mask_known: NDArray[np.bool_]
    """Segmentation: the mask is present or empty, and the source takes part."""
    label_known: NDArray[np.bool_]
    """Classification: the label is known, and the source takes part."""
    label: NDArray[np.bool_]
    """The slice shows tumor; False where not known."""
    group: NDArray[np.str_]
    """Source and sequence, such as ``lgg/flair``."""
    outlined: NDArray[np.bool_]
    """The row's group teaches with masks of tumors: it counts toward ``training.masked_fraction``."""


def find_targets(table: pd.DataFrame, sources: Mapping[str, SourceConfig]) -> Targets:
    """Apply the label contract to a store's table.

    Raises:
        InputError: The store holds a source that is not configured.
    """
    strangers = sorted(set(table["source"]) - set(sources))
    if strangers:
        raise InputError(
            f"Expected a store of the sources {', '.join(sources)}, it also holds {', '.join(strangers)}. Ingest again."
        )
    segments = table["source"].map({name: source.segmentation for name, source in sources.items()}).to_numpy(bool)
    classifies = table["source"].map({name: source.classification for name, source in sources.items()}).to_numpy(bool)
    group = table["source"] + "/" + table["sequence"].fillna("unknown")
    outlined = group.isin(group[segments & (table["mask_state"] == MaskState.PRESENT)])
    return Targets(
        mask_known=segments & (table["mask_state"] != MaskState.UNKNOWN).to_numpy(bool),
        label_known=classifies & table["label"].notna().to_numpy(bool),
        label=table["label"].fillna(False).to_numpy(bool),
        group=group.to_numpy(str),
        outlined=outlined.to_numpy(bool),
    )


def draw_epoch(rows: NDArray[np.int64], targets: Targets, config: TrainingConfig, key: tuple[int, ...]) -> NDArray[np.int64]:
    """The rows of one epoch, in order.

    Rows fall into strata by source, sequence and label. Groups of source and sequence with tumor masks share
    ``masked_fraction`` of the draws and those without share the rest, each in proportion to its size or more alike
    (``source_balance``); within a group, ``tumor_fraction`` of the draws show tumor. Each stratum is run through in random
    order, again from the start where it is short, and the strata are interleaved evenly, so that every batch has nearly the
    same mixture.

    Args:
        rows: The store's rows that may be drawn.
        targets: What is known of every row of the store.
        config: Fractions, and the length of an epoch.
        key: Whole numbers that the draw follows from.

    Returns:
        ``(epoch_slices,)`` rows of the store.
    """
    generator = np.random.default_rng(key)
    total = config.epoch_slices or len(rows)
    outlined = targets.outlined[rows]
    fraction = outlined.mean() if config.masked_fraction is None else config.masked_fraction
    masked_share = fraction if outlined.any() and not outlined.all() else float(outlined.any())
    groups = {group: rows[targets.group[rows] == group] for group in np.unique(targets.group[rows])}
    weights = {group: len(members) ** (1 - config.source_balance) for group, members in groups.items()}
    has_masks = {group: bool(targets.outlined[members[0]]) for group, members in groups.items()}
    strata, shares = [], []
    for group, members in groups.items():
        kind_share = masked_share if has_masks[group] else 1 - masked_share
        kind_weight = sum(weights[other] for other in groups if has_masks[other] == has_masks[group])
        share = kind_share * weights[group] / kind_weight
        tumor = targets.label[members]
        tumor_share = config.tumor_fraction if tumor.any() and not tumor.all() else float(tumor.any())
        strata += [members[tumor], members[~tumor]]
        shares += [share * tumor_share, share * (1 - tumor_share)]
    # Whole numbers that sum to the total: the differences of the rounded running sum.
    counts = np.diff(np.rint(np.cumsum([0.0, *shares]) * total).astype(int))
    drawn, places = [], []
    for stratum, count in zip(strata, counts, strict=True):
        if count == 0:
            continue
        rounds = -(-count // len(stratum))
        drawn.append(np.concatenate([generator.permutation(stratum) for _ in range(rounds)])[:count])
        places.append((np.arange(count) + generator.random(count)) / count)
    order = np.argsort(np.concatenate(places), kind="stable")
    return np.concatenate(drawn)[order]


def load_batch(store: SliceStore, targets: Targets, rows: NDArray[np.int64]) -> Batch:
    """Read ``rows`` of the store, unchanged."""
    return Batch(
        images=torch.from_numpy(store.images[rows].astype(np.float32)).unsqueeze(1),
        masks=torch.from_numpy(store.masks(rows).astype(np.float32)).unsqueeze(1),
        mask_known=torch.from_numpy(targets.mask_known[rows]),
        labels=torch.from_numpy(targets.label[rows].astype(np.float32)),
        label_known=torch.from_numpy(targets.label_known[rows]),
    )


def count_steps(drawn: int, config: TrainingConfig) -> int:
    """Batches in an epoch: whole ones, but for an epoch that is shorter than one."""
    return max(1, drawn // config.batch_size)


class Epoch(Dataset[Batch]):
    """The augmented batches of one epoch, or a process's share of each; any can be made alone, by any process.

    Args:
        store: The slices.
        targets: What is known of every row of the store.
        order: Rows of the epoch, see `draw_epoch`.
        config: The size of a batch.
        augmentation: Ranges of the random changes.
        key: Whole numbers that the changes follow from, together with a slice's place in the order.
        share: Which slices of each batch: every ``processes``-th one, from number ``rank`` on.

    Raises:
        TrainingError: The epoch has fewer than two slices for each process.
    """

    def __init__(
        self,
        store: SliceStore,
        targets: Targets,
        order: NDArray[np.int64],
        config: TrainingConfig,
        augmentation: AugmentationConfig,
        key: tuple[int, ...],
        *,
        share: Share = Share(),
    ) -> None:
        if len(order) < 2 * share.processes:
            raise TrainingError(
                f"Expected at least {2 * share.processes} slices to train on, got {len(order)}. "
                "Check the split and the sources."
            )
        self._store, self._targets, self._order = store, targets, order
        self._config, self._augmentation, self._key, self._share = config, augmentation, key, share

    def __len__(self) -> int:
        return count_steps(len(self._order), self._config)

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step, from 0."""
        if not 0 <= step < len(self):
            raise IndexError(f"Expected a step from 0 to {len(self) - 1}, got {step}.")
        share, start = self._share, step * self._config.batch_size
        places = np.arange(start, min(start + self._config.batch_size, len(self._order)))
        places = places[: len(places) // share.processes * share.processes][share.rank :: share.processes]
        batch = load_batch(self._store, self._targets, self._order[places])
        keys = [(*self._key, int(place)) for place in places]
        images, masks = augment(batch.images, batch.masks, self._augmentation, keys)
        return Batch(images, masks, batch.mask_known, batch.labels, batch.label_known)
