"""What a user of KServe's SDK does, run with its own interpreter: `python kserve_client.py HTTP_PORT GRPC_PORT`.

Not imported by any test: KServe wants other versions of packages than Studio does.
"""

from __future__ import annotations

import asyncio
import sys

import numpy as np
from kserve import (  # type: ignore[import-not-found]
    InferenceGRPCClient,
    InferenceRESTClient,
    InferInput,
    InferRequest,
    RESTConfig,
)

ROWS = np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64)


def request(binary: bool = True) -> InferRequest:
    tensor = InferInput("x", [2, 64], "FP32")
    tensor.set_data_from_numpy(ROWS, binary_data=binary)
    return InferRequest(model_name="digits", infer_inputs=[tensor], request_id="seven")


def check(answer: object) -> np.ndarray:
    assert (answer.model_name, answer.id) == ("digits", "seven"), vars(answer)  # type: ignore[attr-defined]
    (output,) = answer.outputs  # type: ignore[attr-defined]
    array: np.ndarray = output.as_numpy()
    assert array.shape == (2, 10)
    return array


async def refused(call: object, words: str) -> None:
    try:
        await call  # type: ignore[misc]
    except Exception as error:
        assert words in str(error), error
    else:
        raise AssertionError(f"not refused: {words}")


async def v2(url: str) -> list[np.ndarray]:
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    assert await client.is_server_live(url)
    assert await client.is_server_ready(url)
    assert await client.is_model_ready(url, "digits")
    assert not await client.is_model_ready(url, "nobody")
    answers = [check(await client.infer(url, request(binary), model_name="digits")) for binary in (True, False)]
    await refused(client.infer(url, request(), model_name="nobody"), "unknown model: 'nobody'")
    await client.close()
    return answers


async def v1(url: str) -> np.ndarray:
    client = InferenceRESTClient(RESTConfig(protocol="v1", retries=0))
    assert await client.is_server_live(url)
    assert await client.is_model_ready(url, "digits")
    answer = await client.infer(url, {"instances": ROWS.tolist()}, model_name="digits")
    await client.close()
    return np.array(answer["predictions"], np.float32)


async def v2_grpc(address: str) -> np.ndarray:
    client = InferenceGRPCClient(url=address, retries=0)
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("digits")
    array = check(await client.infer(request()))
    unknown = request()
    unknown.model_name = "nobody"
    await refused(client.infer(unknown), "unknown model: 'nobody'")
    await client.close()
    return array


async def main(http_port: str, grpc_port: str) -> None:
    url = f"http://127.0.0.1:{http_port}"
    found = [*await v2(url), await v1(url), await v2_grpc(f"127.0.0.1:{grpc_port}")]
    for array in found[1:]:
        np.testing.assert_allclose(array, found[0], rtol=1e-5, atol=1e-30)
    print("all answered alike")


asyncio.run(main(*sys.argv[1:]))
