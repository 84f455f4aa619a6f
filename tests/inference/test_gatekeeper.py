import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageDraw, ImageFont

from slicewise.data.descriptors import DESCRIPTORS, Domain
from slicewise.data.preprocess import preprocess
from slicewise.inference.gatekeeper import RULES, inspect
from slicewise.records import Concern, Scan

COUNT = len(DESCRIPTORS)


def head(number=0, shape=(256, 256), noise=2.0):
    """A skull, a brain with ventricles and some texture, on black."""
    random = np.random.default_rng(number)
    down, right = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    distance = np.hypot(down / random.uniform(0.75, 0.85), right / random.uniform(0.6, 0.7))
    image = 200.0 * (np.abs(distance - 1) < 0.04) + (distance < 0.94) * (110 + 15 * np.sin(9 * down) * np.cos(11 * right))
    image[np.hypot((np.abs(right) - 0.12) / 0.08, (down + 0.05) / 0.25) < 1] = 45
    return (image + random.normal(4, noise, shape)).clip(0, 255).round().astype(np.float32)


def scan(*images, **facts):
    kind = "picture" if len(images) == 1 else "nifti"
    return Scan(np.array(images, dtype=np.float32), **{"kind": kind, "name": "a secret name"} | facts)


def concerns(given, domain=None):
    pixels = np.array([preprocess(image)[0] for image in given.slices])
    before = given.slices.copy(), pixels.copy()
    found = inspect(given, pixels, domain)
    assert np.array_equal(given.slices, before[0])
    assert np.array_equal(pixels, before[1])
    assert all("secret" not in concern.message for concern in found)
    return {concern.rule: concern for concern in found}


def domain(limit=1e9, **changes):
    facts = {
        "descriptors": tuple(DESCRIPTORS),
        "mean": (0.0,) * COUNT,
        "inverse_covariance": tuple(map(tuple, np.eye(COUNT).tolist())),
        "limit": limit,
        "planes": {"axial": 90, "unknown": 10},
        "sequences": {"flair": 100},
    }
    return Domain(**facts | changes)


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("shape", [(256, 256), (240, 240), (512, 512), (300, 200), (64, 64), (181, 217)])
def test_a_head_is_no_concern(number, shape):
    assert concerns(scan(head(number, shape)), domain()) == {}


def test_neither_is_one_in_other_units():
    image = head()
    assert concerns(scan((image - image[image > 60].mean()) / 30)) == {}
    assert concerns(scan(image * 1e-4)) == {}
    assert concerns(scan(image * 100 - 2000)) == {}


def test_nor_one_without_skull_whose_air_is_a_zero_among_its_values():
    image = head()
    brain = np.hypot(*np.mgrid[-1 : 1 : 256 * 1j, -1 : 1 : 256 * 1j]) < 0.5
    assert concerns(scan(np.where(brain, (image - 110) / 20, 0))) == {}


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("number", range(4))
def test_black_for_white_is_inverted(number, exact):
    image = head(number, noise=0.0 if exact else 4.0)
    found = concerns(scan(255 - image))
    assert "inverted" in found
    assert "no-head" not in found
    assert "Exchange black and white" in found["inverted"].message


@pytest.mark.parametrize(
    "image",
    [
        np.full((100, 120), 7.0),
        np.zeros((256, 256)),
        np.random.default_rng(0).integers(100, 108, (256, 256)),
        np.pad(np.full((2, 2), 255.0), 127),
        np.random.default_rng(0).integers(0, 5, (256, 256)),  # the labels of a segmentation
    ],
)
def test_next_to_nothing_is_blank_and_no_more_is_said_of_it(image):
    assert concerns(scan(image), domain(limit=0.0)).keys() == {"blank"}


def test_values_between_0_and_1_are_not_few_gray_levels():
    assert concerns(scan(head() / 255)) == {}


