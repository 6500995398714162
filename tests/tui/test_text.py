"""Figures as people read them."""

from __future__ import annotations

from studio.tui import text


def test_sizes() -> None:
    assert [text.size(n) for n in (0, 999, 1234, 412_000, 999_600, 24_100_000, 5e12, None)] == [
        "0 B", "999 B", "1.2 kB", "412 kB", "1.0 MB", "24.1 MB", "5.0 TB", "–",
    ]  # fmt: skip


def test_fidelity_is_never_rounded_up_to_one() -> None:
    assert text.cosine(0.9999999) == "0.99999"
    assert text.cosine(1.0) == "1"
    assert text.cosine(0.98765) == "0.9877"


def test_milliseconds_rates_and_durations() -> None:
    assert [text.ms(v) for v in (0.0412, 0.412, 4.12, 41.2, 412.0, None)] == [
        "0.041",
        "0.41",
        "4.12",
        "41.2",
        "412",
        "–",
    ]
    assert [text.rate(v) for v in (0, 0.5, 41.4, 12_345)] == ["0", "0.5", "41", "12.3k"]
    assert [text.duration(v) for v in (0.42, 12, 185, 7800)] == ["0.4 s", "12 s", "3 min 05 s", "2 h 10 min"]


def test_ago() -> None:
    assert text.ago("2026-11-21T04:08:00Z", 1_795_234_080 + 7300) == "2 h ago"
    assert text.ago("2026-11-21T04:08:00Z", 1_795_234_080 + 5) == "just now"
    assert text.ago("long ago", 0) == "long ago"


def test_bars_read_without_colour() -> None:
    assert text.bar(0.5, 8) == "━━━━╌╌╌╌"
    assert text.bar(7, 4) == "━━━━"
