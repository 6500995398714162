"""`/docs` in a real browser's eyes, and the OpenAPI document as a fuzzer reads it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from studio.core.preprocessing import Preprocessing
from studio.serving import pages
from tests.serving import graphs
from tests.serving.harness import Child, running

EXAMPLES = os.environ.get("STUDIO_FUZZ_EXAMPLES", "5")
"""Requests that the fuzzer makes up for each operation."""


IMAGE = {"x": Preprocessing(kind="image")}
JSON = {"content-type": "application/json"}
MODELS = ("digits", "simple", "sentences", "words", "flags", "whole", "pixels")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    folder = tmp_path_factory.mktemp("pages")
    table = graphs.table(
        graphs.mlp(folder, model="digits", labels=tuple("0123456789")),
        graphs.add_and_subtract(folder, model="simple"),
        graphs.sentences(folder, model="sentences"),
        graphs.identity(folder, "BYTES", ("n",), model="words"),
        graphs.identity(folder, "BOOL", ("n", 2), model="flags"),
        graphs.identity(folder, "UINT64", ("n",), model="whole"),
        graphs.identity(folder, "FP32", ("n", 3, 2, 2), model="pixels", preprocessing=IMAGE),
        aliases={},
    )
    with running(folder, table) as child:
        yield child


def test_the_page_needs_nothing_from_elsewhere(served: Child) -> None:
    for name, kind in (("", "text/html"), ("/docs.css", "text/css"), ("/docs.js", "text/javascript")):
        status, headers, body = served.request("GET", f"/docs{name}")
        assert (status, headers["content-type"].partition(";")[0]) == (200, kind)
        assert headers["content-security-policy"].startswith("default-src 'self'")
        text = body.decode()
        assert "http://" not in text.replace("http://127.0.0.1", "")
        assert "https://" not in text
        assert "innerHTML" not in text
    assert served.request("GET", "/docs/../app.py")[0] == 404
    assert served.request("GET", "/docs/%2e%2e%2fapp.py")[0] == 404
    assert served.request("POST", "/docs")[0] == 405


@pytest.mark.parametrize("model", MODELS)
def test_the_example_of_each_model_is_answered(served: Child, model: str) -> None:
    status, _, example = served.request("GET", f"/predict/{model}")
    assert status == 200
    status, answer = served.json("POST", f"/predict/{model}", json.loads(example))
    assert (status, answer["model"]) == (200, model), answer


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_what_the_page_sends_is_answered(served: Child) -> None:
    """The page's own script, in node: its button and its choice of files, against the server."""
    row = [0.5] * 64
    line = ",".join(map(str, row))
    same: list[tuple[str, str | None, str | None, object]] = [  # model, text, type of a file, the same in JSON
        *((name, None, None, served.json("GET", f"/predict/{name}")[1]) for name in MODELS),
        ("digits", json.dumps(row), None, row),
        ("digits", line, None, row),
        ("digits", line, "text/csv", row),
        ("digits", json.dumps([row, row]), "application/json", [row, row]),
        ("digits", json.dumps(row), "", row),
        ("sentences", "the cat sat", None, "the cat sat"),
        ("sentences", '"the cat sat"', None, "the cat sat"),
        ("sentences", "42", None, "42"),
        ("sentences", "[the] cat", "text/plain", "[the] cat"),
        ("words", '{"x": ["a", "b"]}', None, ["a", "b"]),
        ("whole", "[18446744073709551615, 9007199254740993]", None, [2**64 - 1, 2**53 + 1]),
    ]
    page, script = Path(__file__).parent / "page.mjs", Path(pages.__file__).parent / "web" / "docs.js"
    sendings = json.dumps([each[:3] for each in same])
    done = subprocess.run(
        ["node", page, f"http://{served.url}", script, sendings], capture_output=True, text=True, timeout=60, check=True
    )
    for (model, text, _, value), shown in zip(same, json.loads(done.stdout), strict=True):
        status, _, answer = shown.partition("\n")
        assert status.startswith("200 · "), (model, text, shown)
        assert json.loads(answer) == served.json("POST", f"/predict/{model}", value, JSON)[1], (model, text)


def test_the_document_follows_what_is_served(served: Child) -> None:
    document = served.json("GET", "/openapi.json")[1]
    assert document["openapi"] == "3.1.0"
    body = document["paths"]["/predict/digits"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["anyOf"][0]["properties"]["x"]["items"]["minItems"] == 64
    assert "image/png" in document["paths"]["/predict/pixels"]["post"]["requestBody"]["content"]
    assert "/openai/v1/embeddings" in document["paths"]


def test_no_request_that_the_document_allows_or_forbids_breaks_the_server(tmp_path: Path) -> None:
    table = graphs.table(graphs.mlp(tmp_path, model="digits"), graphs.sentences(tmp_path, model="sentences"))
    with running(tmp_path, table) as server:
        fuzz(server, tmp_path)
        assert server.json("GET", "/v2/health/live")[0] == 200


def fuzz(server: Child, tmp_path: Path) -> None:
    command = [
        *(str(Path(sys.executable).parent / "schemathesis"), "run", f"http://{server.url}/openapi.json"),
        *("--max-examples", EXAMPLES, "--workers", "1", "--no-color"),
        # Whether the numbers of a tensor belong to its shape is beyond what a schema can say.
        *("--exclude-checks", "positive_data_acceptance,negative_data_rejection"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-4000:]
