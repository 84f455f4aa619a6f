import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from slicewise.config import AugmentationConfig
from slicewise.data.augment import augment

NOTHING = AugmentationConfig(**dict.fromkeys(AugmentationConfig.model_fields, 0))
MOVEMENTS = ("flip_probability", "turn_probability", "rotation_degrees", "scale", "shift", "elastic")
MOVING = NOTHING.model_copy(update={name: getattr(AugmentationConfig(), name) for name in MOVEMENTS})
IN_K_SPACE = {
    "blur": "blur_px",
    "low_resolution": "low_resolution",
    "ghost": "ghost",
    "motion": "motion_px",
    "spike": "spike",
}
ALWAYS = {f"{name}_probability": 1.0 for name in IN_K_SPACE}
TRANSFORMS = [
    *({name: 0} for name in (*MOVEMENTS, "gamma", "contrast", "bias_field", "noise")),
    *({name: 0} for name in ("strip_probability", "remap_probability")),
    *({f"{name}_probability": 0.0} for name in IN_K_SPACE),
    *({strength: 0.0} for strength in IN_K_SPACE.values()),
]
"""Every way to turn one transform off."""

SIDE = 128


def draw(batch, config, count):
    """The first sample, changed by as many keys."""
    return augment(*(part[:1].expand(count, -1, -1, -1) for part in batch), config, [(seed,) for seed in range(count)])


def only(**changes):
    return NOTHING.model_copy(update=changes)


def in_k_space(name, strength):
    return only(**{f"{name}_probability": 1.0, IN_K_SPACE[name]: strength})


def changed(image, config, count):
    """A lone image, changed by as many keys, without the channel."""
    image = image.float().expand(count, 1, *image.shape[-2:])
    return augment(image, torch.zeros_like(image), config, [(seed,) for seed in range(count)])[0][:, 0]


@pytest.fixture(scope="module")
def batch():
    """Smooth images of mean 0, an off-center ellipse as mask."""
    random = np.random.default_rng(0)
    images = np.stack([ndimage.gaussian_filter(random.normal(size=(1, SIDE, SIDE)), (0, 3, 3)) * 10 for _ in range(4)])
    rows, columns = np.indices((SIDE, SIDE))
    mask = np.hypot((rows - 50) / 16, (columns - 75) / 9) < 1
    return torch.from_numpy(images.astype(np.float32)), torch.from_numpy(mask).float().expand(4, 1, SIDE, SIDE).clone()


