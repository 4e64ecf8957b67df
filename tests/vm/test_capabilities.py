"""Facts come from libvirt's own document, and a daemon is suspected only where it has a reason to probe again."""

from __future__ import annotations

import libvirt
import pytest

from builder.system.host_facts import KvmAccess
from builder.vm import capabilities
from builder.vm.capabilities import Capabilities

# Shortened from libvirt 9.0.
SYSTEM = """<capabilities><host>
<secmodel><model>none</model><doi>0</doi></secmodel>
<secmodel><model>dac</model>
<baselabel type='kvm'>+1:+1</baselabel><baselabel type='qemu'>+64055:+108</baselabel></secmodel>
</host>
<guest><arch name='i686'><domain type='xen'/></arch></guest>
<guest><arch name='x86_64'><domain type='qemu'/><domain type='kvm'/></arch></guest></capabilities>"""
SESSION = "<capabilities><host/></capabilities>"


def test_what_is_read() -> None:
    assert capabilities.parse(SYSTEM) == Capabilities((64055, 108), ("qemu", "kvm"))
    assert capabilities.parse(SESSION) == Capabilities(None, ())


def test_a_daemon_is_asked_once_until_it_goes() -> None:
    uri = "test:///default"
    connection = libvirt.open(uri)
    try:
        first = capabilities.ask(uri, connection)
        assert capabilities.ask(uri, connection) is first
        capabilities.forget(uri)
        again = capabilities.ask(uri, connection)
    finally:
        capabilities.forget(uri)
        connection.close()
    assert again == first
    assert again is not first


@pytest.mark.parametrize(
    ("access", "types", "seconds", "expected"),
    [
        ("denied", ("qemu", "kvm"), 2.0, True),
        ("denied", ("qemu", "kvm"), 0.02, False),
        # It does not see the device, or it is busy.
        ("denied", ("qemu",), 2.0, False),
        ("broken", ("qemu",), 2.0, True),
        ("opens", ("qemu", "kvm"), 2.0, False),
        (None, ("qemu", "kvm"), 2.0, False),
    ],
)
def test_who_is_suspected(access: KvmAccess | None, types: tuple[str, ...], seconds: float, expected: bool) -> None:
    assert capabilities.probes_again(Capabilities((1, 1), types), access, seconds) is expected
