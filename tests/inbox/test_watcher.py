"""The inbox against a real folder: waits for conditions, never for luck."""

import asyncio
import errno
import hashlib
import os
import shutil
import zipfile
from collections.abc import Callable
from contextlib import asynccontextmanager

import pytest

from studio.core.settings import InboxSettings
from studio.inbox.watcher import Arrived, Changed, Gone, Inbox, Left, Noticed, Settled

FAST = InboxSettings(settle_seconds=0.1, patience_seconds=1.0, rescan_seconds=3600.0)


class Told(list):
    def of(self, kind):
        return [event for event in self if isinstance(event, kind)]

    def settled(self, stem):
        return [event.arrival for event in self.of(Settled) if event.arrival.stem == stem]


async def until(condition: Callable[[], object], seconds: float = 20.0):
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - any condition, not one event
            await asyncio.sleep(0.01)


@asynccontextmanager
async def watching(folder, settings=FAST, **more):
    told = Told()
    inbox = Inbox(folder, settings, told.append, **more)
    told.inbox = inbox
    await inbox.start()
    try:
        yield told
    finally:
        await inbox.stop()


def zip_bytes(tmp_path, content=b"weights") -> bytes:
    path = tmp_path / "made.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", content)
    return path.read_bytes()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


async def test_a_drop_is_told_and_settles_with_its_digest(folder):
    async with watching(folder) as told:
        (folder / "digits.toml").write_text("")
        (folder / "digits.bin").write_bytes(b"model")
        await until(lambda: told.settled("digits"))
    arrival = told.settled("digits")[-1]
    hashes = {"digits.bin": hashlib.sha256(b"model").hexdigest(), "digits.toml": hashlib.sha256(b"").hexdigest()}
    lines = "".join(f"{name}:{digest}\n" for name, digest in sorted(hashes.items()))
    assert [path.name for path in arrival.files] == sorted(hashes)
    assert list(arrival.hashes) == [hashes[path.name] for path in arrival.files]
    assert arrival.digest == hashlib.sha256(lines.encode()).hexdigest()
    assert arrival.complete and arrival.folder is None and arrival.size == 5
    assert isinstance(told.of((Arrived, Settled))[0], Arrived)


async def test_what_lay_there_before_the_start_is_found(folder):
    (folder / "a.bin").write_bytes(b"1")
    async with watching(folder) as told:
        await until(lambda: told.settled("a"))


async def test_known_files_are_neither_told_nor_read(folder):
    (folder / "a.bin").write_bytes(b"1")
    async with watching(folder) as first:
        await until(lambda: first.settled("a"))
    done = {first.settled("a")[0].fingerprint}
    async with watching(folder, known=done.__contains__) as told:
        (folder / "b.bin").write_bytes(b"2")
        await until(lambda: told.settled("b"))
        assert {event.key for event in told.of((Arrived, Settled))} == {"b"}
        (folder / "a.bin").write_bytes(b"new")
        await until(lambda: told.settled("a"))


async def test_a_slow_copy_settles_once_and_whole(folder, tmp_path):
    data = zip_bytes(tmp_path, bytes(50_000))
    async with watching(folder) as told:
        with (folder / "slow.pt2").open("wb") as file:
            for start in range(0, len(data), 10_000):
                file.write(data[start : start + 10_000])
                file.flush()
                await asyncio.sleep(0.15)  # longer than it takes to settle: only the content tells
        await until(lambda: told.settled("slow"))
    assert [arrival.size for arrival in told.settled("slow")] == [len(data)]
    assert told.settled("slow")[0].complete


async def test_a_file_cut_short_is_handed_over_after_patience(folder, tmp_path):
    async with watching(folder) as told:
        (folder / "cut.pt2").write_bytes(zip_bytes(tmp_path)[:-10])
        await until(lambda: told.settled("cut"))
    assert not told.settled("cut")[0].complete


