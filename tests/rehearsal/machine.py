"""Machines in QEMU without KVM, driven through QMP; each lives as long as its `with` block.

The serial lines and the installer's log port are written to files of one folder as they arrive.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from builder.system.process import find, run
from builder.system.retry import until

SERIAL_NUMBER = "BUILDER-SYSTEM"
MEMORY = 1024  # MiB
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\x1b[=>78]")


class Machine:
    """A running machine.

    Args:
        folder: serial0.log, serial1.log and anaconda.log are in it.
    """

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, ssh_port: int) -> None:
        self.process, self.folder, self.ssh_port = process, folder, ssh_port
        # QEMU waits for this connection before it starts anything. Its own logfile= is of no use: a byte the socket
        # cannot take at once is logged when it is refused and again when it is taken.
        self._console = _connect(folder / "serial0", process)
        self._drainer = threading.Thread(target=self._drain)
        self._drainer.start()
        self.qmp = _connect(folder / "qmp", process)
        self._lines = self.qmp.makefile("r")
        self._lines.readline()
        self.tell("qmp_capabilities")

    def tell(self, command: str, **arguments: Any) -> Any:
        """Run a QMP command and return its answer."""
        self.qmp.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            answer = json.loads(self._lines.readline())
            if "error" in answer:
                raise AssertionError(f"{command}: {answer['error']}")
            if "return" in answer:
                return answer["return"]

    def screen(self, name: str = "serial0.log") -> str:
        """Everything said so far on the serial console, without escape codes."""
        path = self.folder / name
        text = path.read_bytes().decode("utf-8", "replace") if path.exists() else ""
        return _ESCAPES.sub("", text).replace("\r", "")

    def log(self) -> str:
        """Everything that came out of the installer's log port."""
        return self.screen("anaconda.log")

    def expect(self, text: str, within: float = 240, after: int = 0) -> str:
        """Wait until `text` has been said (beyond position `after`) and return the whole screen."""

        def look() -> str | None:
            if text in self.screen()[after:]:
                return self.screen()
            return "" if self.process.poll() is not None else None

        found = until(look, within=within, every=0.1)
        if not found:
            gone = "the machine is gone" if self.process.poll() is not None else f"not within {within:g} s"
            raise AssertionError(f"never said {text!r} ({gone}); its last words:\n{self.screen()[-3000:]}")
        return found

    def type(self, text: str) -> None:
        """Send keys to the serial console."""
        self._console.sendall(text.encode())

    def _drain(self) -> None:
        with (self.folder / "serial0.log").open("ab", buffering=0) as log, contextlib.suppress(OSError):
            while data := self._console.recv(4096):
                log.write(data)

    def close(self) -> None:
        """Give the connections back; the process has ended."""
        self._console.close()
        self._drainer.join()
        self._lines.close()
        self.qmp.close()

    def off(self, within: float = 240) -> None:
        """Wait until the machine has switched itself off."""
        done = until(lambda: self.process.poll(), within=within, every=0.05)
        if done is None:
            raise AssertionError(f"still on after {within:g} s; its last words:\n{self.screen()[-3000:]}")

    def insert(self, drive: str, iso: Path) -> None:
        """Put a CD into a drive."""
        self.tell("blockdev-change-medium", id=drive, filename=str(iso), format="raw")

    def resume(self) -> None:
        """Let a restored machine go on, once its state is in."""

        def loaded() -> bool | None:
            status = self.tell("query-status")["status"]
            assert status != "internal-error"
            return None if status == "inmigrate" else True

        assert until(loaded, within=60, every=0.1)
        self.tell("cont")

    def save(self, path: Path) -> None:
        """Write the machine's state to a file and stop it."""
        self.tell("stop")
        self.tell("migrate", uri=f"exec:cat >{path}")

        def done() -> str | None:
            status = self.tell("query-migrate").get("status")
            return status if status in ("completed", "failed") else None

        assert until(done, within=120, every=0.1) == "completed"