@pytest.fixture(scope="module")
def tissue():
    """Signal of 10 with all frequencies in it, and one pixel of air, where alone a signal may turn negative."""
    image = 10 + 0.1 * torch.from_numpy(np.random.default_rng(0).normal(size=(SIDE, SIDE)))
    image[SIDE // 2, SIDE // 2] = 0
    return image


@pytest.fixture(scope="module")
def disc():
    rows, columns = np.indices((SIDE, SIDE))
    return torch.from_numpy(np.hypot(rows - SIDE / 2, columns - SIDE / 2) < SIDE / 4).float()


def blob(side, deviation):
    """A Gaussian of height 1 in the middle of air."""
    profile = np.exp(-((np.arange(side) - side // 2) ** 2) / (2 * deviation**2))
    return torch.from_numpy(np.outer(profile, profile))


def by_line(values, axis):
    """Sum of k-space ``(H, W)`` over all axes but one."""
    return values.sum(1 - axis)


KEYS = [(7, 0, 0, place) for place in range(4)]


def center(mask):
    return np.array(ndimage.center_of_mass(mask[0].numpy()))


def test_ranges_of_zero_change_nothing(batch):
    images, masks = augment(*batch, NOTHING, KEYS)
    assert torch.allclose(images, batch[0], atol=1e-4)
    assert torch.equal(masks, batch[1])


def test_the_input_is_not_touched(batch):
    before = [part.clone() for part in batch]
    augment(*batch, AugmentationConfig(), KEYS)
    assert all(torch.equal(part, old) for part, old in zip(batch, before, strict=True))


@settings(deadline=None, max_examples=40)
@given(
    order=st.lists(st.integers(0, 5), min_size=1, max_size=9),
    shape=st.sampled_from([(64, 64), (48, 80), (37, 53), (256, 256)]),
    seed=st.integers(0, 2**63 - 1),
)
def test_a_sample_follows_from_its_key_alone(order, shape, seed):
    """Bit by bit, whatever else is in its batch, and wherever it stands in it."""
    config = AugmentationConfig().model_copy(update=dict.fromkeys(ALWAYS, 0.5))
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 1, *shape))).float()
    images[:, :, :, : shape[1] // 3] = -4
    masks = (images > 1).float()
    keys = [(seed, 0, place) for place in range(6)]
    whole = augment(images, masks, config, keys)
    some = augment(images[order], masks[order], config, [keys[place] for place in order])
    for part, same in zip(whole, some, strict=True):
        assert torch.equal(part[order], same)


def test_another_epoch_is_another_change_and_the_global_generators_are_left_alone(batch):
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    one, _ = augment(*batch, AugmentationConfig(), KEYS)
    other, _ = augment(*batch, AugmentationConfig(), [(7, 0, 1, place) for place in range(4)])
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert all(not torch.allclose(*pair, atol=0.1) for pair in zip(one, other, strict=True))


@pytest.mark.parametrize("off", TRANSFORMS, ids=lambda off: next(iter(off)))
def test_turning_one_transform_off_changes_no_draw_of_the_others(batch, off, monkeypatch):
    drawn = []

    class Recorder(np.random.Generator):
        def record(self, name, *arguments, **options):
            values = getattr(super(), name)(*arguments, **options)
            drawn.append(np.asarray(values).tolist())
            return values

        def random(self, *arguments, **options):
            return self.record("random", *arguments, **options)

        def uniform(self, *arguments, **options):
            return self.record("uniform", *arguments, **options)

        def integers(self, *arguments, **options):
            return self.record("integers", *arguments, **options)

    monkeypatch.setattr("slicewise.data.augment.Generator", Recorder)
    seldom = dict.fromkeys(("turn_probability", "strip_probability", "remap_probability"), 1.0)
    config = AugmentationConfig().model_copy(update=ALWAYS | seldom)
    images, masks = augment(*batch, config, KEYS)
    expected = drawn.copy()
    drawn.clear()
    without, masks_without = augment(*batch, config.model_copy(update=off), KEYS)
    assert drawn == expected
    assert len(expected) > 50
    assert not torch.equal(images, without)
    if not set(off) & {*MOVEMENTS, "strip_probability"}:
        assert torch.equal(masks, masks_without)


def test_the_noise_itself_does_not_depend_on_other_transforms(tissue):
    alone = changed(tissue, only(noise=0.5), 5)
    for other in (only(noise=0.5, contrast=0.2), in_k_space("blur", 0.01).model_copy(update={"noise": 0.5})):
        for pair in zip(alone, changed(tissue, other, 5), strict=True):
            assert torch.corrcoef(torch.stack([image.flatten() for image in pair]))[0, 1] > 0.999


@pytest.mark.parametrize("name", IN_K_SPACE)
def test_a_strength_of_zero_is_the_identity(batch, name):
    plain = AugmentationConfig().model_copy(update=dict.fromkeys(ALWAYS, 0.0))
    at_zero = plain.model_copy(update={f"{name}_probability": 1.0, IN_K_SPACE[name]: 0.0})
    assert torch.equal(augment(*batch, plain, KEYS)[0], augment(*batch, at_zero, KEYS)[0])


@pytest.mark.parametrize("name", IN_K_SPACE)
def test_about_as_many_are_changed_in_k_space_as_asked(tissue, name):
    config = in_k_space(name, 0.5).model_copy(update={f"{name}_probability": 0.3})
    images = changed(tissue[::2, ::2], config, 100)
    unchanged = changed(tissue[::2, ::2], NOTHING, 1)
    count = sum(not torch.equal(image, unchanged[0]) for image in images)
    assert 15 <= count <= 45  # 30, and 3.3 standard deviations


def test_the_only_flip_is_left_to_right(batch):
    images, masks = augment(*batch, only(flip_probability=1.0), KEYS)
    assert torch.allclose(images, torch.flip(batch[0], dims=(3,)), atol=1e-4)
    assert torch.equal(masks, torch.flip(batch[1], dims=(3,)))


def test_about_as_many_are_flipped_as_asked():
    image = torch.zeros(100, 1, 8, 8)
    image[..., :4] = 1
    flipped, _ = augment(image, image, only(flip_probability=0.3), [(0, place) for place in range(100)])
    assert 18 <= (flipped[:, 0, 0, 7] > 0.5).sum() <= 42  # 30, and 2.6 standard deviations


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_a_mask_moves_with_its_image(batch, seed):
    masks = batch[1]
    keys = [(seed, place) for place in range(4)]
    config = MOVING.model_copy(update={"rotation_degrees": 180.0, "scale": 0.5, "shift": 0.1})
    images, moved = augment(masks, masks, config, keys)
    differing = ((images > 0.5) != (moved > 0.5)).sum(dim=(1, 2, 3)).float()
    assert (differing <= 0.01 * moved.sum(dim=(1, 2, 3)).clamp_min(100)).all()
    assert set(moved.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("config", "least", "most"),
    [
        (only(scale=0.5), 1 / 1.5**2, 1.5**2),
        (only(rotation_degrees=30), 1, 1),
        (only(shift=0.1), 1, 1),
        (only(flip_probability=1, rotation_degrees=30), 1, 1),
    ],
    ids=["scale", "rotation", "shift", "flip and rotation"],
)
def test_area_changes_with_scale_alone(batch, config, least, most):
    _, masks = draw(batch, config, 30)
    ratios = masks.sum(dim=(1, 2, 3)) / batch[1][0].sum()
    assert min(ratios) >= 0.98 * least
    assert max(ratios) <= 1.02 * most
    if least < 1:  # and both directions occur
        assert min(ratios) < 0.55 < 1.8 < max(ratios)


def test_shifts_stay_within_their_share_of_the_side(batch):
    _, masks = draw(batch, only(shift=0.1), 40)
    moves = [center(mask) - center(batch[1][0]) for mask in masks]
    largest = np.abs(moves).max(axis=0)
    assert (largest <= 0.1 * SIDE + 0.5).all()
    assert (largest > 0.07 * SIDE).all()


def test_rotations_stay_within_their_degrees(batch):
    middle = (SIDE - 1) / 2
    start = center(batch[1][0]) - middle
    angles = []
    for mask in draw(batch, only(rotation_degrees=20), 40)[1]:
        end = center(mask) - middle
        assert np.hypot(*end) == pytest.approx(np.hypot(*start), abs=0.5)
        angles.append(np.degrees(np.arctan2(*end) - np.arctan2(*start)))
    assert max(np.abs(angles)) <= 21
    assert min(angles) < -14
    assert max(angles) > 14


def test_elastic_deformation_moves_image_and_mask_alike(disc):
    image = disc.expand(20, 1, SIDE, SIDE)
    images, masks = augment(image, image, only(elastic=0.03), [(seed,) for seed in range(20)])
    bright = images > 0.5
    dice = 2 * (bright * masks).sum(dim=(1, 2, 3)) / (bright.sum(dim=(1, 2, 3)) + masks.sum(dim=(1, 2, 3)))
    assert (dice > 0.99).all()
    untouched = 2 * (disc * masks).sum(dim=(1, 2, 3)) / (disc.sum() + masks.sum(dim=(1, 2, 3)))
    assert (untouched < 0.99).all()  # the disc did change
    assert (untouched > 0.8).all()


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**9))
def test_elastic_deformation_is_smooth_bounded_and_folds_nothing(seed):
    largest = 0.03
    ramps = torch.stack(torch.meshgrid(*2 * [torch.arange(SIDE, dtype=torch.float32)], indexing="ij")).unsqueeze(1)
    read_from, _ = augment(ramps, ramps * 0, only(elastic=largest), [(seed,)] * 2)
    inside = (slice(None), 0, slice(16, -16), slice(16, -16))  # farther out, some is read from outside
    moves = (read_from - ramps)[inside]
    assert 1 < moves.abs().max() <= 2.2 * largest * SIDE  # a spline goes somewhat beyond its points
    assert moves.std(dim=(1, 2)).min() > 0.3  # and is no mere shift
    (row_by_row, row_by_column), (column_by_row, column_by_column) = (torch.gradient(part) for part in read_from[inside])
    assert (row_by_row * column_by_column - row_by_column * column_by_row).min() > 0
    assert torch.gradient(row_by_row)[0].abs().max() < 0.1


