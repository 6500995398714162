"""What a user of Triton's asyncio clients does: `python triton_aio_client.py HTTP_PORT GRPC_PORT`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import tritonclient.grpc.aio as over_grpc
import tritonclient.http.aio as over_http
from tritonclient.utils import InferenceServerException

ROWS = np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64)
MANY = 40


def feed(kind: Any, name: str, array: np.ndarray, datatype: str) -> Any:
    tensor = kind.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


async def talk(kind: Any, address: str) -> list[np.ndarray]:
    """Everything that both have in common; the answers of requests that were under way together."""
    async with kind.InferenceServerClient(address) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("digits", "3")
        assert not await client.is_model_ready("nobody") if kind is over_http else True
        metadata = await client.get_model_metadata("digits")
        assert (metadata["name"] if kind is over_http else metadata.name) == "digits"
        await client.get_model_config("digits")
        await client.get_inference_statistics("digits")
        results = await asyncio.gather(
            *(
                client.infer("digits", [feed(kind, "x", ROWS * number, "FP32")], request_id=str(number))
                for number in range(MANY)
            )
        )
        ones = np.ones((1, 16), np.int32)
        both = [feed(kind, "INPUT0", ones * 5, "INT32"), feed(kind, "INPUT1", ones, "INT32")]
        wanted = [kind.InferRequestedOutput("OUTPUT1")]
        difference = await client.infer("simple", both, outputs=wanted)
        assert (difference.as_numpy("OUTPUT1") == 4).all()
        assert difference.as_numpy("OUTPUT0") is None
        try:
            await client.infer("nobody", [feed(kind, "x", ROWS, "FP32")])
        except InferenceServerException as error:
            assert "unknown model: 'nobody'" in str(error.message())
        else:
            raise AssertionError("an unknown model answered")
    return [result.as_numpy("y") for result in results]


async def stream(address: str) -> list[np.ndarray]:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number in range(MANY):
            yield {
                "model_name": "digits",
                "inputs": [feed(over_grpc, "x", ROWS * number, "FP32")],
                "request_id": str(number),
                "enable_empty_final_response": True,
            }

    answers = []
    async with over_grpc.InferenceServerClient(address) as client:
        async for result, error in client.stream_infer(requests()):
            assert error is None
            response = result.get_response()
            assert response.id == str(len(answers))
            assert response.parameters["triton_final_response"].bool_param
            answers.append(result.as_numpy("y"))
    return answers


async def main(http_port: str, grpc_port: str) -> None:
    first = await talk(over_http, f"127.0.0.1:{http_port}")
    second = await talk(over_grpc, f"127.0.0.1:{grpc_port}")
    third = await stream(f"127.0.0.1:{grpc_port}")
    assert len(first) == len(second) == len(third) == MANY
    for one, other, last in zip(first, second, third, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-30)
        np.testing.assert_allclose(one, last, rtol=1e-5, atol=1e-30)
    assert not np.allclose(first[1], first[2])
    print("all answered alike")


asyncio.run(main(*sys.argv[1:]))