@pytest.mark.parametrize("shape", [(256, 256), (480, 300), (90, 700), (65, 64)])
@pytest.mark.parametrize("draw", ["normal", "uniform", "rayleigh"])
def test_noise_shows_no_head(draw, shape):
    image = getattr(np.random.default_rng(0), draw)(size=shape) * 50
    assert "no-head" in concerns(scan(image))


def test_a_gradient_and_a_strip_show_none_either():
    assert "no-head" in concerns(scan(np.add.outer(np.arange(256.0), np.arange(256.0))))
    assert "no-head" in concerns(scan(np.random.default_rng(0).normal(size=(2, 900))))


def test_a_head_in_strong_noise_is_one():
    image = head() + np.abs(np.random.default_rng(0).normal(0, 60, (256, 256)))
    assert "no-head" not in concerns(scan(image))


def with_letters(image, words, place):
    picture = Image.fromarray(image.astype(np.uint8))
    ImageDraw.Draw(picture).text(place, words, fill=255, font=ImageFont.load_default(12))
    return np.asarray(picture)


@pytest.mark.parametrize("place", [(2, 2), (190, 4), (2, 236), (180, 238)])
def test_letters_in_a_corner_are_text(place):
    found = concerns(scan(with_letters(head(), "R 12 mm", place)))
    assert found.keys() == {"text"}


@pytest.mark.parametrize("thickness", [1, 2, 4])
def test_a_frame_is_text(thickness):
    image = head()
    image[5:251, 5 : 5 + thickness] = image[5:251, 251 - thickness : 251] = 255
    image[5 : 5 + thickness, 5:251] = image[251 - thickness : 251, 5:251] = 255
    assert "text" in concerns(scan(image))


@pytest.mark.parametrize(("paper", "ink"), [(255, 0), (20, 230), (240, 60)])
def test_a_page_is_text(paper, ink):
    picture = Image.new("L", (900, 700), paper)
    draw = ImageDraw.Draw(picture)
    for top in range(20, 660, 24):
        draw.text(
            (20, top), "the model found a tumor in slice 12 of the left side " * 2, fill=ink, font=ImageFont.load_default(16)
        )
    assert "text" in concerns(scan(np.asarray(picture)))


def test_color_is_counted_by_the_reader():
    assert concerns(scan(head(), color_share=0.01)) == {}
    found = concerns(scan(head(), color_share=0.4))
    assert found["color"].value == 0.4
    assert "40%" in found["color"].message


def test_a_thumbnail_is_small():
    found = concerns(scan(head(shape=(80, 63))))
    assert found.keys() == {"small"}
    assert found["small"].value == 63
    assert "80 × 63" in found["small"].message


@pytest.mark.parametrize(("modality", "is_odd"), [("MR", False), ("unknown", False), ("CT", True), ("a secret text", True)])
def test_another_modality_is_not_mr(modality, is_odd):
    assert (concerns(scan(head(), modality=modality)).keys() == {"not-mr"}) is is_odd


def test_hounsfield_units_are_not_mr():
    image = head()
    units = np.where(image < 20, -1000.0, np.where(image > 180, 1200.0, 30.0 + image / 20))
    assert "not-mr" in concerns(scan(units, kind="nifti"))
    assert "not-mr" not in concerns(scan(units + 1024, kind="nifti"))


def test_a_plane_that_training_lacked_is_wrong_where_it_is_known():
    assert concerns(scan(head(), plane="axial"), domain()) == {}
    assert concerns(scan(head(), plane="unknown"), domain()) == {}
    found = concerns(scan(head(), plane="sagittal"), domain())
    assert found.keys() == {"wrong-plane"}
    assert "Expected axial slices" in found["wrong-plane"].message
    assert "got sagittal" in found["wrong-plane"].message
    assert concerns(scan(head(), plane="sagittal"), domain(planes={"unknown": 5})) == {}
    assert concerns(scan(head(), plane="sagittal")) == {}


