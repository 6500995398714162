"""The "call it" text: one request that runs as shown, in three languages."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from urllib.parse import quote

from studio.core.names import Reference
from studio.core.views import CallExample

INLINE_BYTES = 2000


def infer_url(base: str, reference: Reference) -> str:
    """The Open Inference Protocol URL of a reference: the part behind the colon stands in the version's place."""
    tail = str(reference).partition(":")[2]
    version = f"/versions/{quote(tail)}" if tail else ""
    return f"{base}/v2/models/{quote(reference.model)}{version}/infer"


def call_example(base: str, reference: Reference, body: bytes, body_file: Path) -> CallExample:
    """Examples for `body`, an OIP v2 request. A body too long for a command line is read from `body_file`."""
    url = infer_url(base, reference)
    text = body.decode()
    short = len(body) <= INLINE_BYTES
    data = shlex.quote(text) if short else f"@{shlex.quote(str(body_file))}"
    # JSON is valid JavaScript, and valid Python but for three words.
    load = f"json.loads({text!r})" if short else f"json.load(open({str(body_file)!r}))"
    read = f"JSON.stringify({text})" if short else f'await readFile({json.dumps(str(body_file))}, "utf8")'
    head = "" if short else 'import { readFile } from "node:fs/promises";\n'
    return CallExample(
        reference=str(reference),
        url=url,
        body=text,
        curl=f"curl -s {shlex.quote(url)} -H 'Content-Type: application/json' -d {data}",
        python=(
            "import json, urllib.request\n\n"
            f"body = {load}\n"
            f"request = urllib.request.Request({url!r}, json.dumps(body).encode())\n"
            "print(json.load(urllib.request.urlopen(request))['outputs'])\n"
        ),
        javascript=(
            f"{head}const answer = await fetch({json.dumps(url)}, {{\n"
            '  method: "POST",\n'
            f"  body: {read},\n"
            "});\n"
            "console.log((await answer.json()).outputs);\n"
        ),
    )
