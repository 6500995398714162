"""Serve: routes, live traffic, the newest requests, and how to call what is chosen."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import DataTable, Static, TabbedContent, TabPane

from studio.core.metrics import Point, RequestLine
from studio.core.names import LATEST, PRODUCTION, REFERENCE_VARIANT
from studio.core.recording import recording_words
from studio.core.views import CallExample, RouteDetail, VersionPage, VersionRow
from studio.tui import messages, moves, text
from studio.tui.charts.live import LiveChart, Series
from studio.tui.screens.base import Handler, View
from studio.tui.state import with_points
from studio.tui.widgets.empty import Empty
from studio.tui.widgets.route_text import part_of, route_content
from studio.tui.widgets.tables import Cell, Column, Table

ROUTES = 500
COLUMNS = (
    Column("name", "route", 0),
    Column("target", "answers", 10),
    Column("rate", "req/s", 6, right=True),
    Column("p50", "p50 ms", 7, right=True, need=46),
    Column("p99", "p99 ms", 7, right=True, need=54),
    Column("errors", "errors/s", 8, right=True, need=62),
)
PANES = ("requests", "route", "curl", "python", "javascript")


@dataclass(frozen=True)
class Route:
    """A name that answers, and the full reference behind it. `part`: of the requests for the bare name, in words."""

    name: str
    target: str
    part: str = ""


def routes_of(rows: tuple[VersionRow, ...], details: Mapping[str, RouteDetail] | None = None) -> list[Route]:
    """Routes by model: the bare name first, then aliases. The bare name answers with production, else the newest.

    A split or a shadow is told beside the names that take part in it; those that are no aliases come last.
    """
    models: dict[str, list[VersionRow]] = {}
    for row in rows:
        models.setdefault(row.model, []).append(row)
    found: list[Route] = []
    for model, versions in sorted(models.items()):
        named = {
            alias: f"{model}:{row.version}-{variant.variant}"
            for row in versions
            for variant in row.variants
            for alias in variant.aliases
        }
        newest = next((row for row in versions if row.latest), max(versions, key=lambda row: row.version))
        latest = f"{model}:{newest.version}-{REFERENCE_VARIANT}"
        found.append(Route(model, named.get(PRODUCTION, latest)))
        found += [Route(f"{model}:{alias}", target) for alias, target in sorted(named.items()) if alias != LATEST]
        found.append(Route(f"{model}:{LATEST}", latest))
    return _spread(found, details) if details else found


def _spread(routes: list[Route], details: Mapping[str, RouteDetail]) -> list[Route]:
    spread: list[Route] = []
    for route in routes:
        model, _, alias = route.name.partition(":")
        detail = details.get(model)
        split = not alias and detail is not None and bool(detail.arms[0].name)
        spread.append(replace(route, part="split" if split else part_of(detail, alias)))
        if alias == LATEST and detail is not None:
            known = {each.name for each in spread}
            named = [(arm.name, arm.target) for arm in detail.arms] + [(detail.shadow_name, detail.shadow)]
            for name, target in named:
                if name and f"{model}:{name}" not in known:
                    known.add(f"{model}:{name}")
                    spread.append(Route(f"{model}:{name}", target, part_of(detail, name)))
    return spread


class ServeView(View):
    SCREEN = "serve"
    PANES = ("serve-top", "serve-low")
    TOPICS = (
        messages.TrafficChanged,
        messages.RequestsChanged,
        messages.RegistryChanged,
        messages.ClockTicked,
        messages.StatusChanged,
    )

    def __init__(self) -> None:
        super().__init__()
        self._routes: list[Route] = []
        self._details: dict[str, RouteDetail] = {}
        self._asked = False
        self._example: CallExample | None = None

    def compose(self) -> ComposeResult:
        with Vertical(classes="panes stacked"):
            with Horizontal(id="serve-top"):
                with Vertical(id="serve-routes", classes="pane"):
                    yield Table(COLUMNS, id="routes")
                    yield Empty(id="serve-empty")
                with Vertical(id="serve-charts"):
                    with Horizontal(id="serve-charts-upper"):
                        with Vertical(classes="pane chart"):
                            yield LiveChart("requests", "req/s", "higher", id="chart-rate")
                        with Vertical(classes="pane chart", id="errors-pane"):
                            yield LiveChart("errors", "err/s", "lower", id="chart-errors")
                    with Vertical(classes="pane chart"):
                        yield LiveChart("latency", "ms", "lower", id="chart-latency")
            with Vertical(id="serve-low", classes="pane"), TabbedContent(initial="requests"):
                with TabPane("Newest requests", id="requests"), VerticalScroll():
                    yield Static(id="tail")
                with TabPane("Route", id="route"), VerticalScroll():
                    yield Static(id="route-text")
                for name, title in (("curl", "curl"), ("python", "Python"), ("javascript", "JavaScript")):
                    with TabPane(title, id=name), VerticalScroll():
                        yield Static(id=f"call-{name}", markup=False)

    def on_mount(self) -> None:
        self.query_one("#serve-routes").border_title = "Routes"

    def first_focus(self) -> Widget:
        return self.query_one("#routes", Table)

    def shown(self) -> None:
        self._ask_routes()
        self._ask_history()
        self._draw()

    # Asking

    def _ask_routes(self) -> None:
        client = self.studio.client
        if client is not None:
            self.ask(
                lambda: (client.versions("", "model", False, False, 0, ROUTES), client.routes()),
                self._routed,
                group="routes",
            )

    def _routed(self, found: tuple[VersionPage, Sequence[RouteDetail]]) -> None:
        page, details = found
        self._details = {detail.model: detail for detail in details}
        self._routes, self._asked = routes_of(page.rows, self._details), True
        more = f"first {len(page.rows)} of {page.total} versions" if page.total > len(page.rows) else ""
        self.query_one("#serve-routes").border_subtitle = more
        self._draw()
        self._ask_example()

    def _ask_figures(self) -> None:
        """What was seen of shadows by now, while someone looks at it."""
        client = self.studio.client
        if client is None or not any(detail.shadow for detail in self._details.values()):
            return
        if self.showing and self.query_one(TabbedContent).active == "route":
            self.ask(client.routes, self._figured, group="figures")

    def _figured(self, details: Sequence[RouteDetail]) -> None:
        self._details = {detail.model: detail for detail in details}
        self._draw_route()

    def _ask_history(self) -> None:
        """The last minutes, so that the charts do not start empty."""
        client, now = self.studio.client, time.time()
        if client is None:
            return

        def got(points: tuple[Point, ...]) -> None:
            self.store.state = with_points(self.state, {"": tuple(points)}) if points else self.state
            self._draw()

        self.ask(lambda: client.metrics("", now - 120, now, 1), got, group="history")

    def _ask_example(self) -> None:
        client, name = self.studio.client, self.chosen
        if client is None or not name or (self._example and self._example.reference == name):
            return
        self.ask(lambda: client.call(name), self._exampled, group="example")

    def _exampled(self, example: CallExample) -> None:
        self._example = example
        for language in ("curl", "python", "javascript"):
            self.query_one(f"#call-{language}", Static).update(Content(str(getattr(example, language))))

    # Drawing

    @property
    def chosen(self) -> str:
        return self.query_one("#routes", Table).chosen

    @property
    def route(self) -> Route | None:
        return next((route for route in self._routes if route.name == self.chosen), None)

    def _draw(self) -> None:
        if not self.showing:
            return
        now = time.time()
        self.query_one("#routes", Table).fill([(route.name, self._cells(route, now)) for route in self._routes])
        empty = None if self._routes or not self._asked else self._empty_words()
        self.query_one("#serve-empty", Empty).show(empty)
        self.reveal(self.query_one("#routes"), empty is None)
        self._draw_charts(now)
        self._draw_tail()
        self._draw_recording()
        self._draw_route()

    def _empty_words(self) -> Content:
        return Content.assemble(
            ("Nothing is served yet.\n\n", "bold"), self.studio.key_hint("screen.models", "to see how to add a model.")
        )

    def _cells(self, route: Route, now: float) -> dict[str, Cell]:
        series = self.state.points.get(route.target, ())
        last = series[-1] if series and now - series[-1].at < 3 else None
        model, _, alias = route.name.partition(":")
        answers = "success" if alias == PRODUCTION or not alias else "foreground"
        target = (route.target.partition(":")[2], answers)
        if route.part and not alias:
            target = (route.part, "accent")
        return {
            "name": f"  :{alias}  {route.part}" if alias else (model, "foreground bold"),
            "target": target,
            "rate": text.rate(last.requests) if last else ("0", "muted"),
            "p50": text.ms(last.p50) if last else (text.NONE, "muted"),
            "p99": text.ms(last.p99) if last else (text.NONE, "muted"),
            "errors": (text.rate(last.errors), "error") if last and last.errors else ("0", "muted"),
        }

    def _draw_charts(self, now: float) -> None:
        """All traffic together; seconds without a request count as nothing asked, not as unknown."""
        points = self.state.points.get("", ())

        def series(label: str, index: int, field: str) -> Series:
            return Series(label, index, [(point.at, getattr(point, field)) for point in points])

        charts = {
            "chart-rate": [series("all routes", 0, "requests")],
            "chart-errors": [series("all routes", 0, "errors")],
            "chart-latency": [series("p50", 0, "p50"), series("p99", 1, "p99")],
        }
        for name, lines in charts.items():
            self.query_one(f"#{name}", LiveChart).show(lines, now)

    def _draw_route(self) -> None:
        model = self.chosen.partition(":")[0]
        words = route_content(model, self._details.get(model), f"studio route {model}") if model else Content("")
        self.query_one("#route-text", Static).update(words)

    def _draw_recording(self) -> None:
        """Whoever looks at the traffic is to see that it is being kept."""
        status = self.state.status
        words = recording_words(status.recording) if status else ""
        self.query_one("#serve-low").border_subtitle = f"● recording {words}" if words else ""

    def _draw_tail(self) -> None:
        requests = self.state.requests[-60:]
        tail = self.query_one("#tail", Static)
        if not requests:
            key = self.studio.keys.label("copy.curl")
            tail.update(
                Content.assemble(
                    " No request yet.  Press ", (key, "$accent bold"), " to copy a curl command that makes one."
                )
            )
            return
        tail.update(Content("\n").join(_request(line) for line in reversed(requests)))

    # What happens

    @on(messages.TrafficChanged)
    def _traffic(self) -> None:
        self._draw()
        self._ask_figures()

    @on(messages.ClockTicked)
    @on(messages.RequestsChanged)
    def _moved(self) -> None:
        self._draw()

    @on(messages.RegistryChanged)
    @on(messages.StatusChanged)
    def _registry_changed(self) -> None:
        if self.showing:
            self._ask_routes()

    @on(DataTable.RowHighlighted)
    def _highlighted(self) -> None:
        self._ask_example()
        self._draw_route()
        self.studio.refresh_footer()

    def move_tab(self, by: int) -> None:
        tabs = self.query_one(TabbedContent)
        tabs.active = PANES[(PANES.index(tabs.active) + by) % len(PANES)]

    # Actions

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "copy.curl": Handler(lambda: moves.copy_call(self.studio, self.chosen, "curl"), self._no_route),
            "copy.python": Handler(lambda: moves.copy_call(self.studio, self.chosen, "python"), self._no_route),
            "load": Handler(
                lambda: moves.load_test(self.studio, self.route.target if self.route else ""), self._no_route
            ),
            "rollback": Handler(lambda: moves.rollback(self.studio, self.chosen.partition(":")[0]), self._no_route),
            "undo": Handler(lambda: moves.undo(self.studio), self._no_route),
            "clear": Handler(self._focus_routes),
        }

    def _load(self) -> None:
        if self.route:
            moves.load_test(self.studio, self.route.target)

    def _focus_routes(self) -> None:
        self.query_one("#routes").focus()

    def _no_route(self) -> str:
        return "" if self.chosen else "Nothing is served yet."


def _request(line: RequestLine) -> Content:
    """One line of the tail."""
    style = "$error" if line.status >= 500 else "$warning" if line.status >= 400 else "$success"
    return Content.assemble(
        (f" {text.clock(line.at)} ", "$muted"),
        (f" {line.status} ", style),
        f" {text.fit(line.target, 32):<32} {line.latency_us / 1000:8.2f} ms  ",
        (f"{line.protocol:<12}", "$muted"),
        (f" {text.plural(line.rows, 'row')}" if line.rows else "", "$muted"),
        (f" {line.error}", "$error") if line.error else "",
    )
