"""Make the root file system of rehearsal media: the distribution's packages, and an overlay of our own files.

The overlay is one tar archive, so that an ordinary user can make it and every file in it belongs to root.
"""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from builder.errors import HostError
from builder.system.packages import hint
from builder.system.process import run

HERE = Path(__file__).parent
INSTALLER = "opt/rehearsal"
_PROGRAMS = ("bin", "sbin")

# pykickstart imports it for kickstarts named by URL; the installer reads local files only.
_NO_REQUESTS = {
    "requests/__init__.py": "",
    "requests/exceptions.py": "class RequestException(Exception): pass\nclass SSLError(RequestException): pass\n",
}


def pykickstart() -> Path:
    """The folder of the installed pykickstart, found without importing it.

    Raises:
        HostError: it is not installed.
    """
    found = importlib.util.find_spec("pykickstart")
    places = found.submodule_search_locations if found else None
    if not places:
        raise HostError("pykickstart is not installed", hint=f"{sys.executable} -m pip install pykickstart")
    return Path(places[0])


def sources() -> list[Path]:
    """Every file of this package that has a say in what the medium is, sorted."""
    own = [path for path in HERE.rglob("*") if path.is_file() and path.suffix not in (".pyc", ".pyo")]
    return sorted([*own, *(path for path in pykickstart().rglob("*.py"))])


def _files() -> Iterator[tuple[str, Path]]:
    """(place in the system, file here) of all files that are copied as they are."""
    for path in sorted((HERE / "target").rglob("*")):
        if path.is_file():
            kind, *parts = path.relative_to(HERE / "target").parts
            # What is a release's own is laid over the new system by the installer.
            yield "/".join(parts if kind == "base" else (INSTALLER, "target", kind, *parts)), path
    for path in sorted((HERE / "installer").rglob("*.py")):
        yield f"{INSTALLER}/{path.relative_to(HERE)}", path
    for path in sorted(pykickstart().rglob("*.py")):
        yield f"{INSTALLER}/pykickstart/{path.relative_to(pykickstart())}", path
    for path in sorted(HERE.glob("*.json")):
        yield f"{INSTALLER}/{path.name}", path
    yield f"{INSTALLER}/stage2", HERE / "boot" / "stage2"
    yield "opt/finish.sh", HERE / "finish.sh"


def _mode(place: str) -> int:
    path = Path(place)
    program = path.parent.name in _PROGRAMS or "libexec" in path.parts or path.name in ("stage2", "finish.sh")
    return 0o755 if program else 0o644


def overlay(out: Path, *, kernel: Path, version: str, initrd: Path, busybox: Path) -> None:
    """Write the overlay archive.

    Args:
        kernel: a tree with boot/vmlinuz-`version` and the trimmed lib/modules/`version`.
        initrd: becomes boot/initramfs-`version`.img.
    """
    links = {
        f"{INSTALLER}/busybox": "/usr/libexec/rehearsal/busybox",
        "boot/grub": "grub2",
    }
    with tarfile.open(out, "w") as tar:
        for folder in ("boot/grub2", "usr/lib/modules", "var/lib/rehearsal"):
            _add(tar, folder, tarfile.DIRTYPE, 0o755)
        for place, path in _files():
            _add(tar, place, tarfile.REGTYPE, _mode(place), path.read_bytes())
        for name, text in _NO_REQUESTS.items():
            _add(tar, f"{INSTALLER}/{name}", tarfile.REGTYPE, 0o644, text.encode())
        modules = kernel / "lib" / "modules" / version
        for path in sorted(modules.rglob("*")):
            if path.is_file() and not path.is_symlink():
                place = f"usr/lib/modules/{path.relative_to(modules.parent)}"
                _add(tar, place, tarfile.REGTYPE, 0o644, path.read_bytes())
        boot = {f"vmlinuz-{version}": kernel / "boot" / f"vmlinuz-{version}", f"initramfs-{version}.img": initrd}
        for name, path in boot.items():
            _add(tar, f"boot/{name}", tarfile.REGTYPE, 0o644, path.read_bytes())
        _add(tar, "usr/libexec/rehearsal/busybox", tarfile.REGTYPE, 0o755, busybox.read_bytes())
        for place, target in links.items():
            _add(tar, place, tarfile.SYMTYPE, 0o777, link=target)