def test_what_comes_in_from_outside_is_air(batch):
    images = batch[0] + 50
    moved, _ = augment(images, batch[1], only(shift=0.5), KEYS)
    for image, source in zip(moved, images, strict=True):
        assert image.min().item() == pytest.approx(source.min().item(), abs=1e-3)
        assert (image - source.min()).abs().lt(1e-3).sum() > 1000


@pytest.mark.parametrize(
    "config",
    [only(gamma=0.25), only(contrast=0.2), only(bias_field=0.15), only(noise=0.1)],
    ids=["gamma", "gain", "bias", "noise"],
)
def test_intensity_changes_leave_the_mask_and_most_of_the_picture(batch, config):
    images, masks = augment(*batch, config, KEYS)
    assert torch.equal(masks, batch[1])
    for image, source in zip(images, batch[0], strict=True):
        assert not torch.allclose(image, source, atol=1e-3)
        assert torch.corrcoef(torch.stack([image.flatten(), source.flatten()]))[0, 1] > 0.9


def test_gamma_keeps_the_ends_and_the_order(batch):
    images, _ = augment(*batch, only(gamma=0.9), KEYS)
    for image, source in zip(images, batch[0], strict=True):
        assert image.min().item() == pytest.approx(source.min().item(), abs=1e-3)
        assert image.max().item() == pytest.approx(source.max().item(), abs=1e-3)
        sorted_by_source = image.flatten()[source.flatten().argsort()]
        assert (sorted_by_source.diff() >= -1e-3).all()


