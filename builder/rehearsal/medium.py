"""Build rehearsal media; the same inputs digest and release mean an equivalent medium.

`build_base` makes what all releases share, which takes minutes; `press` makes the install ISO of one of them, which
takes seconds. Both empty their working directory again, whatever happens.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from builder.errors import HostError
from builder.rehearsal import initrd, iso, packages, tree
from builder.rehearsal.shapes import SHAPES
from builder.releases import Name
from builder.stage import Progress
from builder.system.atomic_file import replacing
from builder.system.process import find, run

LIMIT = 200 << 20  # bytes; what a CI cache takes without complaint
_ROOM = 2 << 30
_PROGRAMS = (
    *("apt-get", "depmod", "dpkg-deb", "genisoimage", "grub-mkimage", "implantisomd5", "isohybrid"),
    *("mcopy", "mkfs.vfat", "mksquashfs", "mmdebstrap", "xorriso", "zstd"),
)


class _Answer(BaseModel):
    """The last answer of `inputs_digest`, and the state of the host that it belongs to."""

    state: str
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")


def _own_state() -> str:
    """A mark that moves when a source file does (stat only)."""
    seen = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in tree.sources()]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()


def _last_answer(path: Path) -> _Answer | None:
    """The last answer; None where there is none that can be read, and apt has to be asked."""
    try:
        return _Answer.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def inputs_digest(cache: Path | None = None) -> str:
    """Digest of everything that goes into rehearsal media, 64 hex digits. No network.

    It covers this package's files, pykickstart's, the host's codename, and the name and version of every package that
    the host's apt would fetch now.

    Args:
        cache: a folder for the last answer, so that an unchanged host is asked by stat alone; None asks apt always.

    Raises:
        HostError: not a Debian or Ubuntu host, or apt has no package lists.
    """
    host = packages.this_host()
    state = hashlib.sha256(f"{_own_state()} {packages.apt_state()} {host}".encode()).hexdigest()
    known = cache / "rehearsal-inputs.json" if cache else None
    if known is not None and (last := _last_answer(known)) is not None and last.state == state:
        return last.digest
    whole = hashlib.sha256()
    for path in tree.sources():
        whole.update(f"{path.name} ".encode() + hashlib.sha256(path.read_bytes()).digest())
    whole.update(json.dumps([host.family, host.codename, sorted(packages.resolve(host).items())]).encode())
    answer = whole.hexdigest()
    # A full or read-only place has no memory: then apt is asked each time.
    with suppress(HostError, OSError):
        if known is not None:
            known.parent.mkdir(parents=True, exist_ok=True)
            with replacing(known) as file:
                file.write(_Answer(state=state, digest=answer).model_dump_json().encode())
    return answer


@contextmanager
def _emptied(work: Path) -> Iterator[None]:
    """Leave `work` empty at the end, also when interrupted."""
    try:
        yield
    finally:
        for entry in work.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def build_base(out: Path, *, work: Path, progress: Progress) -> None:
    """Write what the media of all releases share into a folder: the squashfs, kernel and initramfs, and packages.

    Needs no privilege. Takes one to three minutes on two cores, most of it dpkg's.

    Args:
        work: an empty directory, empty again afterwards; about 2 GiB pass through it.

    Raises:
        HostError: a program, room or the network is missing; the hint says what to install.
    """
    for program in _PROGRAMS:
        find(program)
    host = packages.this_host()
    packages.room(work, _ROOM)
    with _emptied(work):
        progress.beat("fetching packages")
        debs, kernels, busybox_deb = packages.split(packages.download(host, work), host)
        packages.index(debs, work / "archives", host.codename)
        kernel_tree = work / "kernel"
        for deb in kernels:
            packages.unpack(deb, kernel_tree)
            deb.unlink()
        packages.unpack(busybox_deb, work / "busybox")
        busybox = next((work / "busybox").rglob("bin/busybox"))
        initrd.merge_usr(kernel_tree)
        version = initrd.find_kernel(kernel_tree)
        progress.beat(f"making the initramfs for {version}")
        initrd.trim(kernel_tree, version)
        image = out / "initrd.img"
        initrd.make(busybox, kernel_tree, version, work, image)
        shutil.copyfile(kernel_tree / "boot" / f"vmlinuz-{version}", out / "vmlinuz")
        overlay = work / "overlay.tar"
        tree.overlay(overlay, kernel=kernel_tree, version=version, initrd=image, busybox=busybox)
        progress.beat("installing packages")
        include = [*packages.TARGET, *packages.EMPTY[host.family]]
        archive = tree.root_archive(work / "archives", include, overlay, work, host.codename)
        progress.beat("packing the file system")
        tree.squash(archive, out / iso.SQUASHFS)
        aside = packages.optional(host)
        (out / iso.PACKAGES).mkdir()
        for deb in debs:
            if packages.name_of(deb) in aside:
                # The epoch's colon, which apt writes as %3a, is no matter to dpkg but a trap for readers of URLs.
                shutil.copyfile(deb, out / iso.PACKAGES / deb.name.replace("%3a", "_"))
        progress.note(f"what rehearsal media share: kernel {version}")


def require_tools(release: Name) -> None:
    """Look for everything that a medium is pressed with, before the long part starts.

    Raises:
        HostError: a program or a boot loader's file is missing; the hint has the command that brings it.
    """
    for program in _PROGRAMS:
        find(program)
    iso.tools(SHAPES[release])


def press(base: Path, release: Name, out: Path, *, work: Path, progress: Progress) -> None:
    """Write the install ISO of one release at `out`, which does not exist yet; takes seconds.

    Args:
        base: what `build_base` wrote.
        work: an empty directory, empty again afterwards.

    Raises:
        HostError: a program or room is missing.
    """
    packages.room(work, 3 * LIMIT)
    with _emptied(work):
        progress.beat("writing the medium")
        part = work / "medium.iso"
        iso.assemble(base, release, tree.HERE, work, part)
        size = part.stat().st_size
        if size > LIMIT:
            raise HostError(f"the rehearsal medium came out too large: {size >> 20} MiB, more than {LIMIT >> 20}")
        run(["cp", "--reflink=auto", part, out])
        progress.note(f"rehearsal medium: {size >> 20} MiB, {SHAPES[release].volume_id}")
