import base64
import gzip
import io
import json
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest
from PIL import Image

from service.running import archive, dicom, draw_head, is_problem, picture, volume
from slicewise.batch.batch import Options, Worker, predict_job
from slicewise.batch.inputs import Job
from slicewise.inference.decoding import Decoder
from slicewise.inference.predictor import Predictor
from slicewise.inference.views import VIEWS
from slicewise.service.answers import predict_slice
from slicewise.service.wire import SliceTask
from slicewise.sources.scans import scan_of_array

SAME = (
    *("probability", "raw_probability", "threshold", "decision", "uncertainty", "kind", "plane", "mask_px", "area_mm2"),
    "concerns",
)


def decoded(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def unrolled(mask):
    values = np.zeros(0, bool)
    for place, length in enumerate(mask["data"]["counts"]):
        values = np.append(values, np.full(length, place % 2 == 1))
    return values.reshape(mask["shape"])


def test_the_answer_is_the_command_lines_to_the_last_digit(service, predictor, tmp_path):
    for number, content in enumerate([picture(), picture(3, "JPEG"), dicom()]):
        file = tmp_path / f"input{number}"
        file.write_bytes(content)
        with Decoder() as decoder:
            record = predict_job(
                Job(file, file.relative_to(tmp_path)), Worker(predictor, decoder, Options(), tmp_path / "out")
            )
        written = json.loads(record.model_dump_json())
        answer = service.predict(content).json()
        assert {name: answer[name] for name in SAME} == {name: written["scans"][0][name] for name in SAME}
        assert (answer["model_id"], answer["engine"]) == (written["model_id"], written["engine"])


def test_the_spacing_is_told_where_the_file_says_it(service):
    assert service.predict(dicom()).json()["spacing_mm"] == [0.9, 0.9]
    assert service.predict(picture()).json()["spacing_mm"] is None


def test_the_mask_is_the_predictors(service, predictor, tmp_path):
    (tmp_path / "picture.png").write_bytes(picture())
    mask = predictor.predict(tmp_path / "picture.png").mask
    assert 0 < mask.sum() < mask.size
    answer = service.predict(picture()).json()
    assert answer["shape"] == list(mask.shape)
    assert np.array_equal(decoded(answer["mask"]["data"]), mask * 255)
    rle = service.predict(picture(), "/v1/predict?mask=rle").json()["mask"]
    assert np.array_equal(unrolled(rle), mask)
    assert service.predict(picture(), "/v1/predict?mask=none").json()["mask"] is None


def test_the_probability_alone_needs_no_mask(service):
    whole, alone = service.predict(picture()).json(), service.predict(picture(), "/v1/predict?segment=never").json()
    assert alone["mask"] is None
    assert alone["mask_px"] is None
    assert alone["probability"] == whole["probability"]


@pytest.mark.parametrize(
    ("above", "decision"), [("threshold", "no tumor"), ("mask_from", "tumor, not localized")], ids=["not called", "no mask"]
)
def test_a_mask_can_be_had_whatever_the_answer(predictor, above, decision):
    sceptic = Predictor(predictor.engine, predictor.description.model_copy(update={above: 1.0}))
    image = draw_head().astype(np.float32)

    def ask(segment):
        task = SliceTask("", "id", 0.0, segment=segment, mask="rle")
        return json.loads(predict_slice(sceptic, scan_of_array(image), task, {}))

    usual, always = ask("auto"), ask("always")
    assert usual["decision"] == always["decision"] == decision
    assert usual["mask_px"] == 0
    assert np.array_equal(unrolled(always["mask"]), predictor.predict(image).mask)
    assert always["mask_px"] == unrolled(always["mask"]).sum() > 0


def test_it_explains_itself(service, predictor, tmp_path):
    (tmp_path / "picture.png").write_bytes(picture())
    answer = service.predict(picture(), "/v1/predict?explain=true&uncertainty=true&picture=true").json()
    assert answer["uncertainty"] == predictor.predict(tmp_path / "picture.png", uncertainty=True).uncertainty
    assert decoded(answer["explanation"]).shape == decoded(answer["picture"]).shape == tuple(answer["shape"])
    assert decoded(answer["explanation"]).max() > 200
    assert answer["probability"] == service.predict(picture()).json()["probability"]


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, ["network", 1, "network", 2, "network", 3]),
        ({"uncertainty": True}, ["network"] * 3 + ["uncertainty", 1, "uncertainty", 2, "uncertainty", 3]),
        ({"tta": True}, ["network"] * 3 * (len(VIEWS) - 1) + ["network", 1, "network", 2, "network", 3]),
    ],
    ids=["slices", "uncertainty", "views"],
)
def test_progress_is_told_when_a_slice_is_finished(checkpoint, monkeypatch, options, steps):
    told, predictor = [], Predictor.from_checkpoint(checkpoint, "cpu")
    run = predictor.engine.run
    monkeypatch.setattr(predictor.engine, "run", lambda pixels: told.append("network") or run(pixels))
    monkeypatch.setattr(predictor, "uncertainty", lambda _: told.append("uncertainty") or 0.1)
    volume = np.stack([draw_head(number) for number in range(3)]).astype(np.float32)
    predictor.predict(volume, progress=told.append, **options)
    assert told == steps


