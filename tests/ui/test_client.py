import gzip
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from service.running import SHAPE, dicom, picture, volume, wait_until
from slicewise.ui import client
from slicewise.ui.client import ServiceError
from slicewise.ui.drawing import mask_of, read_png, to_png


def test_a_slice_comes_with_its_mask_and_picture(asked, example):
    prediction = asked.predict(example("Slice with a tumor"))
    assert prediction.decision == "tumor"
    mask = mask_of(prediction)
    assert mask.shape == prediction.shape == read_png(prediction.picture).shape
    assert mask.sum() == prediction.mask_px > 1000


def test_a_slice_can_be_explained(asked, example):
    prediction = asked.predict(example("Slice without"), explain=True, uncertainty=True)
    assert read_png(prediction.explanation).shape == prediction.shape
    assert 0 <= prediction.uncertainty <= 0.5
    assert not mask_of(prediction).any()


def test_a_long_batch_goes_in_parts_and_keeps_its_places(asked, monkeypatch):
    monkeypatch.setattr(client, "_BATCH_FILES", 3)
    contents = [picture(number) for number in range(7)]
    contents[4] = b"no picture"
    lines = list(asked.predict_batch([(f"{place}.png", content) for place, content in enumerate(contents)]))
    assert sorted(line.index for line in lines) == list(range(7))
    for line in lines:
        if line.index == 4:
            assert line.problem["type"].endswith("unknown-format")
        else:
            assert line.prediction.probability == asked.predict(contents[line.index]).probability


def test_a_study_is_followed_fetched_and_removed(asked):
    study = asked.send_study([(f"NAME-{number}.dcm", dicom(number)) for number in range(SHAPE[0])])
    wait_until(lambda: asked.follow_study(study.id).status == "done", 40)
    result = asked.study_result(study.id)
    assert [record.slices for record in result.scans] == [SHAPE[0]]
    files = {file.name: asked.fetch(file.href) for file in result.files}
    assert files["segmentation"][128:132] == b"DICM"
    asked.remove_study(study.id)
    with pytest.raises(ServiceError):
        asked.study_result(study.id)


def test_files_of_any_kind_are_scans_of_one_study(asked):
    series = [("", dicom(number)) for number in range(SHAPE[0])]
    for files, kinds in (
        ([("", picture(0)), ("", picture(1))], ["picture", "picture"]),
        ([*series, ("", volume())], ["dicom", "nifti"]),
    ):
        study = asked.send_study(files)
        wait_until(lambda study=study: asked.follow_study(study.id).status == "done", 40)
        result = asked.study_result(study.id)
        assert sorted(record.kind for record in result.scans) == kinds
        assert not result.refusals


def test_a_slice_of_a_study_can_be_sent_as_what_it_was(asked, example):
    study = asked.send_study([("", example("NIfTI volume"))])
    wait_until(lambda: asked.follow_study(study.id).status == "done", 40)
    (record,) = asked.study_result(study.id).scans
    with np.load(io.BytesIO(asked.fetch(f"/v1/studies/{study.id}/scans/0/slices"))) as arrays:
        alone = [asked.predict(to_png(values)).probability for values in arrays["values"]]
        assert arrays["mask"].sum() == record.mask_px
    assert np.allclose(alone, record.slice_probabilities, atol=0.002)


def test_a_compressed_volume_needs_no_name(asked):
    study = asked.send_study([("", gzip.compress(volume()))])
    assert wait_until(lambda: asked.follow_study(study.id).done == SHAPE[0], 40)


def test_names_of_files_are_not_sent(connect):
    sent = []

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self):
            sent.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_error(503)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        asked = connect(f"http://127.0.0.1:{server.server_port}")
        for ask in (lambda files: list(asked.predict_batch(files)), asked.send_study):
            with pytest.raises(ServiceError):
                ask([("PLANTED^NAME.png", b"content")])
        server.shutdown()
    assert len(sent) == 2
    assert all(b"content" in body and b"PLANTED" not in body for body in sent)


def test_a_request_is_cut_by_files_and_by_bytes(monkeypatch):
    monkeypatch.setattr(client, "_BATCH_FILES", 3)
    monkeypatch.setattr(client, "_BATCH_BYTES", 10)
    assert list(client._portions([1] * 7)) == [(0, 3), (3, 6), (6, 7)]
    assert list(client._portions([6, 5, 50, 1, 1])) == [(0, 1), (1, 2), (2, 3), (3, 5)]
    assert list(client._portions([])) == []


def test_a_refusal_says_what_was_expected_and_where_to_find_it(service, asked):
    with pytest.raises(ServiceError, match=r"^Expected a picture, NIfTI, DICOM or zip file") as refusal:
        asked.predict(b"no picture")
    error = refusal.value
    assert (error.problem, error.title) == ("unknown-format", "The file cannot be read")
    # It is answered first, and written down then.
    wait_until(lambda: any(line.get("request_id") == error.request_id for line in service.lines()))


def test_a_wrong_key_is_a_refusal(connect, service_url):
    with pytest.raises(ServiceError, match="Expected a valid key"):
        connect(service_url, "wrong").describe_model()


def test_nobody_there_is_said_as_such(connect):
    absent = connect("http://127.0.0.1:9")
    assert absent.state() == "away"
    with pytest.raises(ServiceError, match="nobody answers there") as refusal:
        absent.predict(picture())
    assert refusal.value.problem == "unreachable"


@pytest.mark.parametrize(("status", "body"), [(200, b'{"probability": 1}'), (200, b"<html>"), (502, b"<html>Bad gateway")])
def test_an_answer_of_another_program_is_not_taken_for_one(connect, status, body):
    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        with pytest.raises(ServiceError, match="got one of another program"):
            connect(f"http://127.0.0.1:{server.server_port}").describe_model()


def test_a_proxy_of_the_environment_is_not_used(connect, service_url, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    assert connect(service_url).state() == "ready"


def test_a_mask_that_was_not_looked_for_is_empty(asked, example):
    prediction = asked.predict(example("Slice with a tumor"), segment="never")
    assert prediction.mask is None
    assert np.array_equal(mask_of(prediction), np.zeros(prediction.shape, bool))
    assert json.loads(prediction.model_dump_json())["mask_px"] is None
