"""The way into a guest: its reports on ttyS1, and how long and where builder waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from builder.errors import Cause, UnreachableError, VerifyError
from builder.guest.login import AddressLookup, Endpoint, Guest, Wait, log_in
from builder.guest.report import parse_report, read_report
from builder.guest.ssh import fingerprint, make_keypair
from tests.fakes.sshd import sshd

HOST, _ = make_keypair()
USER, _ = make_keypair()
READY = f"BUILDER HOSTKEY {fingerprint(HOST)} ssh-ed25519\r\nBUILDER WARNING no gateway\r\nBUILDER READY web-1\r\n"


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    (tmp_path / "console").write_text("Welcome\n\nweb login: ")
    return Guest(
        name="web",
        instance="web-1",
        reports=tmp_path / "ttyS1",
        console=tmp_path / "console",
        where=Endpoint("127.0.0.1", 1),
        error=UnreachableError,
        hint="builder vm console web",
    )


def test_a_report_has_whole_lines_of_the_protocol_only() -> None:
    report = parse_report(
        "[    0.1] noise\r\nBUILDER HOSTKEY SHA256:short ssh-rsa\r\nBUILDER INSTALLED abc\r\n"
        f"BUILDER ADDRESS 192.0.2.7\nNOT BUILDER READY web\n{READY}BUILDER READY web-12"
    )
    assert report.host_keys == (fingerprint(HOST),)
    assert (report.installed, report.addresses) == (("abc",), ("192.0.2.7",))
    assert (report.ready, report.warnings) == (("web-1",), ("no gateway",))


def test_a_report_that_has_not_begun_is_empty(tmp_path: Path) -> None:
    assert read_report(tmp_path / "absent") == parse_report("")


def test_a_guest_that_becomes_ready_lets_root_in_with_the_key_it_reported(guest: Guest) -> None:
    notes: list[str] = []
    guest.reports.write_text(READY.replace("web-1", "web-0"))

    def report() -> None:
        with guest.reports.open("a") as file:
            file.write("BUILDER READY web-1\r\n")

    writing = threading.Timer(0.3, report)
    writing.start()
    with (
        sshd(HOST, USER) as port,
        log_in(replace(guest, where=Endpoint("127.0.0.1", port)), USER, Wait(20, note=notes.append)) as login,
    ):
        assert login.session.run("echo in").out == "in\n"
        assert (login.endpoint.port, login.host_keys) == (port, (fingerprint(HOST),))
    writing.join()
    assert notes == ["web: no gateway"]


def test_a_guest_that_never_becomes_ready_is_given_up_with_its_console(guest: Guest) -> None:
    # What another instance reported is not this one's.
    guest.reports.write_text(READY.replace("web-1", "web-0"))
    with pytest.raises(UnreachableError) as caught, log_in(guest, USER, Wait(0.1)):
        pass
    assert caught.value.brief == "web did not take its identity within 0 s"
    assert caught.value.details == "Welcome\nweb login: "
    assert (caught.value.hint, caught.value.diagnosis.cause) == ("builder vm console web", Cause.NO_IDENTITY)


def test_a_guest_without_a_host_key_is_not_logged_in_to(guest: Guest) -> None:
    guest.reports.write_text("BUILDER READY web-1\n")
    with pytest.raises(VerifyError) as caught, log_in(replace(guest, error=VerifyError), USER, Wait(5)):
        pass
    assert caught.value.brief == "web reported no SSH host key on ttyS1"
    assert caught.value.diagnosis.cause is Cause.NO_IDENTITY


@pytest.mark.parametrize("word", ["gone", "stopped"])
def test_waiting_ends_when_the_machine_is_gone_or_nobody_waits_any_more(guest: Guest, word: str) -> None:
    def gone() -> None:
        raise UnreachableError("web is off")

    ends: dict[str, tuple[Wait, str]] = {
        "gone": (Wait(60, require_running=gone), "web is off"),
        "stopped": (Wait(60, stop=lambda: True), "waiting for web was given up"),
    }
    wait, brief = ends[word]
    with pytest.raises(UnreachableError, match=brief), log_in(guest, USER, wait):
        pass


def test_an_address_comes_from_whoever_has_it_first(guest: Guest) -> None:
    def lookup(ask: Callable[[], str | None]) -> Guest:
        return replace(guest, where=AddressLookup("52:54:00:00:00:01", None, ask))

    guest.reports.write_text(READY)
    with pytest.raises(UnreachableError) as caught, log_in(lookup(lambda: None), USER, Wait(0.1)):
        pass
    assert caught.value.diagnosis.cause is Cause.NO_DHCP
    notes: list[str] = []
    guest.reports.write_text(f"BUILDER ADDRESS 127.0.0.9\n{READY}")
    # Nothing listens there: the attempts end, and the address is known.
    with (
        pytest.raises(UnreachableError, match=r"127\.0\.0\.9:22"),
        log_in(lookup(lambda: "127.0.0.8"), USER, Wait(0.1, note=notes.append)),
    ):
        pass
    assert notes[-1] == "web: has the address 127.0.0.9"
