"""Guests that answer without end, report without end, or speak no SSH."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from builder.errors import UnreachableError
from builder.guest import ssh
from builder.guest.report import KEPT, LONGEST, MOST, ReportReader, parse_report, read_report
from tests.fakes.sshd import sshd
from tests.hostile.servers import limited

HOST, _ = ssh.make_keypair()
USER, _ = ssh.make_keypair("test")


@pytest.mark.parametrize("where", ["", " >&2"])
def test_an_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setattr(ssh, "OUTPUT", 1 << 20)
    with sshd(HOST, USER) as port, ssh.connect(port, USER, [ssh.fingerprint(HOST)], within=20) as session:
        assert len(session.run("head -c 900000 /dev/zero").out) == 900_000
        with pytest.raises(UnreachableError) as caught:
            session.run(f"head -c 8000000 /dev/zero{where}")
    assert "more than 1 MiB" in caught.value.details


def test_an_answer_that_dribbles_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "LONGEST", 4)
    with (
        sshd(HOST, USER) as port,
        ssh.connect(port, USER, [ssh.fingerprint(HOST)], within=20) as session,
        pytest.raises(UnreachableError) as caught,
    ):
        session.run("for i in $(seq 40); do echo; sleep 0.1; done", timeout=0.4)
    assert "not at its end" in caught.value.details


@contextmanager
def talker(words: bytes) -> Iterator[int]:
    """A port that says this to everybody."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    there, _ = listening.accept()
                except OSError:
                    return
                with there:
                    there.sendall(words)
                    there.settimeout(2)
                    try:
                        while there.recv(65536):
                            pass
                    except OSError:
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
    thread.join(5)


KEXINIT = b"\x14" + bytes(16)


def packet(payload: bytes) -> bytes:
    padding = 8 - (len(payload) + 5) % 8 + 8
    return (len(payload) + padding + 1).to_bytes(4, "big") + bytes([padding]) + payload + bytes(padding)


@pytest.mark.parametrize(
    "words",
    [
        b"\x00\xff" * 5000,
        b"SSH-9\r\n",
        b"SSH-2.0-\xff\xfe\r\n" + packet(KEXINIT),
        b"SSH-2.0-x\r\n" + packet(KEXINIT + b"\xff\xff\xff\xff"),
        b"SSH-2.0-x\r\n" + packet(KEXINIT + 10 * (b"\x00\x00\x00\x02\xff\xfe") + bytes(5)),
        b"SSH-2.0-x\r\n" + b"\xff" * 64,
        b"SSH-2.0-x\r\n" + packet(b""),
        b"SSH-2.0-x\r\n" + packet(b"\x15"),
    ],
)
def test_who_breaks_the_protocol_is_not_logged_in_to(words: bytes) -> None:
    with (
        talker(words) as port,
        pytest.raises(UnreachableError) as caught,
        ssh.connect(port, USER, [ssh.fingerprint(HOST)], within=1),
    ):
        pass
    assert caught.value.diagnosis.cause is not None


def test_reports_without_end_take_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "ttyS1"
    with path.open("wb") as file:
        file.truncate(700 << 20)
        file.seek(0, os.SEEK_END)
        file.write(b"\nBUILDER READY web\n")
    program = """
import sys
from pathlib import Path
from builder.guest.report import read_report
print(read_report(Path(sys.argv[1])).ready)
"""
    assert limited(program, str(path)).strip() == "('web',)"


def test_of_reports_the_newest_are_kept_and_of_all_else_the_end() -> None:
    text = "".join(f"BUILDER WARNING {number}\nBUILDER READY {'x' * 5000}\n" for number in range(1000))
    report = parse_report(f"BUILDER MALICE x\n{text}BUILDER READY web\r")
    assert report.warnings == tuple(str(number) for number in range(1000 - MOST, 1000))
    assert report.ready == ("web",)
    assert len(report.text) == KEPT
    assert parse_report("BUILDER READY " + "x" * LONGEST + "\nBUILDER READY web\n").ready == ("web",)


def test_each_look_reads_what_is_new_also_when_the_file_was_rolled(tmp_path: Path) -> None:
    path = tmp_path / "ttyS1.log"
    reader = ReportReader(path)
    assert reader.read().ready == ()
    path.write_bytes(b"BUILDER READY one\nBUILDER REA")
    assert reader.read().ready == ("one",)
    with path.open("ab") as file:
        file.write(b"DY two\n")
    path.rename(f"{path}.0")
    path.write_bytes(b"BUILDER READY three\n")
    assert reader.read().ready == ("one", "two", "three")
    # What was read may be changed without being read again.
    data = bytearray(path.read_bytes())
    with path.open("r+b") as file:
        file.write(b"x" * len(data))
    assert reader.read().ready == ("one", "two", "three")
    # The machine was started anew, its log is emptied; what is left of the time before does not count.
    path.write_bytes(b"BUILDER READY 4\n")
    assert reader.read().ready == ("4",)
    assert read_report(path).ready == ("4",)
