import json

import numpy as np
import onnxruntime
import pytest
import torch

from slicewise.config import ModelConfig
from slicewise.data.preprocess import PREPROCESSING, preprocess
from slicewise.errors import CheckpointError
from slicewise.inference import export as room
from slicewise.inference.cpu_engine import CpuEngine
from slicewise.inference.export import compare_engines, export
from slicewise.model.checkpoint import load_checkpoint, save_checkpoint
from slicewise.model.description import read_description
from slicewise.model.engine import Outputs, infer
from slicewise.model.network import MultiTaskNetwork
from slicewise.model.torch_engine import TorchEngine
from slicewise.sources.images import read_channels

ARCHITECTURE = ModelConfig(widths=(4, 4, 8, 8), blocks=(1, 1, 1, 1), decoder_width=4)


def save(folder, seed):
    torch.manual_seed(seed)
    network = MultiTaskNetwork(ARCHITECTURE).train()
    with torch.no_grad():
        network(torch.randn(4, 1, 64, 64))
    facts = {"patients": {}, "metrics": {}, "history": [], "provenance": {}, "data_fingerprint": "", "parameters": 1}
    tasks = ("segmentation", "classification")
    thresholds = {"threshold": 0.5, "mask_threshold": 0.5}
    save_checkpoint(folder, network.eval(), name="joint", tasks=tasks, architecture=ARCHITECTURE, **thresholds, **facts)
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = save(tmp_path_factory.mktemp("model"), 0)
    export(folder)
    return folder


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(1).normal(size=(4, 256, 256)).astype(np.float16)


def test_the_export_answers_as_its_weights_do(exported, pixels):
    network, description = load_checkpoint(exported)
    cpu = infer(CpuEngine(exported, description), pixels, segment=True, classify=True)
    for ours, theirs in zip(cpu, infer(TorchEngine(network), pixels, segment=True, classify=True), strict=True):
        assert ours.tumor == pytest.approx(theirs.tumor, abs=1e-5)
        assert ours.peak == pytest.approx(theirs.peak, abs=1e-4)
        assert np.allclose(ours.mask, theirs.mask, atol=1e-4)


def test_another_runtime_reads_the_same_answer_from_the_file(exported, pixels):
    """Of ONNX Runtime, which shares no code with what wrote the file nor with the CPU engine."""
    graph = onnxruntime.InferenceSession(exported / "cpu" / "model.onnx", providers=["CPUExecutionProvider"])
    cpu = infer(CpuEngine(exported, read_description(exported)), pixels, segment=True, classify=True)
    for slice_, ours in zip(pixels, cpu, strict=True):
        logit, peak, mask = graph.run(None, {"image": slice_[None, None].astype(np.float32)})
        assert ours.tumor == pytest.approx(1 / (1 + np.exp(-logit[0])), abs=1e-5)
        assert np.allclose(ours.mask, mask[0, 0], atol=1e-4)
        assert ours.peak == pytest.approx(peak[0], abs=1e-4)
        assert 1 / (1 + np.exp(-peak[0])) == pytest.approx(mask.max(), abs=1e-6)


def test_on_real_slices_the_engines_agree(exported, shared_data):
    """Of untrained weights, whose answers lie where a small difference shows most."""
    files = sorted((shared_data / "lgg" / "kaggle_3m").glob("*/*_1?.tif"))[::40]
    slices = np.stack([preprocess(read_channels(file)[..., 1])[0] for file in files])
    network, description = load_checkpoint(exported)
    engine = TorchEngine(network)
    middle = float(np.median([output.mask for output in infer(engine, slices, segment=True, classify=True)]))
    halves = description.model_copy(update={"decoder_share": 0.5, "mask_threshold": middle})
    parity = compare_engines(engine, CpuEngine(exported, description), slices, halves)
    assert len(slices) >= 15
    assert parity.probability <= 1e-3
    assert parity.dice >= 0.999