def test_gain_and_offset_are_linear_and_within_their_range(batch):
    for image in draw(batch, only(contrast=0.2), 20)[0]:
        gain, offset = np.polyfit(batch[0][0].flatten(), image.flatten(), 1)
        assert 0.8 - 1e-3 <= gain <= 1.2 + 1e-3
        assert abs(offset) <= 0.2 + 1e-3
        assert torch.allclose(image, batch[0][0] * gain + offset, atol=1e-3)


def test_noise_is_white_and_within_its_deviation(batch):
    deviations = []
    for image in draw(batch, only(noise=0.5), 20)[0]:
        noise = (image - batch[0][0])[0]
        deviations.append(noise.std().item())
        neighbors = torch.corrcoef(torch.stack([noise[:, 1:].flatten(), noise[:, :-1].flatten()]))[0, 1]
        assert abs(neighbors) < 0.05
    assert max(deviations) <= 0.51
    assert max(deviations) > 0.35


def test_noise_is_normal_in_tissue():
    image = torch.full((256, 256), 1000.0)
    image[0, 0] = 0
    for noise in changed(image, only(noise=1.0), 3) - 1000:
        values = noise.flatten()[1:].double()
        values = ((values - values.mean()) / values.std()).numpy()
        assert stats.kstest(values, "norm").pvalue > 0.01
        assert abs(stats.kurtosis(values)) < 0.08  # 4 standard errors
        assert 3.5 < np.abs(values).max() < 4.4


def test_noise_is_rayleigh_in_air(disc):
    for image in changed(disc * 100, only(noise=1.0), 5):
        air = image[disc == 0]
        assert air.min() >= 0
        assert (air.mean() / air.std()).item() == pytest.approx(np.sqrt(np.pi / 2 / (2 - np.pi / 2)), rel=0.03)
        # In tissue the noise keeps the deviation of one channel, of which Rayleigh's mean in air is 1.25.
        assert (air.mean() / image[disc == 1].std()).item() == pytest.approx(np.sqrt(np.pi / 2), rel=0.05)


