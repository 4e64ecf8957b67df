"""Downloads from servers that break off, lie, change files, or go away: the file is right, or there is none."""

from __future__ import annotations

import fcntl
import hashlib
import random
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from builder.errors import Cause, HostError, MediumError
from builder.media.download import fetch, small
from tests.fakes.mirror import Site, answer, in_turn, refusing, serving, whole

DATA = random.Random(7).randbytes(300_000)
SHA = hashlib.sha256(DATA).hexdigest()
# As much as is written at a time.
PIECE = 1 << 16
# A port that nobody listens on: the discard service.
NOBODY = "http://127.0.0.1:9/medium.iso"


class Beats:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def note(self, text: str) -> None:
        self.seen.append(text)

    def beat(self, text: str) -> None:
        self.seen.append(text)


def get(out: Path, *urls: str, sha256: str = SHA, pause: float = 0.01) -> Beats:
    beats = Beats()
    fetch(urls, sha256, out, progress=beats, pause=pause, tries=3)
    return beats


def test_a_download(tmp_path: Path) -> None:
    out = tmp_path / "medium.iso"
    with serving(whole(DATA)) as site:
        beats = get(out, site.url, sha256=SHA.upper())
    assert out.read_bytes() == DATA
    assert [path.name for path in tmp_path.iterdir()] == ["medium.iso"]
    assert site.asked == [(None, None)]
    assert "100 % of 0 MiB" in beats.seen[-1]
    assert "from 127.0.0.1" in beats.seen[-1]


def test_broken_off_answers_are_resumed(tmp_path: Path) -> None:
    with serving(whole(DATA, limit=PIECE)) as site:
        get(tmp_path / "m", site.url)
    assert (tmp_path / "m").read_bytes() == DATA
    assert site.asked == [
        (None, None),
        (f"bytes={PIECE}-", '"v1"'),
        (f"bytes={2 * PIECE}-", '"v1"'),
        (f"bytes={3 * PIECE}-", '"v1"'),
        (f"bytes={4 * PIECE}-", '"v1"'),
    ]


def test_a_file_that_changed_meanwhile_is_taken_whole(tmp_path: Path) -> None:
    old = bytes(300_000)
    with serving(in_turn(whole(old, etag='"v0"', limit=PIECE), whole(DATA, etag='"v1"'))) as site:
        get(tmp_path / "m", site.url)
    assert (tmp_path / "m").read_bytes() == DATA
    assert site.asked[1] == (f"bytes={PIECE}-", '"v0"')


def test_servers_without_ranges(tmp_path: Path) -> None:
    with serving(in_turn(whole(DATA, ranges=False, limit=PIECE), whole(DATA, ranges=False))) as site:
        get(tmp_path / "m", site.url)
    assert (tmp_path / "m").read_bytes() == DATA
    assert len(site.asked) == 2


def test_an_answer_that_always_breaks_off_is_told_in_plain_words(tmp_path: Path) -> None:
    with serving(whole(DATA, ranges=False, limit=PIECE)) as site, pytest.raises(MediumError) as caught:
        get(tmp_path / "m", site.url)
    missing = len(DATA) - PIECE
    assert caught.value.brief.endswith(f": the answer broke off: {missing} bytes are missing")


def lying_about_the_start(handler: BaseHTTPRequestHandler) -> None:
    """Says 206 and the range that was asked for, and sends the file from its beginning."""
    asked = handler.headers.get("Range")
    if asked is None:
        answer(handler, 200, DATA)
    else:
        start = int(asked.removeprefix("bytes=").rstrip("-"))
        body = DATA[: len(DATA) - start]
        answer(handler, 206, body, Content_Range=f"bytes {start}-{len(DATA) - 1}/{len(DATA)}")


def another_range(handler: BaseHTTPRequestHandler) -> None:
    if handler.headers.get("Range") is None:
        answer(handler, 200, DATA)
    else:
        answer(handler, 206, DATA, Content_Range=f"bytes 0-{len(DATA) - 1}/{len(DATA)}")


@pytest.mark.parametrize("lie", [lying_about_the_start, another_range])
def test_lies_about_ranges_cost_time_only(tmp_path: Path, lie: object) -> None:
    assert callable(lie)
    with serving(in_turn(whole(DATA, limit=PIECE), lie)) as site:
        get(tmp_path / "m", site.url)
    assert (tmp_path / "m").read_bytes() == DATA
    assert site.asked[-1] == (None, None)


def test_a_part_of_an_earlier_run_is_resumed(tmp_path: Path) -> None:
    (tmp_path / "m.part").write_bytes(DATA[:123_456])
    with serving(whole(DATA)) as site:
        get(tmp_path / "m", site.url)
    assert site.asked == [("bytes=123456-", None)]
    assert (tmp_path / "m").read_bytes() == DATA


