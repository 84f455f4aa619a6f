import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from scipy.special import expit, logit

from slicewise.config import ModelConfig
from slicewise.data.preprocess import PREPROCESSING, SIDE_PX, preprocess, restore
from slicewise.errors import CheckpointError, InputError
from slicewise.inference.export import export
from slicewise.inference.predictor import Predictor
from slicewise.inference.views import VIEWS
from slicewise.model.checkpoint import save_checkpoint
from slicewise.model.description import Description
from slicewise.model.network import Decoder, MultiTaskNetwork
from slicewise.model.torch_engine import TorchEngine
from slicewise.records import Scan

ARCHITECTURE = ModelConfig(widths=(4, 4, 8, 8), blocks=(1, 1, 1, 1), decoder_width=4)
FACTS = {
    "name": "joint",
    "tasks": ("segmentation", "classification"),
    "architecture": ARCHITECTURE,
    "threshold": 0.5,
    "mask_threshold": 0.5,
    "parameters": 1,
    "data_fingerprint": "",
    "patients": {},
    "metrics": {},
    "history": [],
    "provenance": {},
}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = MultiTaskNetwork(ARCHITECTURE).train()
    with torch.no_grad():
        network(torch.randn(4, 1, 64, 64))  # BatchNorm that is not the identity
    return network.eval()


@pytest.fixture
def image():
    """A slice of 300 × 200 with a bright head on black."""
    return head(0)


def head(number):
    rows, columns = np.mgrid[:300, :200]
    inside = (rows - 150) ** 2 / 120**2 + (columns - 100) ** 2 / 80**2 < 1
    return (inside * (100 + 20 * np.sin((rows + 40 * number) / 9) * np.cos(columns / 7))).astype(np.float32)


def make(network, **changes):
    facts = {"preprocessing": PREPROCESSING, "weights_sha256": "0123456789abcdef"} | FACTS | changes
    return Predictor(TorchEngine(network), Description(**facts))


def middle_of(network, image, spacing_mm=None):
    """Thresholds that cut this slice's outputs in two, so that both answers occur."""
    (outputs,) = make(network).infer(preprocess(image, spacing_mm)[0][None], mask_from=0.0)
    return outputs.tumor, float(np.median(outputs.mask))


@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize(("mask_from", "decision"), [(0.0, "tumor"), (1.0, "tumor, not localized")])
def test_a_tumor_called_below_where_masks_are_kept_is_not_localized(network, image, mask_from, decision, tta):
    predictor = make(network, threshold=0.0, mask_threshold=1e-6, mask_from=mask_from)
    result = predictor.predict(image, tta=tta)
    assert result.decision == decision
    assert result.masks.any() == (mask_from == 0)
    prediction = predictor.predict_preprocessed(preprocess(image)[0])
    assert prediction.is_tumor
    assert prediction.mask.any() == (mask_from == 0)
    assert (prediction.tumor_probabilities > 0).any()  # what the decoder says is kept for the evaluation


def test_the_answer_lies_on_the_grid_of_the_input(network, image):
    tumor, pixel = middle_of(network, image, (0.5, 2.0))
    result = make(network, threshold=tumor, mask_threshold=pixel).predict(image, spacing_mm=(0.5, 2.0))
    assert result.mask.shape == (300, 200)
    assert result.mask.dtype == np.bool_
    assert 0 < result.mask_px < 60_000
    assert result.area_mm2 == result.mask_px
    assert result.volume_ml is None
    assert (result.model_id, result.engine) == ("0123456789ab", "torch")
    assert result.timings_s["total"] >= result.timings_s["network"] > 0


def test_below_the_threshold_the_mask_is_empty_and_above_it_is_the_decoders(network, image):
    tumor, pixel = middle_of(network, image)
    at = make(network, threshold=tumor, mask_threshold=pixel).predict(image)
    above = make(network, threshold=tumor + 1e-6, mask_threshold=pixel).predict(image)
    pixels, geometry = preprocess(image)
    (outputs,) = make(network).infer(pixels[None], mask_from=0.0)
    assert at.decision == "tumor"
    assert np.array_equal(at.mask, restore(outputs.mask, geometry) >= pixel)
    assert above.decision == "no tumor"
    assert not above.mask.any()
    assert at.probability == above.probability


def test_a_positive_answer_without_a_mask_is_said_as_such(network, image):
    predictor = make(network, threshold=0.0, mask_threshold=1.0)
    assert predictor.predict(image).decision == "tumor, not localized"
    assert predictor.predict(image, segment=False).decision == "tumor"