def test_the_bias_field_is_smooth_and_within_its_amplitude():
    image = torch.ones(SIDE, SIDE)
    image[0, 0] = 0
    largest = []
    for lit in changed(image, only(bias_field=0.3), 20):
        field = lit[1:, 1:].log()
        largest.append(field.abs().max())
        assert torch.diff(field, n=2, dim=0).abs().max() < 0.3 * 16 * (3 / SIDE) ** 2
    assert 0.3 < max(largest) < 0.3 * 2
    assert lit[0, 0] < 1e-6  # and air has no signal to be scaled


def test_blur_widens_by_its_variance_and_keeps_the_sum():
    sharp, places = blob(SIDE, 4.0), torch.arange(SIDE) - SIDE // 2
    added = []
    for image in changed(sharp, in_k_space("blur", 3.0), 20):
        variances = [(by_line(image, axis) * places**2).sum() / image.sum() - 16 for axis in (0, 1)]
        assert variances[0].item() == pytest.approx(variances[1].item(), abs=0.02)
        assert image.sum().item() == pytest.approx(sharp.sum().item(), rel=1e-4)
        assert image.max().item() == pytest.approx(16 / (16 + variances[0].item()), abs=0.01)
        added.append(variances[0].item())
    assert max(added) == pytest.approx(9, abs=1.5)
    assert min(added) > -0.02


def test_blur_takes_from_high_frequencies_and_keeps_the_mean(tissue):
    radius = torch.hypot(*torch.meshgrid(*2 * [torch.fft.fftfreq(SIDE)], indexing="ij"))
    before = torch.fft.fft2(tissue).abs() ** 2
    for image in changed(tissue, in_k_space("blur", 2.0), 5):
        ratio = torch.fft.fft2(image).abs() ** 2 / before
        assert image.mean().item() == pytest.approx(tissue.mean().item(), rel=1e-4)
        assert ratio[radius > 0.4].mean() < ratio[(radius > 0.1) & (radius < 0.2)].mean() < 1


def test_low_resolution_leaves_nothing_beyond_its_cut_along_one_axis(tissue):
    before = torch.fft.fft2(tissue).abs() ** 2
    frequency = np.abs(np.fft.fftfreq(SIDE))
    missing, axes = [], []
    for image in changed(tissue, in_k_space("low_resolution", 0.5), 40):
        after = torch.fft.fft2(image).abs() ** 2
        kept = [(by_line(after, axis) / by_line(before, axis)).numpy() > 1e-3 for axis in (0, 1)]
        assert sum(part.all() for part in kept) >= 1  # the readout axis has all of its samples
        axis = 0 if kept[1].all() else 1
        cut = frequency[kept[axis]].max()
        assert np.array_equal(kept[axis], frequency <= cut)
        inside = by_line(after, axis)[torch.from_numpy(kept[axis])] / by_line(before, axis)[torch.from_numpy(kept[axis])]
        assert inside.numpy() == pytest.approx(1, abs=0.05)
        missing.append(1 - 2 * cut)
        axes.append(axis)
    assert set(axes) == {0, 1}
    assert max(missing) == pytest.approx(0.5, abs=0.06)
    assert min(missing) >= 0


def test_low_resolution_rings_at_edges():
    edge = torch.zeros(SIDE, SIDE)
    edge[32:96, 32:96] = 1
    overshoots = [(image.max() - 1).item() for image in changed(edge, in_k_space("low_resolution", 0.9), 20)]
    assert max(overshoots) == pytest.approx(0.09, abs=0.02)  # the Gibbs phenomenon