def _add(tar: tarfile.TarFile, place: str, kind: bytes, mode: int, data: bytes = b"", link: str = "") -> None:
    entry = tarfile.TarInfo(place)
    entry.type, entry.mode, entry.size, entry.linkname = kind, mode, len(data), link
    tar.addfile(entry, io.BytesIO(data))


@contextmanager
def _scratch(work: Path, *, root: bool) -> Iterator[Path]:
    """A folder for mmdebstrap's tree, removed afterwards even when mmdebstrap was killed.

    An ordinary user's tree belongs to the user's subordinate ids, which enter neither a private home directory nor are
    theirs to delete: it lies in /tmp, and is removed from inside a user namespace.
    """
    folder = Path(tempfile.mkdtemp(prefix="builder-rehearsal-", dir=work if root else "/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        if root:
            shutil.rmtree(folder)
        else:
            run(["unshare", "--map-root-user", "--map-auto", "rm", "-rf", folder])


def root_archive(archives: Path, include: list[str], overlay_file: Path, work: Path, codename: str) -> Path:
    """Let mmdebstrap make the file system from the packages in `archives` and return it as a tar file.

    Works as root (in a mount namespace of its own) and as an ordinary user (in a user namespace).

    Raises:
        HostError: mmdebstrap failed, or user namespaces need a program that is missing.
    """
    root = os.geteuid() == 0
    if not root and shutil.which("newuidmap") is None:
        raise HostError("an ordinary user needs newuidmap to build the rehearsal medium", hint=hint("newuidmap"))
    packages = work / "packages.tar"
    with tarfile.open(packages, "w") as tar:
        _add(tar, "var/cache/archive", tarfile.DIRTYPE, 0o755)
        for path in sorted(archives.iterdir()):
            if path.is_file() and path.name != "lock":
                _add(tar, f"var/cache/archive/{path.name}", tarfile.REGTYPE, 0o644, path.read_bytes())
    out = work / "root.tar"
    words = [f"--include={name}" for name in include]
    words += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "info", "locale", "lintian")]
    words += ["--dpkgopt=force-unsafe-io", '--aptopt=Acquire::Languages "none"']
    words += [
        f"--setup-hook=tar-in {packages} /",
        '--setup-hook=echo "deb [trusted=yes] copy:$1/var/cache/archive ./" >"$1/etc/apt/sources.list"',
        "--hook-dir=/usr/share/mmdebstrap/hooks/maybe-merged-usr",
        f"--customize-hook=tar-in {overlay_file} /",
        '--customize-hook=chroot "$1" /bin/sh /opt/finish.sh',
        '--customize-hook=rm -rf "$1/opt/finish.sh" "$1/var/cache/archive"',
    ]
    mode = f"--mode={'root' if root else 'unshare'}"
    with _scratch(work, root=root) as folder:
        run(
            ["mmdebstrap", "--quiet", "--format=tar", mode, "--variant=essential", *words, codename, out, ""],
            env={"TMPDIR": str(folder)},
        )
    packages.unlink()
    return out


def squash(archive: Path, out: Path) -> None:
    """Turn the tar file into the squashfs that is installer and payload.

    zstd level 6 in 256 KiB blocks: a smaller file (xz) reads so slowly that Python starts in twice the time.
    """
    words = "-tar -quiet -no-progress -comp zstd -Xcompression-level 6 -b 256K -no-exports"
    run(["sh", "-c", f'exec mksquashfs - "$1" {words} <"$2"', "sh", out, archive])
