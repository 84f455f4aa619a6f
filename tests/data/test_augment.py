import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from slicewise.config import AugmentationConfig
from slicewise.data.augment import augment

NOTHING = AugmentationConfig(
    flip_probability=0, rotation_degrees=0, scale=0, shift=0, gamma=0, contrast=0, bias_field=0, noise=0
)
MOVING = AugmentationConfig(gamma=0, contrast=0, bias_field=0, noise=0)


SIDE = 128


def draw(batch, config, count):
    """The first sample, changed by as many keys."""
    return augment(*(part[:1].expand(count, -1, -1, -1) for part in batch), config, [(seed,) for seed in range(count)])


def only(**changes):
    return NOTHING.model_copy(update=changes)


@pytest.fixture(scope="module")
def batch():
    """Smooth images of mean 0, an off-center ellipse as mask."""
    random = np.random.default_rng(0)
    images = np.stack([ndimage.gaussian_filter(random.normal(size=(1, SIDE, SIDE)), (0, 3, 3)) * 10 for _ in range(4)])
    rows, columns = np.indices((SIDE, SIDE))
    mask = np.hypot((rows - 50) / 16, (columns - 75) / 9) < 1
    return torch.from_numpy(images.astype(np.float32)), torch.from_numpy(mask).float().expand(4, 1, SIDE, SIDE).clone()


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


def test_a_sample_follows_from_its_key_alone(batch):
    whole, again = augment(*batch, AugmentationConfig(), KEYS), augment(*batch, AugmentationConfig(), KEYS)
    last = augment(batch[0][3:], batch[1][3:], AugmentationConfig(), KEYS[3:])
    for part, same, lone in zip(whole, again, last, strict=True):
        assert torch.equal(part, same)
        assert torch.equal(part[3:], lone)
    state = torch.get_rng_state()
    other, _ = augment(*batch, AugmentationConfig(), [(7, 0, 1, place) for place in range(4)])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(not torch.allclose(one, another, atol=0.1) for one, another in zip(whole[0], other, strict=True))


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


def test_what_comes_in_from_outside_is_air(batch):
    images = batch[0] + 50
    moved, _ = augment(images, batch[1], only(shift=0.5), KEYS)
    for image, source in zip(moved, images, strict=True):
        assert image.min().item() == pytest.approx(source.min().item(), abs=1e-3)
        assert (image - source.min()).abs().lt(1e-3).sum() > 1000


@pytest.mark.parametrize(
    "config",
    [only(gamma=0.25), only(contrast=0.2), only(bias_field=0.25), only(noise=0.1)],
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


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**9), value=st.sampled_from([0.0, -6.0, 6.0]), lone=st.booleans())
def test_every_sample_is_finite(seed, value, lone):
    images = torch.full((1, 1, 64, 64), value)
    if lone:
        images[0, 0, 32, 32] = -value or 1.0
    config = AugmentationConfig(rotation_degrees=180, scale=0.9, shift=1, gamma=0.9, contrast=0.9, bias_field=0.9, noise=2)
    augmented, masks = augment(images, torch.ones_like(images), config, [(seed,)])
    assert torch.isfinite(augmented).all()
    assert torch.isfinite(masks).all()
