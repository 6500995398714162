"""Embeddings through the official clients of OpenAI and Ollama, and the poolings against plain sums."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ollama
import openai
import pytest

from studio.core.errors import Refused
from studio.core.preprocessing import Preprocessing
from studio.serving.texts import pooled, tokenise
from tests.serving import graphs
from tests.serving.harness import Child, running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embeddings")


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Child]:
    whole = graphs.sentences(folder, model="sentences", version=2)
    table = graphs.table(
        whole,
        graphs.mlp(folder, model="digits"),
        graphs.sentences(folder, Preprocessing(kind="text", tokenizer="other.json"), model="lost"),
        aliases={"production": "2-fp32"},
        pinned=("sentences:2-fp32",),
    )
    with running(folder, table) as child:
        yield child


@pytest.fixture(scope="module")
def client(served: Child) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://{served.url}/openai/v1", api_key="none", max_retries=0) as client:
        yield client


def expected(text: str) -> Any:
    table = np.random.default_rng(3).normal(size=(len(graphs.WORDS), 4)).astype(np.float32)
    rows = [table[graphs.WORDS.index(word) if word in graphs.WORDS else 1] for word in text.split()]
    mean = np.mean(rows, axis=0)
    return mean / np.linalg.norm(mean)


def test_the_client_of_openai(client: openai.OpenAI) -> None:
    texts = ["the cat sat", "the dog ran away", "cat"]
    answer = client.embeddings.create(model="sentences", input=texts)
    assert [item.index for item in answer.data] == [0, 1, 2]
    for text, item in zip(texts, answer.data, strict=True):
        np.testing.assert_allclose(item.embedding, expected(text), rtol=1e-5)
    assert (answer.usage.prompt_tokens, answer.model) == (8, "sentences")
    floats = client.embeddings.create(model="sentences:production", input="the cat sat", encoding_format="float")
    np.testing.assert_allclose(floats.data[0].embedding, answer.data[0].embedding, rtol=1e-6)
    short = client.embeddings.create(model="sentences", input="cat", dimensions=2).data[0].embedding
    np.testing.assert_allclose(short, expected("cat")[:2] / np.linalg.norm(expected("cat")[:2]), rtol=1e-5)


def test_it_lists_its_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["sentences", "digits", "lost"]
    assert client.models.retrieve("digits").owned_by == "studio"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("none")


@pytest.mark.parametrize(
    ("request_", "kind", "words"),
    [
        ({"model": "none", "input": "a"}, openai.NotFoundError, "unknown model"),
        ({"model": "digits", "input": "a"}, openai.UnprocessableEntityError, "not set up for text"),
        ({"model": "lost", "input": "a"}, openai.UnprocessableEntityError, "other.json"),
        ({"model": "sentences", "input": []}, openai.BadRequestError, "'input'"),
        ({"model": "sentences", "input": ""}, openai.BadRequestError, "empty text"),
        ({"model": "sentences", "input": ["cat", ""]}, openai.BadRequestError, "empty text"),
        ({"model": "sentences", "input": ["cat", " "]}, openai.BadRequestError, "Text 2 has no tokens"),
        ({"model": "sentences", "input": [[1, 2]]}, openai.UnprocessableEntityError, "Tokens"),
        ({"model": "sentences", "input": "a", "dimensions": 9}, openai.BadRequestError, "from 1 to 4"),
    ],
)
def test_errors_reach_the_client_as_its_own(
    client: openai.OpenAI, request_: dict[str, Any], kind: type[openai.APIStatusError], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        client.embeddings.create(**request_)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["code"]


def test_the_path_without_a_prefix(served: Child) -> None:
    status, answer = served.json("POST", "/v1/embeddings", {"model": "sentences", "input": "cat"})
    assert status == 200
    np.testing.assert_allclose(answer["data"][0]["embedding"], expected("cat"), rtol=1e-5)
    _, answer = served.json(
        "POST", "/v1/embeddings", {"model": "sentences", "input": "cat", "encoding_format": "base64"}
    )
    packed = base64.b64decode(answer["data"][0]["embedding"])
    np.testing.assert_allclose(np.frombuffer(packed, "<f4"), expected("cat"), rtol=1e-5)
    assert served.json("POST", "/v1/embeddings", {"input": "cat"})[1]["error"]["message"]
    assert served.json("GET", "/v1/embeddings")[0] == 405


def test_the_client_of_ollama(served: Child) -> None:
    client = ollama.Client(host=f"http://{served.url}")
    answer = client.embed(model="sentences", input=["the cat sat", "dog"])
    np.testing.assert_allclose(answer.embeddings[1], expected("dog"), rtol=1e-5)
    assert answer.prompt_eval_count == 4
    np.testing.assert_allclose(
        client.embeddings(model="sentences:2", prompt="dog").embedding, answer.embeddings[1], rtol=1e-6
    )
    assert [model.model for model in client.list().models] == ["sentences", "lost"]
    assert "sentences" in [model.model for model in client.ps().models]
    with pytest.raises(ollama.ResponseError, match="unknown model") as caught:
        client.embed(model="none", input="a")
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="does not generate"):
        client.generate(model="sentences", prompt="Why?")


def test_ollama_answers_no_text_with_no_vector_and_loads_the_model(served: Child) -> None:
    client = ollama.Client(host=f"http://{served.url}")
    for nothing in ("", []):
        assert list(client.embed(model="sentences", input=nothing).embeddings) == []
    for body in ({}, {"input": None}, {"prompt": None}):
        answer = served.json("POST", "/api/embed", {"name": "sentences", **body})
        assert answer == (200, {"model": "sentences", "embeddings": []})
        assert served.json("POST", "/api/embeddings", {"name": "sentences", **body}) == (200, {"embedding": []})
    assert list(client.embeddings(model="sentences", prompt="").embedding) == []
    with pytest.raises(ollama.ResponseError, match="Text 2 has no tokens"):
        client.embed(model="sentences", input=["cat", ""])
    with pytest.raises(ollama.ResponseError, match="unknown model"):
        client.embed(model="none", input="")
    with pytest.raises(ollama.ResponseError, match="not set up for text"):
        client.embed(model="digits", input="")


def loaded(server: Child) -> bool:
    return any(row["model"] == "sentences" for row in server.json("GET", "/api/ps")[1]["models"])


@pytest.mark.parametrize("path", ["/api/embed", "/api/embeddings"])
@pytest.mark.parametrize("text", ["the cat sat", ""])
@pytest.mark.parametrize(
    ("kept", "stays"),
    [
        *((kept, False) for kept in (0, "0", "0s", 0.5, "0h0m0.0s", "-0s")),
        *((kept, True) for kept in (None, 300, -1, "5m", "-1m", "1.5h", "0.4s", "10us")),
    ],
)
def test_a_model_is_unloaded_behind_its_request_where_ollama_unloads_it(
    served: Child, path: str, text: str, kept: Any, stays: bool
) -> None:
    served.json("POST", "/api/embed", {"model": "sentences", "input": ""})
    assert loaded(served)
    document = {"model": "sentences:2", "input" if path == "/api/embed" else "prompt": text, "keep_alive": kept}
    status, answer = served.json("POST", path, document)
    vectors = answer["embeddings"] if path == "/api/embed" else [answer["embedding"]] if answer["embedding"] else []
    assert (status, len(vectors)) == (200, bool(text))
    assert loaded(served) is stays
    assert served.json("POST", path, document | {"keep_alive": None})[0] == 200
    assert loaded(served)


def test_ollamas_client_unloads_and_a_failed_request_does_too(served: Child) -> None:
    client = ollama.Client(host=f"http://{served.url}")
    np.testing.assert_allclose(client.embed("sentences", "dog", keep_alive=0).embeddings[0], expected("dog"), rtol=1e-5)
    assert not loaded(served)
    with pytest.raises(ollama.ResponseError, match="no tokens"):
        client.embed("sentences", " ", keep_alive="0")
    assert not loaded(served)
    for kept in ("soon", "5", True, [0], "s", "1m 2s"):
        status, answer = served.json("POST", "/api/embed", {"model": "sentences", "input": "cat", "keep_alive": kept})
        assert (status, "'keep_alive'" in answer["error"]) == (400, True), kept
    assert served.json("POST", "/api/embed", {"model": "none", "input": "cat", "keep_alive": 0})[0] == 404


@pytest.mark.parametrize("path", ["/v1/embeddings", "/openai/v1/embeddings", "/api/embed", "/api/embeddings"])
def test_null_is_what_was_not_chosen(served: Child, path: str) -> None:
    document = {"model": "sentences", "prompt": "cat"} if path.endswith("ings") else {"model": "sentences"}
    document["input"] = "cat"
    names = ("encoding_format", "dimensions", "user", "keep_alive", "truncate", "options")
    status, answer = served.json("POST", path, document | dict.fromkeys(names))
    plain = served.json("POST", path, document)[1]
    for each in (answer, plain):
        for name in [name for name in each if name.endswith("duration")]:
            del each[name]
    assert (status, answer) == (200, plain)


def test_what_ollama_shows_of_a_model(served: Child, folder: Path) -> None:
    client = ollama.Client(host=f"http://{served.url}")
    shown = client.show("sentences:2")
    assert shown.modelinfo is not None
    assert shown.modelinfo["sentences.embedding_length"] == 4
    assert shown.capabilities == ["embedding"]
    assert client.show("lost").modelinfo
    assert client.show("digits").capabilities == []
    sizes = [model.size for model in client.list().models]
    files = sum((folder / name).stat().st_size for name in ("sentences.onnx", "tokenizer.json"))
    assert sizes[0] == files
    (running_,) = [model for model in client.ps().models if model.model == "sentences"]
    assert running_.size is not None
    assert running_.size >= (folder / "sentences.onnx").stat().st_size
    assert running_.expires_at is not None


def test_openais_client_gets_words_under_v1_too(served: Child) -> None:
    with openai.OpenAI(base_url=f"http://{served.url}/v1", api_key="none", max_retries=0) as client:
        assert client.models.retrieve("sentences").id == "sentences"
        with pytest.raises(openai.NotFoundError, match="nope") as caught:
            client.models.retrieve("nope")
        assert isinstance(caught.value.body, dict)
        assert caught.value.body["type"] == "not_found_error"
    for base in ("/v1", "/openai/v1"):
        with openai.OpenAI(base_url=f"http://{served.url}{base}", api_key="none", max_retries=0) as client:
            message: Any = {"role": "user", "content": "Hello"}
            with pytest.raises(openai.NotFoundError, match="does not generate") as caught:
                client.chat.completions.create(model="sentences", messages=[message])
            assert isinstance(caught.value.body, dict)
    assert isinstance(served.json("GET", "/v1/models/nope")[1]["error"], str)  # as TensorFlow Serving's clients have it


def test_requests_are_counted(tmp_path: Path) -> None:
    with running(tmp_path, graphs.table(graphs.sentences(tmp_path, model="s"))) as server:
        body = json.dumps({"model": "s", "input": ["cat", "dog"]}).encode()
        for path in ("/openai/v1/embeddings", "/api/embed"):
            assert server.request("POST", path, body)[0] == 200
        server.request("POST", "/api/embed", b'{"model": "none", "input": "a"}')

        def lines() -> list[Any]:
            return [line for said in server.said("requests") for line in said["lines"]]

        server.wait_for(lambda: len(lines()) > 1, "the request lines")
        assert [(line["protocol"], line["status"]) for line in lines()][:2] == [("openai", 200), ("ollama", 200)]


HIDDEN = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
MASK = np.array([[True, True, False], [True, True, True]])


@pytest.mark.parametrize(
    ("pooling", "rows"),
    [
        ("mean", [HIDDEN[0, :2].mean(axis=0), HIDDEN[1].mean(axis=0)]),
        ("max", [HIDDEN[0, 1], HIDDEN[1, 2]]),
        ("cls", [HIDDEN[0, 0], HIDDEN[1, 0]]),
        ("last", [HIDDEN[0, 1], HIDDEN[1, 2]]),
    ],
)
def test_padding_takes_no_part(pooling: Any, rows: list[Any]) -> None:
    how = Preprocessing(kind="text", pooling=pooling)
    np.testing.assert_array_equal(pooled(HIDDEN, MASK, how), np.array(rows))
    lengths = np.linalg.norm(pooled(HIDDEN, MASK, replace(how, normalise=True)), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-6)


def test_token_vectors_without_a_pooling_are_refused() -> None:
    with pytest.raises(Refused, match="pooling"):
        pooled(HIDDEN, MASK, Preprocessing(kind="text"))


def test_long_texts_are_cut_or_refused(tmp_path: Path) -> None:
    how = Preprocessing(kind="text", tokenizer="tokenizer.json", attention_mask="attention_mask", max_length=2)
    target = graphs.sentences(tmp_path, how)
    assert tokenise(target, ["the cat sat", "dog"]).inputs["input_ids"].tolist() == [[2, 3], [4, 0]]
    with pytest.raises(Refused, match="takes 2 tokens"):
        tokenise(target, ["the cat sat"], truncate=False)
