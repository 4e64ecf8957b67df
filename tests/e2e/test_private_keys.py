"""Private keys in a running copy of the golden image, on xfs and with its dpkg: whose files they are, what follows."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.guest import ssh
from builder.stages import key_owners
from builder.stages.key_owners import KeyOwner
from builder.stages.secret_scan import FoundKey, scan
from tests.e2e.conftest import Person

pytestmark = [pytest.mark.e2e, pytest.mark.vm, pytest.mark.timeout(1200)]
KEY = b"-----BEGIN RSA PRIVATE KEY-----\n" + b"MIIEogIBAAKCAQEA6yCv+BLrRP/dMPBXJWK21c0aqxIX6JkODL4K+zlyEURt8/Wp\n" * 20
# Built in memory, so that no copy is left in free space. Each file begins with the key, at the start of a sector.
PLANT = """
set -e
umask 077
cat > /dev/shm/key
mkdir -p /dev/shm/toy/DEBIAN /dev/shm/toy/usr/lib/toy
cp /dev/shm/key /dev/shm/toy/usr/lib/toy/good.so
cp /dev/shm/key /dev/shm/toy/usr/lib/toy/changed.so
chmod 755 /dev/shm/toy/DEBIAN
cd /dev/shm/toy
md5sum usr/lib/toy/* > DEBIAN/md5sums
printf 'Package: toy\\nVersion: 1\\nArchitecture: all\\nMaintainer: a <a@a>\\nDescription: toy\\n' > DEBIAN/control
dpkg-deb --build . ../toy.deb
dpkg --install ../toy.deb
printf more >> /usr/lib/toy/changed.so
mkdir -p /opt/app
for place in /root/unowned.pem /opt/app/dev.pem /var/deleted.pem; do cp /dev/shm/key $place; done
sync
rm /var/deleted.pem
sync
"""


@pytest.fixture(scope="module")
def owners(person: Person, golden: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, KeyOwner]]:
    """What a clone of the golden image says of the keys on its own disk, by the path of the file."""
    made = person.json("clone", golden["name"], "keys", "--wait", "--memory", "1GiB", "--allow-rehearsal")
    try:
        folder = person.folder / "artifacts" / "vms" / "keys"
        record = json.loads((folder / "vm.json").read_text())
        prints = re.findall(r"HOSTKEY (SHA256:\S+)", (folder / "ttyS1.log").read_text())
        key = ssh.load_key(Path(record["key"]))
        with ssh.connect(record["port"], key, prints, within=300) as session:
            planted = session.run(f"sh -c {shlex.quote(PLANT)}", stdin=KEY)
            assert planted.status == 0, planted.err
            found = key_owners.trace(session, searched(folder, tmp_path_factory.mktemp("raw")), ["/opt/app"])
        yield {one.path: one for one in found}
    finally:
        assert made
        assert person.run("vm", "delete", "keys").returncode == 0


def searched(folder: Path, work: Path) -> tuple[FoundKey, ...]:
    """The keys on the disk of the running machine, which has just written back all that it had to."""
    raw = work / "disk.raw"
    subprocess.run(["qemu-img", "convert", "-U", "-O", "raw", folder / "disk.qcow2", raw], check=True)
    return scan(raw, password="none of it", crypt="none of it").keys


def test_what_a_package_brought_is_harmless_also_at_the_start_of_a_sector(owners: dict[str, KeyOwner]) -> None:
    good = owners["/usr/lib/toy/good.so"]
    assert (good.package, good.intact, good.harmless, good.offset % 512) == ("toy", True, True, 0)
    constants = [one for path, one in owners.items() if "/libgnutls.so." in path]
    assert all(one.harmless and one.package.startswith("libgnutls") for one in constants)


def test_a_file_without_a_package_is_a_secret_and_named(owners: dict[str, KeyOwner]) -> None:
    unowned = owners["/root/unowned.pem"]
    assert not unowned.harmless
    assert str(unowned).startswith("/root/unowned.pem: no package owns it")


def test_a_file_that_its_package_did_not_bring_like_this_is_a_secret(owners: dict[str, KeyOwner]) -> None:
    changed = owners["/usr/lib/toy/changed.so"]
    assert (changed.package, changed.harmless) == ("toy", False)


def test_a_deleted_file_is_a_secret_and_reported_with_its_place(owners: dict[str, KeyOwner]) -> None:
    deleted = owners[""]
    assert not deleted.harmless
    assert f"byte {deleted.offset} of the disk" in str(deleted)
    assert "/var/deleted.pem" not in owners


def test_a_file_that_the_recipe_names_is_harmless(owners: dict[str, KeyOwner]) -> None:
    named = owners["/opt/app/dev.pem"]
    assert (named.package, named.allowed, named.harmless) == ("", True, True)


def test_the_host_keys_that_the_copy_made_itself_are_secrets(owners: dict[str, KeyOwner]) -> None:
    assert not any(one.harmless for path, one in owners.items() if path.startswith("/etc/ssh/"))
    assert "/etc/ssh/ssh_host_ed25519_key" in owners