async def test_atomic_rename_and_overwrite_give_a_new_digest_each(folder):
    async with watching(folder) as told:
        (folder / ".a.bin.tmp").write_bytes(b"one")
        (folder / ".a.bin.tmp").rename(folder / "a.bin")
        await until(lambda: len(told.settled("a")) == 1)
        (folder / ".second").write_bytes(b"two")
        (folder / ".second").replace(folder / "a.bin")
        await until(lambda: len(told.settled("a")) == 2)
        (folder / "a.bin").write_bytes(b"three")
        await until(lambda: len(told.settled("a")) == 3)
    assert len({arrival.digest for arrival in told.settled("a")}) == 3
    assert told.of(Changed)[0].was_settled


async def test_deleted_half_way_is_gone_and_never_settles(folder, tmp_path):
    async with watching(folder) as told:
        (folder / "half.pt2").write_bytes(zip_bytes(tmp_path)[:-10])
        await until(lambda: told.of(Arrived))
        (folder / "half.pt2").unlink()
        await until(lambda: told.of(Gone))
        assert not told.of(Gone)[0].was_settled
    assert not told.settled("half")


async def test_a_rename_is_one_gone_and_one_new(folder):
    async with watching(folder) as told:
        (folder / "old.bin").write_bytes(b"1")
        await until(lambda: told.settled("old"))
        (folder / "old.bin").rename(folder / "new.bin")
        await until(lambda: told.settled("new") and told.of(Gone))
        assert told.of(Gone)[0].key == "old" and told.of(Gone)[0].was_settled


async def test_a_folder_copied_file_by_file_is_one_arrival(folder):
    async with watching(folder) as told:
        (folder / "net" / "variables").mkdir(parents=True)
        for place in range(4):
            (folder / "net" / "variables" / f"v{place}").write_bytes(bytes([place]))
            await asyncio.sleep(0.03)
        (folder / "net" / "saved_model.pb").write_bytes(b"graph")
        await until(lambda: told.settled("net") and len(told.settled("net")[-1].files) == 5)
        (folder / "net" / "variables" / "v0").write_bytes(b"changed inside")
        before = len(told.settled("net"))
        await until(lambda: len(told.settled("net")) > before)
        assert told.settled("net")[-1].folder == folder / "net"
        shutil.rmtree(folder / "net")
        await until(lambda: told.of(Gone))


async def test_links_are_left_alone_with_a_reason_told_once(folder, tmp_path):
    (tmp_path / "outside.bin").write_bytes(b"secret")
    (folder / "link.bin").symlink_to(tmp_path / "outside.bin")
    async with watching(folder) as told:
        (folder / "a.bin").write_bytes(b"1")
        await until(lambda: told.settled("a"))
    assert [event.skipped.name for event in told.of(Left)] == ["link.bin"]
    assert "link" in told.of(Left)[0].skipped.reason
    assert not told.settled("link")