def test_a_slice_of_the_store_and_its_file_get_equal_answers(network):
    image = np.random.default_rng(0).normal(100, 20, size=(SIDE_PX, SIDE_PX)).astype(np.float32)
    predictor = make(network, threshold=0.0)
    from_file = predictor.predict(image)
    from_store = predictor.predict_preprocessed(preprocess(image)[0])
    assert from_file.probability == from_store.probability
    assert np.array_equal(from_file.mask, from_store.mask)


def test_slices_of_a_volume_get_the_answers_that_they_get_alone(network):
    images = np.stack([head(number) for number in range(3)])
    tumor, pixel = middle_of(network, images[1])
    predictor = make(network, threshold=tumor, mask_threshold=pixel)
    volume = predictor.predict(images)
    alone = [predictor.predict(image) for image in images]
    assert volume.probabilities.tolist() == [one.probability for one in alone]
    assert np.array_equal(volume.masks, np.stack([one.mask for one in alone]))
    assert volume.probability == max(one.probability for one in alone)


def test_a_model_of_one_task_answers_that_one(network, image):
    classifier = make(network, tasks=("classification",), threshold=0.0).predict(image)
    assert classifier.decision == "tumor"
    assert not classifier.segmented
    assert not classifier.mask.any()
    segmenter = make(network, tasks=("segmentation",), threshold=0.0)
    (outputs,) = segmenter.infer(preprocess(image)[0][None])
    # Without a classifier the slice is as likely to show tumor as its likeliest pixel.
    assert segmenter.predict(image).probability == pytest.approx(outputs.mask.max(), rel=1e-6)


def test_a_description_that_hears_the_decoder_alone_is_answered_by_the_peak(network, image):
    pixels = preprocess(image)[0][None]
    (outputs,) = make(network).infer(pixels, mask_from=0.0)
    assert abs(outputs.peak - outputs.head) > 0.01
    peak = float(logit(np.float64(outputs.mask.max())))
    expected = expit((peak + 1) / 2)
    told = {"decoder_share": 1.0, "center": -1.0, "temperature": 2.0}
    result = make(network, threshold=expected - 1e-4, **told).predict(image)
    assert result.probability == pytest.approx(expected, rel=1e-5)
    assert result.raw_probabilities == pytest.approx([expit(peak)], rel=1e-5)
    assert result.decision.startswith("tumor")
    assert make(network, threshold=expected + 1e-4, **told).predict(image).decision == "no tumor"
    # Without a mask, averaged and asked how sure it is, it is the same rule.
    assert make(network, **told).predict(image, segment=False).probability == result.probability
    seen = [make(network).infer(view.apply(pixels[0])[None], mask_from=0.0)[0].peak for view in VIEWS]
    answers = expit((np.array(seen) + 1) / 2)
    assert make(network, **told).predict(image, tta=True).probability == pytest.approx(answers.mean(), rel=1e-9)
    assert make(network, **told).uncertainty(pixels[0]) == pytest.approx(answers.std(), abs=1e-6)


def test_the_share_of_the_description_weighs_the_heads(network, image):
    pixels = preprocess(image)[0][None]
    (outputs,) = make(network).infer(pixels, mask_from=0.0)
    result = make(network, decoder_share=0.25).predict(image)
    assert result.probability == pytest.approx(expit(0.75 * outputs.head + 0.25 * outputs.peak), rel=1e-9)
    with pytest.raises(ValidationError):
        make(network, decoder_share=1.5)


def test_averaging_over_views_is_the_mean_of_what_each_says(network, image):
    _, pixel = middle_of(network, image)
    predictor = make(network, threshold=0.0, mask_threshold=pixel)
    pixels, geometry = preprocess(image)
    seen = [predictor.infer(view.apply(pixels)[None], mask_from=0.0)[0] for view in VIEWS]
    mask = np.mean([view.undo(one.mask) for view, one in zip(VIEWS, seen, strict=True)], axis=0, dtype=np.float32)
    result = predictor.predict(image, tta=True)
    assert result.probability == pytest.approx(np.mean([one.tumor for one in seen]))
    assert np.mean(result.mask == (restore(mask, geometry) >= pixel)) > 0.999


def test_the_uncertainty_is_that_of_the_most_probable_slice(network):
    images = np.stack([head(number) for number in range(3)])
    predictor = make(network)
    result = predictor.predict(images, uncertainty=True)
    most = int(result.probabilities.argmax())
    assert result.uncertainty == predictor.uncertainty(preprocess(images[most])[0])
    assert predictor.predict(images).uncertainty is None


