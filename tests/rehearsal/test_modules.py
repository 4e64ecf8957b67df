"""The modules of a kernel package, whichever way a distribution packs them; the modules are compiled here."""

from __future__ import annotations

import gzip
import lzma
import subprocess
from pathlib import Path

import pytest

from builder.errors import HostError
from builder.rehearsal import initrd

VERSION = "6.12.1-test"
# What depmod looks at: names that are exported, and names that are wanted.
PROVIDER = """
const char names[] __attribute__((section("__ksymtab_strings"))) = "answer";
int answer(void) { return 42; }
"""
USER = """
const char record[] __attribute__((section(".modinfo"))) = "softdep=pre: helped-softly";
int answer(void);
int user(void) { return answer(); }
"""
SUFFIXES = ("", ".xz", ".zst", ".gz")


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """Three plain modules: one needs the second and, softly, the third."""
    folder = tmp_path / "usr" / "lib" / "modules" / VERSION
    (folder / "kernel").mkdir(parents=True)
    for name, text in (("needs-both", USER), ("provider", PROVIDER), ("helped_softly", ""), ("not-wanted", "")):
        argv = ["gcc", "-c", "-x", "c", "-o", str(folder / "kernel" / f"{name}.ko"), "-"]
        subprocess.run(argv, input=text, text=True, check=True)
    (folder / "modules.order").touch()
    (folder / "modules.builtin").touch()
    initrd.merge_usr(tmp_path)
    return folder


def _pack(modules: Path, suffix: str) -> None:
    for path in modules.rglob("*.ko") if suffix else ():
        packed = path.with_name(path.name + suffix)
        if suffix == ".zst":
            subprocess.run(["zstd", "-q", path, "-o", packed], check=True)
        else:
            # As the kernel wants it: with a CRC32.
            data = path.read_bytes()
            packed.write_bytes(gzip.compress(data) if suffix == ".gz" else lzma.compress(data, check=lzma.CHECK_CRC32))
        path.unlink()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_a_module_needs_comes_along_and_is_readable(modules: Path, tmp_path: Path, suffix: str) -> None:
    plain = {path.name: path.read_bytes() for path in modules.rglob("*.ko")}
    # Not every depmod reads every compression; a package's own index names the files as they are.
    subprocess.run(["depmod", "-b", tmp_path, VERSION], check=True)
    index = modules / "modules.dep"
    index.write_text(index.read_text().replace(".ko", f".ko{suffix}"))
    _pack(modules, suffix)
    chosen = initrd.closure(modules, ("needs_both", "no_such_module"))
    assert sorted(chosen) == ["helped_softly", "needs_both", "provider"]
    assert all(path.is_file() for path in chosen.values())
    initrd.expand(modules)
    assert {path.name: path.read_bytes() for path in modules.rglob("*.ko*")} == plain


def test_a_kernel_of_before_the_merged_usr(tmp_path: Path) -> None:
    kernel = tmp_path / "lib" / "modules" / VERSION / "kernel"
    kernel.mkdir(parents=True)
    (kernel / "a.ko").write_text("a")
    (tmp_path / "usr" / "lib" / "modules-load.d").mkdir(parents=True)
    initrd.merge_usr(tmp_path)
    assert (tmp_path / "lib").readlink() == Path("usr/lib")
    assert (tmp_path / "usr" / "lib" / "modules" / VERSION / "kernel" / "a.ko").read_text() == "a"


@pytest.mark.parametrize("place", ["boot/vmlinuz-{}", "usr/lib/modules/{}/vmlinuz"])
def test_the_kernel_is_found_where_the_package_has_it(tmp_path: Path, place: str) -> None:
    kernel = tmp_path / place.format(VERSION)
    kernel.parent.mkdir(parents=True)
    kernel.write_text("a kernel")
    assert initrd.find_kernel(tmp_path) == VERSION
    assert (tmp_path / "boot" / f"vmlinuz-{VERSION}").read_text() == "a kernel"


def test_packages_without_a_kernel_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no kernel"):
        initrd.find_kernel(tmp_path)


def test_a_compression_of_the_future_is_named(modules: Path) -> None:
    (modules / "kernel" / "new.ko.lz9").touch()
    with pytest.raises(HostError, match=r"new\.ko\.lz9"):
        initrd.expand(modules)


def test_an_initramfs_is_an_archive_that_cpio_unpacks(tmp_path: Path) -> None:
    packed, there = tmp_path / "initrd.cpio", tmp_path / "there"
    entries = [("bin", 0o40755, b""), ("bin/tool", 0o100755, b"x" * 4097), ("sbin", 0o120777, b"bin")]
    with packed.open("wb") as file:
        initrd.archive(iter(entries), file)
    there.mkdir()
    with packed.open("rb") as file:
        subprocess.run(["cpio", "--extract", "--quiet"], stdin=file, cwd=there, check=True)
    assert (there / "sbin" / "tool").read_bytes() == b"x" * 4097
    assert (there / "sbin").is_symlink()
    assert (there / "bin" / "tool").stat().st_mode == 0o100755