def test_ghosts_lie_a_whole_part_of_the_image_apart_along_one_axis():
    side, largest = 120, 0.4  # whole multiples of every period
    source, middle = blob(side, 1.5), side // 2
    found = set()
    for image in changed(source, in_k_space("ghost", largest), 80):
        peaks = [image[:, middle], image[middle, :]]
        others = [profile.clone() for profile in peaks]
        for profile in others:
            profile[middle - 8 : middle + 9] = 0
        axis = int(others[1].max() > others[0].max())
        height = others[axis].max().item()
        if height < 1e-3:
            continue
        assert others[1 - axis].max() < 1e-3
        places = np.flatnonzero(others[axis] > 0.9 * height)
        period = len(places) + 1
        assert np.array_equal(places % (side // period), np.full(period - 1, middle % (side // period)))
        assert height <= largest / period + 1e-3
        # The images sum to the first one's signal; negative ghosts are seen by their size.
        assert abs(image[middle, middle].item() - 1) == pytest.approx(height * (period - 1), abs=2e-3)
        found.add((axis, period))
    assert found == {(axis, period) for axis in (0, 1) for period in range(2, 7)}


def test_motion_turns_the_phase_of_the_outer_lines_alone(tissue):
    largest, before = 0.9, torch.fft.fft2(tissue)  # below one pixel, no phase turns around
    frequency = np.fft.fftfreq(SIDE)
    inner = (np.abs(frequency) > 0) & (np.abs(frequency) < 0.45)
    outer = np.abs(frequency[inner]) > 0.25
    moves, centers, axes = [], [], set()
    for image in changed(tissue, in_k_space("motion", largest), 30):
        after = torch.fft.fft2(image)
        assert (after.abs() ** 2).sum().item() == pytest.approx((before.abs() ** 2).sum().item(), rel=1e-4)
        turns = [-torch.angle(by_line(after * before.conj(), axis)).numpy()[inner] / (2 * np.pi) for axis in (0, 1)]
        shifts = [turn / frequency[inner] for turn in turns]
        axis = int(np.abs(shifts[1][outer]).max() > np.abs(shifts[0][outer]).max())
        move = np.median(shifts[axis][outer])
        assert shifts[axis][outer] == pytest.approx(move, abs=0.05)
        moves.append(abs(move))
        if abs(move) > 0.3:
            still = np.abs(shifts[axis] - move) > 0.1
            assert shifts[axis][still] == pytest.approx(0, abs=0.1)
            centers.append(np.abs(frequency[inner])[still].max(initial=0))
            assert np.count_nonzero(still) == np.count_nonzero(np.abs(frequency[inner]) <= centers[-1])
            axes.add(axis)
    assert 0.8 * largest < max(moves) <= largest
    assert 0.15 < max(centers) <= 0.25
    assert axes == {0, 1}


def test_a_spike_adds_one_plane_wave(tissue):
    amplitudes, places = [], set()
    for image in changed(tissue, in_k_space("spike", 0.1), 30):
        added = torch.fft.fft2(image - changed(tissue, NOTHING, 1)[0])
        energies, order = (added.abs() ** 2).flatten().sort(descending=True)
        assert energies[:2].sum() > 0.99 * energies.sum()
        row, column = np.unravel_index(order[0].item(), (SIDE, SIDE))
        assert order[1].item() == (-row % SIDE) * SIDE + -column % SIDE
        amplitudes.append(2 * energies[0].sqrt().item() / SIDE**2 / tissue.max().item())
        places.add((int(row), int(column)))
    assert max(amplitudes) == pytest.approx(0.1, abs=0.015)
    assert len(places) == 30


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**9))
def test_artifacts_leave_the_head_a_head_and_the_air_near_air(disc, seed):
    config = AugmentationConfig()
    config = in_k_space("blur", config.blur_px).model_copy(
        update=ALWAYS | {strength: getattr(config, strength) for strength in IN_K_SPACE.values()}
    )
    image = disc[None, None] * 5 - 2
    acquired, _ = augment(image, image * 0, config, [(seed,)])
    assert acquired.min() >= -2
    assert acquired.max() < 3 + 5  # all five artifacts at once
    assert acquired[image == -2].mean() < -2 + 0.15 * 5
    assert torch.corrcoef(torch.stack([acquired.flatten(), image.flatten()]))[0, 1] > 0.85


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**9), value=st.sampled_from([0.0, -6.0, 6.0]), lone=st.booleans())
def test_every_sample_is_finite(seed, value, lone):
    images = torch.full((1, 1, 64, 64), value)
    if lone:
        images[0, 0, 32, 32] = -value or 1.0
    movements = {"rotation_degrees": 180, "scale": 0.9, "shift": 1, "elastic": 0.03}
    artifacts = ALWAYS | {"blur_px": 20, "low_resolution": 0.99, "ghost": 0.99, "motion_px": 50, "spike": 0.99}
    artifacts |= {"strip_probability": 0.5, "remap_probability": 0.5}
    config = AugmentationConfig(**movements, gamma=0.99, contrast=0.99, bias_field=0.99, noise=2, **artifacts)
    augmented, masks = augment(images, torch.ones_like(images), config, [(seed,)])
    assert torch.isfinite(augmented).all()
    assert torch.isfinite(masks).all()