@pytest.mark.parametrize("part", [DATA, DATA + b"more", b"other" * 1000], ids=["whole", "longer", "another"])
def test_a_strange_part_is_no_trouble(tmp_path: Path, part: bytes) -> None:
    (tmp_path / "m.part").write_bytes(part)
    with serving(whole(DATA)) as site:
        get(tmp_path / "m", site.url)
    assert (tmp_path / "m").read_bytes() == DATA
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_what_heals_is_tried_again(tmp_path: Path) -> None:
    with serving(in_turn(refusing(503), refusing(429), whole(DATA))) as site:
        get(tmp_path / "m", site.url)
    assert len(site.asked) == 3


# With pauses that double in spite of headway it would be a minute.
@pytest.mark.timeout(30)
def test_a_mirror_that_breaks_off_but_gives_more_each_time_is_asked_again_soon(tmp_path: Path) -> None:
    data = random.Random(8).randbytes(15 * PIECE)
    with serving(whole(data, limit=PIECE)) as site:
        get(tmp_path / "m", site.url, sha256=hashlib.sha256(data).hexdigest(), pause=0.2)
    assert len(site.asked) == 15


def test_a_small_file_heals_too() -> None:
    with serving(in_turn(refusing(503), whole(b"list"))) as site:
        assert small([site.url], pause=0.01) == b"list"
    with ExitStack() as stack:
        gone, good = stack.enter_context(serving(refusing(404))), stack.enter_context(serving(whole(b"list")))
        assert small([gone.url, good.url], pause=0.01) == b"list"
    assert len(gone.asked) == 1
    with serving(whole(b"too much")) as site, pytest.raises(MediumError) as caught:
        small([site.url], limit=4)
    assert caught.value.details == f"{site.url}: too long"


def test_a_client_error_is_not_tried_again(tmp_path: Path) -> None:
    with ExitStack() as stack:
        gone, good = stack.enter_context(serving(refusing(404))), stack.enter_context(serving(whole(DATA)))
        get(tmp_path / "m", gone.url, good.url)
    assert (len(gone.asked), len(good.asked)) == (1, 1)


def test_next_mirror_goes_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    with ExitStack() as stack:
        bad = stack.enter_context(serving(in_turn(whole(DATA, limit=PIECE), refusing(503))))
        good = stack.enter_context(serving(whole(DATA)))
        get(tmp_path / "m", bad.url, good.url)
    assert good.asked == [(f"bytes={PIECE}-", None)]
    assert (tmp_path / "m").read_bytes() == DATA


def test_a_wrong_digest_is_never_published(tmp_path: Path) -> None:
    other = hashlib.sha256(b"other").hexdigest()
    with serving(whole(b"other")) as site, pytest.raises(MediumError) as caught:
        get(tmp_path / "m", site.url)
    assert f"sha256 is {other}, expected {SHA}" in caught.value.details
    # Where all mirrors have the same fault, the one line names it.
    assert caught.value.brief == "no mirror gave the install medium medium.iso: its sha256 is wrong"
    assert caught.value.diagnosis.cause is Cause.WRONG_MEDIUM
    assert list(tmp_path.iterdir()) == []
    assert len(site.asked) == 1


def test_one_line_for_each_mirror(tmp_path: Path) -> None:
    def redirect(handler: BaseHTTPRequestHandler) -> None:
        answer(handler, 302, Location="file:///etc/passwd")

    with ExitStack() as stack:
        sites: list[Site] = [stack.enter_context(serving(act)) for act in (refusing(403), refusing(500), redirect)]
        urls = [site.url for site in sites]
        with pytest.raises(MediumError) as caught:
            get(tmp_path / "m", NOBODY, *urls, "file:///etc/passwd", "http://user:secret@127.0.0.1:9/m")
    assert caught.value.brief == "no mirror gave the install medium medium.iso"
    assert caught.value.diagnosis.cause is Cause.NO_MIRROR
    lines = caught.value.details.splitlines()
    assert len(lines) == 7  # six mirrors, and what was wanted of them
    assert lines[0].startswith(f"{NOBODY}: ")
    assert "Connection refused (3 tries)" in lines[0]
    assert lines[1].endswith("HTTP 403 Forbidden")
    assert lines[2].endswith("HTTP 500 Internal Server Error (3 tries)")
    assert "file:///etc/passwd" in lines[3]
    assert lines[4] == "file:///etc/passwd: only http and https are accepted"
    assert "secret" not in caught.value.details
    assert "object at 0x" not in caught.value.details
    assert list(tmp_path.iterdir()) == []


def test_no_mirror_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MediumError, match="no mirror"):
        get(tmp_path / "m")


def test_two_at_once_do_not_mix(tmp_path: Path) -> None:
    with (tmp_path / "m.part").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with serving(whole(DATA)) as site, pytest.raises(HostError, match="by another builder"):
            get(tmp_path / "m", site.url)


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot write"):
        get(tmp_path / "none/m", NOBODY)


def test_a_server_that_announces_too_much_is_refused_before_it_fills_the_disk(tmp_path: Path) -> None:
    def huge(handler: BaseHTTPRequestHandler) -> None:
        answer(handler, 200, b"x", announced=1 << 60)

    with serving(huge) as site, pytest.raises(HostError, match="no space"):
        get(tmp_path / "m", site.url)
