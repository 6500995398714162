"""The control API as a stranger meets it: its gate, its errors, its description, its events."""

from __future__ import annotations

import http.client
import json
import stat
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.journeys.engines import SAMPLES, RunningEngine, until


class Stranger:
    """Raw requests to the control API."""

    def __init__(self, studio: RunningEngine) -> None:
        self._place = urlsplit(studio.client.status().control_url)
        self.token = (studio.workspace / "run" / "token").read_text().strip()

    def ask(
        self, path: str, method: str = "GET", body: Any = None, token: str | None = "", **headers: str
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._place.port, timeout=30)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            sent["Authorization"] = f"Bearer {token or self.token}"
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method, path, content, {"Content-Type": "application/json", **sent})
        answer = connection.getresponse()
        result = answer.status, json.loads(answer.read())
        connection.close()
        return result


@pytest.fixture
def stranger(studio: RunningEngine) -> Stranger:
    return Stranger(studio)


def test_the_gate(stranger: Stranger, studio: RunningEngine) -> None:
    token_file = studio.workspace / "run" / "token"
    assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
    assert stranger.ask("/api/status")[0] == 200
    for refused in (
        stranger.ask("/api/status", token=None),
        stranger.ask("/api/status", token="guess"),
        stranger.ask("/api/status", Host="studio.example.com"),
        stranger.ask("/api/status", Host="localhost.example.com"),
        stranger.ask("/api/shutdown", "POST", {}, Origin="https://example.com"),
        stranger.ask("/api/shutdown", "POST", {}, Origin="null"),
    ):
        status, answer = refused
        assert status == 403
        assert answer["error"]["code"] == "denied"
        assert answer["error"]["what"]
    assert stranger.ask("/api/status")[0] == 200, "the engine was shut down by a stranger"


@pytest.mark.parametrize(
    ("path", "method", "body", "status"),
    [
        ("/api/nothing", "GET", None, 404),
        ("/api/status", "DELETE", None, 405),
        ("/api/models/none", "GET", None, 404),
        ("/api/models/..%2f..%2fetc", "GET", None, 404),
        ("/api/versions/digits/1", "GET", None, 404),
        ("/api/versions?sort=colour", "GET", None, 400),
        ("/api/versions?limit=0", "GET", None, 400),
        ("/api/resolve/UPPER%20case", "GET", None, 400),
        ("/api/jobs/none", "GET", None, 404),
        ("/api/jobs/none/retry", "POST", None, 404),
        ("/api/jobs/none/inputs", "POST", {"inputs": []}, 404),
        ("/api/jobs/none/inputs", "POST", {"inputs": [{"name": "x", "datatype": "FP32", "shape": {}}]}, 400),
        ("/api/trust", "POST", {"sha256": ["f" * 64]}, 404),
        ("/api/trust", "POST", {"sha256": ["../../etc"]}, 400),
        ("/api/trust", "POST", {"sha256": "f" * 64}, 400),
        ("/api/distrust", "POST", {"sha256": "f" * 64}, 404),
        ("/api/comparisons/none", "GET", None, 404),
        ("/api/comparisons", "POST", {"references": []}, 400),
        ("/api/comparisons", "POST", {"references": ["a", "b"], "seconds": 1e9}, 400),
        ("/api/aliases", "POST", {"model": "m", "alias": "latest", "target": "1"}, 400),
        ("/api/aliases", "POST", {"model": "../x", "alias": "production", "target": "1"}, 400),
        ("/api/aliases", "POST", b"{not json", 400),
        ("/api/undo", "POST", {}, 404),
        ("/api/add", "POST", {"path": "relative.onnx"}, 400),
        ("/api/add", "POST", {"path": "/no/such/file.onnx"}, 404),
        ("/api/purge", "POST", {"reference": "digits:1", "confirm": "yes"}, 400),
    ],
)
def test_every_refusal_has_its_status_and_words(
    module_studio: RunningEngine, path: str, method: str, body: Any, status: int
) -> None:
    got, answer = Stranger(module_studio).ask(path, method, body)
    assert got == status, answer
    assert answer["error"]["what"]
    assert "Traceback" not in json.dumps(answer)


def test_it_describes_itself(module_studio: RunningEngine) -> None:
    status, document = Stranger(module_studio).ask("/openapi.json", token=None)
    assert status == 200
    assert document["openapi"].startswith("3.")
    assert {"/api/status", "/api/versions", "/api/aliases", "/api/events", "/api/comparisons"} <= set(document["paths"])
    assert "VersionPage" in document["components"]["schemas"]


def test_events_tell_an_arrival_in_order_and_resume(studio: RunningEngine) -> None:
    stranger = Stranger(studio)
    studio.drop(SAMPLES / "3")
    studio.finished_job("cancer")
    connection = http.client.HTTPConnection("127.0.0.1", stranger._place.port, timeout=30)
    connection.request("GET", "/api/events?since=0", headers={"Authorization": f"Bearer {stranger.token}"})
    answer = connection.getresponse()
    assert answer.headers["content-type"].startswith("text/event-stream")
    events: list[dict[str, Any]] = []
    while not any(event["kind"] == "job" and event["data"]["state"] == "done" for event in events):
        line = answer.readline()
        if line.startswith(b"data: "):
            events.append(json.loads(line[6:]))
    connection.close()
    assert [event["seq"] for event in events] == sorted({event["seq"] for event in events})
    kinds = [event["kind"] for event in events]
    assert kinds.index("version") < kinds.index("variant")
    last = events[-1]["seq"]
    resumed = studio.client.events(since=last - 1)
    assert next(resumed).seq == last


def test_official_triton_client_speaks_to_the_endpoint(studio: RunningEngine) -> None:
    import numpy as np
    from tritonclient.http import InferenceServerClient, InferInput

    studio.drop(SAMPLES / "3")
    assert studio.registered_version("cancer") == 1
    client = InferenceServerClient(urlsplit(studio.url).netloc)
    assert client.is_server_live()
    assert client.is_model_ready("cancer")
    assert client.get_model_metadata("cancer")["inputs"][0]["shape"] == [-1, 30]
    samples = np.load(SAMPLES / "3" / "cancer.npz")
    rows = samples["features"][:50].astype(np.float32)
    tensor = InferInput("features", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows)
    answer = client.infer("cancer", [tensor])
    assert (answer.as_numpy("label") == samples["labels"][:50]).mean() > 0.9
    until(lambda: client.get_inference_statistics("cancer")["model_stats"][0]["inference_count"] >= 50, "statistics")
    client.close()
