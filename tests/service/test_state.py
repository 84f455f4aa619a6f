import uuid

import httpx
import pytest

from service.running import KEY, Service, is_problem, picture, wait_until
from slicewise.service.card import card_of
from slicewise.service.problems import PROBLEMS


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"])
def test_what_tells_nothing_of_anyone_needs_no_key(service, path):
    answer = httpx.get(service.client.base_url.join(path))
    assert answer.status_code == 200
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "server" not in answer.headers


def test_the_model_is_described_from_its_checkpoint(service, predictor):
    card = service.client.get("/v1/model").json()
    assert card["model_id"] == predictor.description.model_id
    assert card["threshold"] == predictor.description.threshold
    assert card["metrics"]["val"]["roc_auc"]["low"] == 0.8
    assert card["patients"] == {"lgg": {"train": 2}}
    assert card["history"] == [{"epoch": 1, "val_score": None}]
    assert card["can_explain"]
    assert card["can_tell_uncertainty"]
    assert "patient-of-training" not in str(card)
    assert "not a medical device" in card["notice"]


def test_a_card_says_what_torch_and_the_model_allow(checkpoint, predictor, monkeypatch):
    segmenting = predictor.description.model_copy(update={"tasks": ("segmentation",)})
    card = card_of(segmenting, checkpoint)
    assert (card.can_explain, card.can_tell_uncertainty) == (False, True)
    monkeypatch.setattr("slicewise.service.card.find_spec", lambda name: None)
    card = card_of(predictor.description, checkpoint)
    assert (card.can_explain, card.can_tell_uncertainty) == (False, False)


@pytest.mark.parametrize("key", [None, "", "Bearer", "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x", "Bearer s\xe9cret"])
def test_without_a_valid_key_nothing_is_answered(service, key):
    headers = {} if key is None else {"Authorization": key.encode("latin-1")}
    answer = httpx.post(service.client.base_url.join("/v1/predict"), headers=headers, files={"file": picture()})
    assert is_problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert is_problem(httpx.get(service.client.base_url.join("/v1/nothing"), headers=headers), 401, "unauthorized")


def test_every_key_opens(service):
    assert service.client.get("/v1/model", headers={"Authorization": "bearer other"}).status_code == 200


def test_what_is_not_there_is_a_problem_too(service):
    assert is_problem(service.client.get("/v1/nothing/PLANTED"), 404, "not-found")
    assert is_problem(service.client.get("/v1/predict/"), 404, "not-found")
    answer = service.client.put("/v1/predict")
    assert is_problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "POST"
    assert is_problem(service.client.post("/v1/predict", json={}), 422, "invalid-request")
    broken = {"Content-Type": "multipart/form-data"}
    assert is_problem(service.client.post("/v1/predict", content=b"nothing", headers=broken), 400, "bad-request")
    answer = service.predict(picture(), "/v1/predict?segment=PLANTED")
    assert is_problem(answer, 422, "invalid-request")
    assert [part["where"] for part in answer.json()["errors"]] == ["query.segment"]
    assert "PLANTED" not in answer.text


def test_a_request_keeps_its_id_where_it_is_one(service):
    own = str(uuid.uuid4())
    assert service.client.get("/healthz", headers={"X-Request-ID": own}).headers["x-request-id"] == own
    planted = service.client.get("/healthz", headers={"X-Request-ID": "PLANTED"}).headers["x-request-id"]
    assert uuid.UUID(planted)


def test_other_origins_are_not_let_in(service):
    answer = service.client.options(
        "/v1/predict", headers={"Origin": "http://elsewhere.example", "Access-Control-Request-Method": "POST"}
    )
    assert "access-control-allow-origin" not in answer.headers
    assert answer.status_code == 405


def test_a_log_line_says_what_is_needed_and_no_more(service):
    request_id = service.client.get("/v1/model").headers["x-request-id"]
    (line,) = wait_until(lambda: [line for line in service.lines("request") if line["request_id"] == request_id])
    assert set(line) == {"time", "level", "event", "request_id", "method", "route", "status", "duration_ms"}
    assert (line["method"], line["route"], line["status"]) == ("GET", "/v1/model", 200)


def test_the_document_describes_every_answer(service):
    document = service.client.get("/openapi.json").json()
    assert {"/v1/predict", "/v1/predict/batch", "/v1/studies", "/v1/studies/{study}/result", "/v1/model"} <= set(
        document["paths"]
    )
    for operations in document["paths"].values():
        for operation in operations.values():
            errors = {int(status): answer for status, answer in operation["responses"].items() if int(status) >= 400}
            assert all(list(answer["content"]) == ["application/problem+json"] for answer in errors.values())
    schemas = document["components"]["schemas"]
    assert all(schemas[name]["examples"] for name in ("Prediction", "StudyStatus", "StudyResult", "ModelCard", "BatchLine"))
    assert "HTTPValidationError" not in schemas


def test_the_document_names_no_answer_that_a_path_does_not_give(service):
    paths = service.client.get("/openapi.json").json()["paths"]
    slow = {path for path, operations in paths.items() for answer in operations.values() if "504" in answer["responses"]}
    assert slow == {"/v1/predict"}, "a batch says so in its lines, a study in its status"
    assert all(("501" in paths[path]["post"]["responses"]) == (path in slow) for path in paths if "post" in paths[path])


def test_every_problem_says_what_was_expected():
    assert all(400 <= kind.status < 600 and kind.detail.endswith(".") for kind in PROBLEMS.values())


def test_without_keys_only_this_machine_is_answered(checkpoint, tmp_path):
    with Service(checkpoint, tmp_path / "log", keys="") as service:
        assert "no API keys are set" in service.lines("listening")[0]["access"]
        bare = service.client.base_url
        assert httpx.get(bare.join("/v1/model")).status_code == 200
        assert is_problem(httpx.get(bare.join("/v1/model"), headers={"Host": "rebound.example"}), 403, "forbidden")
        assert is_problem(httpx.get(bare.join("/v1/model"), headers={"Origin": "http://evil.example"}), 403, "forbidden")
        assert is_problem(httpx.get(bare.join("/v1/model"), headers={"Host": "[::1"}), 403, "forbidden")
        assert httpx.get(bare.join("/v1/model"), headers={"Origin": "http://localhost:8501"}).status_code == 200