def test_on_a_concern_that_was_named_no_answer_is_given(network):
    blank = np.full((256, 256), 7, np.float32)
    predictor = make(network, threshold=0.0, mask_threshold=0.0)
    warned = predictor.predict(blank)
    assert "blank" in [concern.rule for concern in warned.concerns]
    assert warned.decision == "tumor"
    abstained = predictor.predict(blank, abstain_on=("blank",))
    assert abstained.decision == "abstained"
    assert not abstained.mask.any()
    assert not abstained.is_tumor.any()


def test_small_parts_are_left_out_only_where_asked(network):
    images = np.stack([head(number) for number in range(3)])
    _, pixel = middle_of(network, images[1])
    predictor = make(network, threshold=0.0, mask_threshold=pixel)
    scan = Scan(images, "nifti", "volume", spacing_mm=(1.0, 1.0), slice_spacing_mm=2.0)
    whole, cleaned = predictor.predict(scan), predictor.predict(scan, smallest_mm3=1e9)
    assert whole.masks.any()
    assert not cleaned.masks.any()
    assert cleaned.decision == "tumor, not localized"


@pytest.mark.parametrize("image", [np.zeros((2, 3, 4, 5)), np.zeros((0, 5)), np.array([[1.0, np.nan]])])
def test_what_is_no_slice_is_refused(network, image):
    with pytest.raises(InputError, match="Expected"):
        make(network).predict(image.astype(np.float32))


def test_a_zip_of_one_scan_and_its_mask_is_one_scan(network, image, tmp_path):
    Image.fromarray(image.astype(np.uint8)).save(tmp_path / "scan.png")
    with zipfile.ZipFile(tmp_path / "both.zip", "w") as archive:
        for name in ("scan.png", "scan_mask.png"):
            archive.write(tmp_path / "scan.png", name)
    with zipfile.ZipFile(tmp_path / "mask.zip", "w") as archive:
        archive.write(tmp_path / "scan.png", "scan_mask.png")
    predictor = make(network)
    assert predictor.predict(tmp_path / "both.zip").probability == predictor.predict(tmp_path / "scan.png").probability
    with pytest.raises(InputError, match="called like them: scan_mask"):
        predictor.predict(tmp_path / "mask.zip")


@pytest.fixture(scope="module")
def checkpoint(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder, network, **FACTS)
    return folder


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    save_checkpoint(folder, network, **FACTS)
    export(folder)
    return folder


def test_the_engine_is_the_exported_one_where_there_is_one(checkpoint, exported):
    assert Predictor.from_checkpoint(checkpoint).engine.name == "torch"
    assert Predictor.from_checkpoint(exported).engine.name == "openvino"
    assert Predictor.from_checkpoint(exported, "torch").engine.name == "torch"
    with pytest.raises(CheckpointError, match="slicewise export"):
        Predictor.from_checkpoint(checkpoint, "cpu")


@pytest.mark.parametrize("device", ["cuda:99", "nonsense"])
def test_a_device_that_is_not_there_is_refused_by_its_name(checkpoint, device):
    with pytest.raises(InputError, match=f"got '{device}'"):
        Predictor.from_checkpoint(checkpoint, "torch", device)


@pytest.mark.parametrize("tasks", [("classification",), ("segmentation",), ("segmentation", "classification")])
def test_a_decoder_is_run_where_it_was_trained_and_changes_nothing_elsewhere(network, image, tmp_path, monkeypatch, tasks):
    save_checkpoint(tmp_path, network, **FACTS | {"tasks": tasks})
    runs, run = [], Decoder.forward
    monkeypatch.setattr(Decoder, "forward", lambda self, maps: runs.append(self) or run(self, maps))
    found = Predictor.from_checkpoint(tmp_path).predict(image)
    assert len(runs) == ("segmentation" in tasks)
    assert found.probability == make(network, tasks=tasks).predict(image).probability


def test_explanations_of_an_exported_model_look_into_its_weights(exported, image):
    predictor = Predictor.from_checkpoint(exported, "cpu")
    pixels, _ = preprocess(image)
    assert predictor.uncertainty(pixels) == pytest.approx(
        Predictor.from_checkpoint(exported, "torch").uncertainty(pixels), abs=1e-6
    )


def test_a_whole_prediction_with_the_exported_engine_loads_no_torch(exported):
    code = f"""
import sys
from pathlib import Path
import numpy as np
from slicewise.inference.predictor import Predictor
Predictor.from_checkpoint(Path({str(exported)!r})).predict(np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32))
print(sorted({{"torch", "monai", "sklearn", "pandas", "matplotlib"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