def _connect(path: Path, process: subprocess.Popen[bytes]) -> socket.socket:
    def attempt() -> socket.socket | None:
        if process.poll() is not None:
            raise AssertionError(f"QEMU ended at once: {process.args!r}")
        line = socket.socket(socket.AF_UNIX)
        try:
            line.connect(str(path))
        except OSError:
            line.close()
            return None
        return line

    found = until(attempt, within=20, every=0.05)
    assert found is not None, f"no socket {path}"
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def machine(
    folder: Path,
    *more: str | Path,
    disk: Path | None = None,
    cds: Sequence[Path | None] = (),
    boot: tuple[Path, Path, str] | None = None,
    efi: bool = False,
    cpus: int = 1,
    restore: Path | None = None,
    bus: str = "virtio",
    net: str = "10.0.2.15",
) -> Iterator[Machine]:
    """Start a machine; it is ended with the block.

    Args:
        more: further arguments of QEMU.
        disk: qcow2 file of the system disk.
        cds: CD drives cd0, cd1 …; None is an empty one.
        boot: kernel, initrd and kernel command line, instead of booting from disk or CD.
        restore: state written by `Machine.save` of a machine with the same hardware.
        bus: `virtio` (virtio-scsi) or `sata`.
        net: address that SSH is forwarded to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    words: list[str | Path] = [
        *(
            find("qemu-system-x86_64"),
            "-accel",
            "tcg",
            "-cpu",
            "max",
            "-M",
            "q35",
            "-m",
            str(MEMORY),
            "-smp",
            str(cpus),
        ),
        *("-display", "none", "-no-reboot", "-nodefaults", "-vga", "std"),
        *("-qmp", f"unix:{folder}/qmp,server=on,wait=off"),
        *("-chardev", f"socket,id=s0,path={folder}/serial0,server=on,wait=on"),
        *("-serial", "chardev:s0", "-serial", f"file:{folder}/serial1.log"),
        *("-device", "virtio-serial", "-chardev", f"file,id=log,path={folder}/anaconda.log"),
        *("-device", "virtserialport,chardev=log,name=org.fedoraproject.anaconda.log.0"),
        *("-device", "virtio-rng-pci", "-device", "virtio-scsi-pci,id=scsi"),
        *("-nic", f"user,model=virtio-net-pci,restrict=off,hostfwd=tcp:127.0.0.1:{port}-{net}:22"),
    ]
    if disk is not None:
        model = "scsi-hd,bus=scsi.0" if bus == "virtio" else "ide-hd,bus=ide.5"
        words += ["-drive", f"if=none,id=disk,file={disk},format=qcow2,cache=unsafe,discard=unmap"]
        words += ["-device", f"{model},drive=disk,serial={SERIAL_NUMBER},bootindex=2"]
    for number, cd in enumerate(cds):
        medium = f",file={cd},format=raw,readonly=on" if cd else ""
        words += ["-drive", f"if=none,id=drive{number},media=cdrom{medium}"]
        words += ["-device", f"ide-cd,id=cd{number},bus=ide.{number},drive=drive{number}"]
        words[-1] = f"{words[-1]},bootindex={number + 3}"
    if boot is not None:
        words += ["-kernel", boot[0], "-initrd", boot[1], "-append", boot[2]]
    if efi:
        variables = folder / "vars.fd"
        shutil.copyfile("/usr/share/OVMF/OVMF_VARS_4M.fd", variables)
        words += ["-drive", "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd"]
        words += ["-drive", f"if=pflash,format=raw,file={variables}"]
    if restore is not None:
        words += ["-incoming", f"exec:cat {restore}"]
    with (folder / "qemu.log").open("wb") as said:
        process = subprocess.Popen(
            [*map(str, words), *map(str, more)], stdout=said, stderr=said, start_new_session=True
        )
    opened: Machine | None = None
    try:
        opened = Machine(process, folder, port)
        yield opened
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if opened is not None:
            opened.close()


def empty_disk(path: Path, size: str = "4G", base: Path | None = None) -> Path:
    """A fresh qcow2 disk, over `base` if given."""
    backing: list[str | Path] = ["-b", base, "-F", "qcow2"] if base else []
    run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, path, *([] if base else [size])])
    return path


def kickstart_cd(path: Path, text: str, label: str = "BUILDER_KS", fault: str = "") -> Path:
    """A CD with /ks.cfg on it, and the name of a fault (`rehearsal.fault=cdrom`) if there is one."""
    source = path.with_suffix(".d")
    source.mkdir()
    (source / "ks.cfg").write_text(text)
    if fault:
        (source / "fault").write_text(fault)
    run(["genisoimage", "-quiet", "-o", path, "-V", label, "-R", "-J", source])
    return path


def boot_files(iso: Path, folder: Path) -> tuple[Path, Path]:
    """Kernel and initrd of a medium."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("vmlinuz", "initrd.img"):
        run(["xorriso", "-osirrox", "on", "-indev", iso, "-extract", f"/images/pxeboot/{name}", folder / name])
    return folder / "vmlinuz", folder / "initrd.img"
