"""A small real HTTP server that speaks enough of the Open Inference Protocol, with planted delays."""

import asyncio
import json
from contextlib import asynccontextmanager


class Stub:
    """`behaviour(path, count)` gives (delay in seconds, status) of a request; counts are by path."""

    def __init__(self, behaviour):
        self.behaviour = behaviour
        self.counts = {}
        self.bodies = {}
        self.connections = 0
        self.url = ""
        self.split = False
        self.hang_up = set()

    async def serve(self, reader, writer):
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                lines = head.split("\r\n")
                path = lines[0].split()[1]
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:] if line)}
                body = await reader.readexactly(int(headers["content-length"]))
                count = self.counts[path] = self.counts.get(path, 0) + 1
                self.bodies.setdefault(path, []).append((body, int(headers["inference-header-content-length"])))
                if count in self.hang_up:
                    return
                delay, status = self.behaviour(path, count)
                await asyncio.sleep(delay)
                answer = json.dumps({"outputs": []} if status == 200 else {"error": "planted"}).encode()
                head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(answer)}\r\n\r\n".encode()
                if self.split:
                    for part in (head[:5], head[5:-2], head[-2:] + answer[:3], answer[3:]):
                        writer.write(part)
                        await writer.drain()
                        await asyncio.sleep(0.001)
                else:
                    writer.write(head + answer)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def stub_server(behaviour):
    stub = Stub(behaviour)
    server = await asyncio.start_server(stub.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    stub.url = f"http://127.0.0.1:{port}"
    try:
        yield stub
    finally:
        server.close()