def test_the_mask_is_that_of_the_slice_and_stays_its_own(exported, pixels):
    engine = CpuEngine(exported, read_description(exported))
    first, second = (infer(engine, pixels[[place]], segment=True, classify=True)[0].mask for place in (0, 1))
    assert np.array_equal(first, infer(engine, pixels[:1], segment=True, classify=True)[0].mask)
    assert not np.array_equal(first, second)


def test_the_number_of_threads_changes_no_bit(exported, pixels):
    description = read_description(exported)
    one, two = (infer(CpuEngine(exported, description, n), pixels, segment=True, classify=True) for n in (1, 2))
    assert [output.tumor for output in one] == [output.tumor for output in two]
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(one, two, strict=True))


def test_equal_weights_give_equal_bytes_that_tell_nothing_of_the_machine(exported, tmp_path):
    again = save(tmp_path / "again", 0)
    export(again)
    for name in ("model.onnx", "export.json"):
        content = (again / "cpu" / name).read_bytes()
        assert content == (exported / "cpu" / name).read_bytes()
        assert b"site-packages" not in content
        assert b".py" not in content


def test_an_export_of_other_weights_is_refused(exported, tmp_path):
    other = save(tmp_path / "other", 1)
    (exported / "cpu").rename(exported / "elsewhere")
    (exported / "elsewhere").rename(other / "cpu")
    try:
        with pytest.raises(CheckpointError, match="export of the weights"):
            CpuEngine(other, read_description(other))
    finally:
        (other / "cpu").rename(exported / "cpu")


def test_a_damaged_export_is_refused(tmp_path):
    folder = save(tmp_path, 0)
    export(folder)
    file = folder / "cpu" / "model.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.onnx.*damaged"):
        CpuEngine(folder, read_description(folder))


def test_an_export_that_answers_otherwise_is_not_kept(tmp_path, monkeypatch):
    folder = save(tmp_path, 0)
    monkeypatch.setattr(room, "compare_engines", lambda *args: room.Parity(0.01, 0.99))
    with pytest.raises(CheckpointError, match="not kept"):
        export(folder)
    assert not CpuEngine.is_exported(folder)


def test_an_export_of_before_is_refused_with_what_to_do(exported):
    """Its facts are there, the graph is not."""
    description, graph = read_description(exported), exported / "cpu" / "model.onnx"
    graph.rename(exported / "elsewhere.onnx")
    try:
        with pytest.raises(CheckpointError, match="Run `slicewise export`"):
            CpuEngine(exported, description)
    finally:
        (exported / "elsewhere.onnx").rename(graph)


def test_parity_is_the_largest_difference_and_the_smallest_overlap(exported):
    class Told:
        name, batch = "told", 1

        def __init__(self, logits, masks, peaks=(0.0, 0.0)):
            self.logits, self.masks, self.peaks, self.place = logits, np.float32(masks), peaks, -1

        def run(self, pixels):
            self.place += 1
            return Outputs(
                np.array([self.logits[self.place]]), np.array([self.peaks[self.place]]), self.masks[self.place][None]
            )

    description, pixels = read_description(exported), np.zeros((2, 1, 4), np.float16)
    masks = [[[1, 1, 0, 0]], [[0, 0, 0, 0]]]
    other = Told([0.0, np.log(3)], [[[1, 0, 0, 0]], [[0, 0, 0, 0]]])
    parity = compare_engines(Told([0.0, 0.0], masks), other, pixels, description)
    assert parity.probability == pytest.approx(0.25)
    assert parity.dice == pytest.approx(2 / 3)
    joined = description.model_copy(update={"decoder_share": 0.5})
    for peaks, difference in (((0.0, 2 * np.log(3)), 0.25), ((np.nan, 0.0), np.nan)):
        parity = compare_engines(Told([0.0, 0.0], masks), Told([0.0, 0.0], masks, peaks), pixels, joined)
        assert parity.probability == pytest.approx(difference, nan_ok=True)


def test_the_facts_of_an_export_name_its_weights(exported):
    facts = json.loads((exported / "cpu" / "export.json").read_text())
    assert facts["weights_sha256"] == read_description(exported).weights_sha256
    assert read_description(exported).preprocessing == PREPROCESSING