@pytest.fixture(scope="module")
def head():
    """A disc of brain, 1, within dark bone, 0.4, within bright scalp, 3, in air; and a tumor of 2 in the brain."""
    distance = np.hypot(*(np.indices((SIDE, SIDE)) - SIDE / 2))
    image = np.select([distance < 43, distance < 47, distance < 50], [1.0, 0.4, 3.0], 0.0).astype(np.float32)
    rows, columns = np.indices((SIDE, SIDE))
    tumor = np.hypot(rows - 60, columns - 80) < 8
    image[tumor] = 2
    return torch.from_numpy(image)[None, None], torch.from_numpy(tumor).float()[None, None]


def test_quarter_turns_are_exact(batch):
    images, masks = draw(batch, only(turn_probability=1.0), 30)
    turns = [torch.rot90(batch[0][0, 0], quarters) for quarters in (1, 2, 3)]
    found = [[torch.allclose(image[0], turn, atol=1e-3) for turn in turns] for image in images]
    assert all(sum(each) == 1 for each in found)
    assert np.any(found, axis=0).all()  # each of the three occurs
    assert {int(mask.sum()) for mask in masks} == {int(batch[1][0].sum())}


def test_without_scalp_the_head_ends_in_the_brain_and_is_normalized_anew(head):
    images, masks = draw(head, only(strip_probability=1.0), 30)
    for image, mask in zip(images, masks, strict=True):
        air = image.min()
        left = image[0] > air + 1e-3
        assert not (left & (head[0][0, 0] > 2.5)).any()
        assert left[SIDE // 2, SIDE // 2]
        assert mask.sum() >= 0.9 * head[1].sum()
        # Foreground of mean 0 and standard deviation 1, as the preprocessing leaves it.
        assert abs(image[0][left].mean()) < 0.1
        assert abs(image[0][left].std() - 1) < 0.1
    assert len({int((image > image.min() + 1e-3).sum()) for image in images}) > 10  # not always the same layer


def test_scalp_stays_where_the_tumor_would_go_with_it(head):
    distance = np.hypot(*(np.indices((SIDE, SIDE)) - SIDE / 2))
    rim = torch.from_numpy((distance > 46) & (distance < 50)).float()[None, None]
    images, masks = draw((head[0], rim), only(strip_probability=1.0), 10)
    assert torch.allclose(images, head[0].expand_as(images), atol=1e-4)
    assert torch.equal(masks, rim.bool().expand_as(masks))


def test_a_new_contrast_keeps_air_shapes_and_masks(head):
    images, masks = draw(head, only(remap_probability=1.0), 40)
    places = [(64, 64), (60, 80), (64, 64 + 48), (0, 0)]  # brain, tumor, scalp, air
    brain, tumor, scalp, air = (images[:, 0, row, column] for row, column in places)
    assert torch.equal(masks, head[1].bool().expand_as(masks))
    # What was of one intensity is so still, air is the darkest, and the order of the tissues is not kept.
    assert all(float(image[0][head[1][0, 0] > 0].std()) < 1e-3 for image in images)
    assert torch.equal(air, images.amin(dim=(1, 2, 3)))
    assert (tumor > brain).any()
    assert (tumor < brain).any()
    assert (scalp < brain).any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_up_to_rounding(batch):
    config = AugmentationConfig().model_copy(update=ALWAYS)
    images, masks = augment(*batch, config, KEYS)
    on_gpu = augment(*(part.cuda() for part in batch), config, KEYS)
    assert all(part.is_cuda for part in on_gpu)
    assert torch.allclose(on_gpu[0].cpu(), images, atol=1e-2)
    assert (on_gpu[1].cpu() != masks).sum() < 10
