from __future__ import annotations

import fcntl
import hashlib
import random
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from builder.adapters.download import fetch, take
from builder.errors import HostError, MediumError
from tests.adapters.media.server import Site, answer, in_turn, refusing, serving, whole

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


def get(out: Path, *urls: str, sha256: str = SHA) -> Beats:
    beats = Beats()
    fetch(urls, sha256, out, progress=beats, pause=0.01, tries=3)
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


@pytest.mark.parametrize("link", [False, True])
def test_take_a_local_file(tmp_path: Path, link: bool) -> None:
    file = tmp_path / "here.iso"
    file.write_bytes(DATA)
    found, how = take(file, tmp_path / "there.iso", link=link)
    assert found == SHA
    assert how in (("reflink", "hard link") if link else ("reflink", "copy"))
    assert (tmp_path / "there.iso").read_bytes() == DATA
    assert (tmp_path / "there.iso").samefile(file) is link


def test_take_falls_back_to_a_copy_on_another_file_system(tmp_path: Path) -> None:
    shm = Path("/dev/shm")
    if shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is on the same file system")
    file = tmp_path / "here.iso"
    file.write_bytes(DATA)
    target = shm / f"builder-test-{tmp_path.name}-{id(file)}.iso"
    try:
        assert take(file, target, link=True) == (SHA, "copy")
        assert target.read_bytes() == DATA
    finally:
        target.unlink(missing_ok=True)


def test_take_follows_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "here.iso").write_bytes(DATA)
    (tmp_path / "name.iso").symlink_to("here.iso")
    assert take(tmp_path / "name.iso", tmp_path / "there.iso", link=True)[0] == SHA
    assert not (tmp_path / "there.iso").is_symlink()


def test_take_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MediumError, match="cannot read"):
        take(tmp_path / "none.iso", tmp_path / "there.iso")
