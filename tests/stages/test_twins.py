"""What two copies of an image must not have in common."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builder.errors import Cause, VerifyError
from builder.stages import twins
from builder.stages.examine import GuestFacts

pytestmark = pytest.mark.unit

A = GuestFacts(
    role="instant-a",
    machine_id="a" * 32,
    hostname="instant-a",
    mac="52:54:00:00:00:0a",
    kernel="3.10",
    cmdline="quiet",
    release="CentOS 7.9",
    os="centos-7",
    host_keys=("SHA256:a",),
    boot_seconds=1.0,
    packages=(),
    services=(),
    users=(),
    ports=(),
    suid=(),
    checks=(),
    address="10.0.0.10",
    random_bytes="0a" * 64,
)
B = replace(
    A,
    role="instant-b",
    machine_id="b" * 32,
    hostname="instant-b",
    mac="52:54:00:00:00:0b",
    host_keys=("SHA256:b",),
    address="10.0.0.11",
    random_bytes="0b" * 64,
)


def test_copies_that_differ_where_they_must_pass() -> None:
    twins.compare(A, B)
    # User-mode networking gives every copy the same address.
    twins.compare(replace(A, address=""), replace(B, address=""))


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("machine_id", "machine id"),
        ("hostname", "hostname"),
        ("mac", "mac"),
        ("address", "address"),
        ("host_keys", "host keys"),
        ("random_bytes", "random bytes"),
    ],
)
def test_copies_that_are_alike_are_refused(field: str, words: str) -> None:
    with pytest.raises(VerifyError, match=f"two copies of the image have the same {words}") as caught:
        twins.compare(A, replace(B, **{field: getattr(A, field)}))
    assert caught.value.diagnosis.cause is Cause.COPIES_ALIKE


def test_random_bytes_are_not_recorded() -> None:
    assert "random_bytes" not in A.as_dict()