def test_concerns_are_told(service):
    stream = io.BytesIO()
    Image.new("RGB", (50, 70), "red").save(stream, "PNG")
    concerns = service.predict(stream.getvalue()).json()["concerns"]
    assert {"blank", "small", "color"} <= {concern["rule"] for concern in concerns}


def test_what_is_no_slice_is_refused_with_a_reason(service):
    assert is_problem(service.predict(b"neither fish nor fowl"), 422, "unknown-format")
    assert is_problem(service.predict(b""), 422, "unreadable-file")
    assert is_problem(service.predict(picture()[:200]), 422, "unreadable-file")
    assert is_problem(service.predict(volume()), 422, "not-one-slice")
    assert is_problem(service.predict(archive(a=picture(), b=picture())), 422, "not-one-slice")
    assert service.predict(archive(a=picture())).status_code == 200


def test_a_volume_costs_the_route_of_slices_next_to_nothing(service):
    """Half a megabyte that would become a quarter of a gigabyte in the decoder, and again in the worker."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    content = gzip.compress(nib.Nifti1Image(np.zeros((512, 512, 250), np.uint8), np.eye(4), header).to_bytes())
    assert len(content) < 500_000
    (worker,) = service.workers()
    (decoder,) = psutil.Process(worker).children()
    before = [peak_mb(worker), peak_mb(decoder.pid)]
    assert is_problem(service.predict(content), 422, "not-one-slice")
    assert is_problem(service.predict(gzip.compress(content)), 422, "unknown-format")
    assert peak_mb(worker) < before[0] + 50
    assert peak_mb(decoder.pid) < before[1] + 50
    assert decoder.is_running()


def peak_mb(pid):
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def test_a_large_slice_is_forgotten_once_it_is_answered(service):
    stream = io.BytesIO()
    Image.new("L", (4000, 4000), 7).save(stream, "PNG")
    (worker,) = map(psutil.Process, service.workers())
    assert service.predict(picture()).status_code == 200
    before = worker.memory_info().rss
    assert service.predict(stream.getvalue(), "/v1/predict?mask=none").status_code == 200
    time.sleep(0.1)
    assert worker.memory_info().rss < before + 4000 * 4000 * 4 / 2


def test_a_batch_is_answered_line_by_line(service):
    contents = [picture(number) for number in range(4)] + [b"nothing", dicom()]
    files = [("file", (f"{number}.png", content)) for number, content in enumerate(contents)]
    with service.client.stream("POST", "/v1/predict/batch", files=files) as answer:
        assert answer.headers["content-type"] == "application/x-ndjson"
        lines = [json.loads(line) for line in answer.iter_lines()]
    assert sorted(line["index"] for line in lines) == list(range(6))
    by_index = {line["index"]: line for line in lines}
    assert by_index[4]["problem"]["type"] == "urn:slicewise:problem:unknown-format"
    for index in (0, 1, 2, 3, 5):
        alone = service.predict(contents[index]).json()
        assert by_index[index]["prediction"]["probability"] == alone["probability"]
        assert by_index[index]["prediction"]["mask"] == alone["mask"]