def test_what_lies_beyond_the_limit_is_far_from_training():
    image = head()
    distance = domain().distance(preprocess(image)[0])
    assert concerns(scan(image), domain(limit=distance + 1)) == {}
    found = concerns(scan(image), domain(limit=distance - 1))
    assert found.keys() == {"far-from-training"}
    assert found["far-from-training"].value == pytest.approx(distance)
    assert f"got {distance:.0f}" in found["far-from-training"].message


def test_a_domain_of_other_descriptors_still_knows_its_planes():
    other = domain(limit=0.0, descriptors=tuple(f"other {number}" for number in range(COUNT)))
    assert concerns(scan(head(), plane="coronal"), other).keys() == {"wrong-plane"}


def test_a_volume_is_judged_by_most_of_the_slices_that_show_something():
    black, noise = np.zeros((256, 256)), np.random.default_rng(0).normal(size=(256, 256))
    heads = [head(number) for number in range(5)]
    assert concerns(scan(*heads, *[noise] * 4)) == {}
    assert concerns(scan(*heads, *[black] * 5)) == {}
    found = concerns(scan(*heads[:2], *[black] * 5, *[noise] * 3))
    assert found.keys() == {"no-head"}
    assert "in 3 of 5 slices" in found["no-head"].message
    found = concerns(scan(*heads, *[black] * 6))
    assert found.keys() == {"blank"}
    assert found["blank"].value == pytest.approx(6 / 11)
    assert "in 6 of 11 slices" in found["blank"].message


def test_a_volume_is_as_far_as_its_middle_slice():
    images = [head(number) for number in range(3)]
    distances = sorted(domain().distance(preprocess(image)[0]) for image in images)
    assert concerns(scan(*images), domain(limit=distances[1])) == {}
    assert concerns(scan(*images), domain(limit=distances[1] - 0.1))["far-from-training"].value == pytest.approx(
        distances[1]
    )


def test_what_the_reader_noticed_comes_first():
    noticed = Concern("missing-slices", "Expected 12 slices, found 11.")
    given = scan(head(), concerns=(noticed,), color_share=1.0, plane="coronal")
    found = inspect(given, [preprocess(given.slices[0])[0]], domain(limit=0.0))
    assert found[0] is noticed
    assert [concern.rule for concern in found[1:]] == ["color", "wrong-plane", "far-from-training"]
    rules = [concern.rule for concern in found[1:]]
    assert rules == sorted(rules, key=list(RULES).index)


def test_slices_and_pixels_must_belong_together():
    with pytest.raises(ValueError, match="shorter"):
        inspect(scan(head(0), head(1)), [preprocess(head())[0]])


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.float32, st.tuples(st.integers(1, 70), st.integers(1, 70)), elements=st.floats(-1e6, 1e6, width=32)))
def test_whatever_comes_is_looked_at(image):
    for concern in concerns(scan(image), domain(limit=0.0)).values():
        assert concern.rule in RULES
        assert concern.value is None or np.isfinite(concern.value)


def test_every_rule_is_said_in_a_sentence():
    assert all(sentence.endswith(".") and name == name.lower() and " " not in name for name, sentence in RULES.items())


def test_a_look_is_quick():
    image = head()
    given, pixels, known = scan(image), [preprocess(image)[0]], domain()
    durations = []
    for _ in range(30):
        started = time.perf_counter()
        inspect(given, pixels, known)
        durations.append(time.perf_counter() - started)
    assert min(durations) < 5e-3  # about 1 ms; the machine may be busy


def test_real_slices_are_seldom_a_concern(shared_data):
    """Forty patients' middle slices, FLAIR; `benchmarks/gatekeeper.py` counts all."""
    from slicewise.sources.images import read_channels

    folders = sorted(path for path in (shared_data / "lgg" / "kaggle_3m").iterdir() if path.is_dir())[:40]
    odd = 0
    for folder in folders:
        files = sorted(file for file in folder.glob("*.tif") if not file.stem.endswith("_mask"))
        image = read_channels(files[len(files) // 2])[..., 1]
        odd += bool(concerns(scan(image)))
        assert "inverted" in concerns(scan(image.max() - image))
    assert odd <= 1
