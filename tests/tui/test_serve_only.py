"""A version of a graph that nothing is known of: every face says so, and none counts zeros."""

from __future__ import annotations

from dataclasses import replace

from studio.cli.commands.models import version_text as cli_text
from studio.core.manifest import FileRef, Graph
from studio.core.views import VersionDetail
from studio.tui.widgets import version_text
from tests.client.values import version_detail

WHY = "An .ort file can be run, and nothing else."


def bare() -> VersionDetail:
    """What becomes of an .ort file whose facts could not be read, and whose answers change from run to run."""
    detail = version_detail()
    graph = Graph(file=FileRef(name="model.ort", sha256="a" * 64, size=1000))
    parity = replace(detail.manifest.parity, outputs=())
    manifest = replace(detail.manifest, graph=graph, parity=parity, serve_only=WHY)
    return replace(detail, manifest=manifest)


def test_the_terminal_says_why_there_is_no_graph_to_show() -> None:
    detail = bare()
    graph = version_text.graph(detail, 60, "o").plain
    assert "No operators are known" in graph
    assert WHY in graph
    assert "0 nodes" not in graph
    assert "ONNX Runtime format\n" in version_text.lineage(detail).plain
    overview = version_text.overview(detail, 0.0).plain
    assert WHY in overview
    assert "0 parameters" not in overview
    assert "shapes and types alone" in overview


def test_the_command_line_says_it_too() -> None:
    words = cli_text(bare())
    assert "parameters and opset not known" in words
    assert WHY in words
    assert "shapes and types alone" in words
    assert "opset 0" not in words
