"""The factory of docs/howto/weights.md does what that page says."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.pipeline.torch_intake import check, inputs, take

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "weights.md"


def test_the_factory_of_the_page_works(tmp_path: Path) -> None:
    text = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    scope: dict[str, object] = {"__name__": "page"}
    exec(text, scope)
    network = scope["model"]().eval()  # type: ignore[operator]
    save_file(network.state_dict(), tmp_path / "digits.safetensors")
    (tmp_path / "digits.py").write_text(text)
    result = take(tmp_path / "digits.safetensors", tmp_path / "digits.py", trusted=True)
    assert inputs(result) == ["image FP32 [batch × 1 × 28 × 28]"]
    check(result, network, torch.rand(3, 1, 28, 28))