async def test_a_file_swapped_for_a_link_after_the_look_is_not_read(folder, tmp_path, monkeypatch):
    from studio.inbox import watcher

    (tmp_path / "secret").write_bytes(b"secret")
    real, swapped = watcher.looks_complete, []

    def swap(inbox, group):
        if not swapped:
            swapped.append(1)
            (folder / "a.bin").unlink()
            (folder / "a.bin").symlink_to(tmp_path / "secret")
        return real(inbox, group)

    monkeypatch.setattr(watcher, "looks_complete", swap)
    async with watching(folder) as told:
        (folder / "a.bin").write_bytes(b"public")
        await until(lambda: told.of(Gone))
    assert not told.settled("a")


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOSPC])
async def test_without_watches_it_polls_and_says_so(folder, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("studio.inbox.watcher.Hints", refuse)
    monkeypatch.setattr("studio.inbox.watcher.POLL_SECONDS", 0.05)
    async with watching(folder) as told:
        assert not told.inbox.watching
        assert "limit" in told.inbox.notices[0]
        assert told.of(Noticed)
        (folder / "a.bin").write_bytes(b"1")
        await until(lambda: told.settled("a"))


async def test_a_lost_hint_is_made_up_for_by_the_rescan(folder, monkeypatch):
    class Deaf:
        alive = True

        def __init__(self, *_):
            pass

        def stop(self):
            pass

    monkeypatch.setattr("studio.inbox.watcher.Hints", Deaf)
    quick = InboxSettings(settle_seconds=0.05, patience_seconds=1.0, rescan_seconds=0.1)
    async with watching(folder, quick) as told:
        (folder / "a.bin").write_bytes(b"1")
        await until(lambda: told.settled("a"))


async def test_a_vanished_inbox_is_a_notice_and_comes_back(folder, monkeypatch):
    monkeypatch.setattr("studio.inbox.watcher.POLL_SECONDS", 0.05)
    async with watching(folder) as told:
        (folder / "a.bin").write_bytes(b"1")
        await until(lambda: told.settled("a"))
        shutil.rmtree(folder)
        await until(lambda: told.of(Gone) and told.inbox.notices and not told.inbox.watching)
        folder.mkdir()
        await until(lambda: told.inbox.watching and not told.inbox.notices)
        (folder / "b.bin").write_bytes(b"2")
        await until(lambda: told.settled("b"))


async def test_a_listing_that_fails_once_loses_nothing(folder, monkeypatch):
    from studio.inbox import watcher

    (folder / "a.bin").write_bytes(b"1")
    async with watching(folder) as told:
        await until(lambda: told.settled("a"))
        real = watcher.list_inbox

        def fail(_):
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(watcher, "list_inbox", fail)
        (folder / "b.bin").write_bytes(b"2")
        await until(lambda: told.inbox.notices)
        assert not told.of(Gone)
        monkeypatch.setattr(watcher, "list_inbox", real)
        (folder / "b.bin").write_bytes(b"22")
        await until(lambda: told.settled("b"))
        assert not told.inbox.notices and not told.of(Gone)


async def test_an_unreadable_file_is_told_and_read_when_it_can_be(folder, monkeypatch):
    from studio.inbox import watcher

    real, broken = watcher.read_arrival, [True]

    def read(*arguments):
        if broken:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(*arguments)

    monkeypatch.setattr(watcher, "read_arrival", read)
    quick = InboxSettings(settle_seconds=0.05, patience_seconds=0.2, rescan_seconds=3600)
    async with watching(folder, quick) as told:
        (folder / "a.bin").write_bytes(b"1")
        await until(lambda: told.of(Left))
        assert "Permission denied" in told.of(Left)[0].skipped.reason
        broken.clear()
        await until(lambda: told.settled("a"))


async def test_a_companion_that_comes_late_settles_the_arrival_again(folder):
    async with watching(folder) as told:
        (folder / "a.bin").write_bytes(b"1")
        await until(lambda: told.settled("a"))
        (folder / "a.toml").write_text('title = "A"')
        await until(lambda: len(told.settled("a")) == 2)
        (folder / "a.toml").unlink()
        await until(lambda: len(told.settled("a")) == 3)
    first, second, third = told.settled("a")
    assert first.digest == third.digest != second.digest
    assert not told.of(Gone)


async def test_five_thousand_files_at_once_are_each_settled_once(folder, monkeypatch):
    from studio.inbox import watcher

    looks = []
    real = watcher.list_inbox

    def counted(path):
        looks.append(1)
        return real(path)

    monkeypatch.setattr(watcher, "list_inbox", counted)
    async with watching(folder) as told:

        def drop():
            for place in range(5000):
                (folder / f"m{place}.bin").write_bytes(b"%d" % place)

        await asyncio.to_thread(drop)
        await until(lambda: len({e.key for e in told.of(Settled)}) == 5000, 60)
        assert len(told.of(Settled)) == 5000
        assert len(told.of(Arrived)) == 5000
    assert len(looks) < 200, "looks are limited by time, not by the number of files"


async def test_nothing_moves_nothing_runs(folder, monkeypatch):
    from studio.inbox import watcher

    (folder / "a.bin").write_bytes(b"1")
    async with watching(folder) as told:
        await until(lambda: told.settled("a"))
        looks = []
        real = watcher.list_inbox
        monkeypatch.setattr(watcher, "list_inbox", lambda path: looks.append(1) or real(path))
        (folder / ".download.part").write_bytes(b"x" * 1000)
        (folder / "a.bin").read_bytes()
        await asyncio.sleep(1.0)
        assert looks == [], "neither temporary files nor reading wake it"
        (folder / "b.bin").write_bytes(b"2")
        await until(lambda: told.settled("b"))
