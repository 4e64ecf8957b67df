"""A boot sector for machines under test, in 512 bytes written out here instruction by instruction.

It is for the first disk (or, through El Torito "no emulation", for a CD), writes to the two serial ports and ends in a
chosen way. It uses real mode, and touches nothing but the 16550 ports and the ACPI power register.
Sources: Intel SDM volume 2 (encodings), the 16550 data sheet (line status bit 5: transmitter empty), SeaBIOS
(power management base 0x600, so PM1a control is port 0x604, on both `q35` and `pc`), the BIOS's extended disk services
(int 13h, functions 42h and 43h).
"""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path
from typing import Literal

End = Literal["poweroff", "hang", "reset", "triple fault", "panic", "read", "write"]

TTYS0 = 0x3F8
TTYS1 = 0x2F8
LINE = 64
ORIGIN = 0x7C00


class _Code:
    """Machine code with labels; jumps are 16-bit relative, data references absolute."""

    def __init__(self) -> None:
        self.bytes = bytearray()
        self.labels: dict[str, int] = {}
        self.fixes: list[tuple[int, str, bool]] = []

    def put(self, text: str) -> None:
        self.bytes += bytes.fromhex(text)

    def word(self, value: int) -> None:
        self.bytes += struct.pack("<H", value)

    def label(self, name: str) -> None:
        self.labels[name] = len(self.bytes)

    def jump(self, opcode: str, name: str) -> None:
        self.put(opcode)
        self.fixes.append((len(self.bytes), name, True))
        self.word(0)

    def address(self, opcode: str, name: str) -> None:
        self.put(opcode)
        self.fixes.append((len(self.bytes), name, False))
        self.word(0)

    def finished(self) -> bytes:
        for place, name, relative in self.fixes:
            target = self.labels[name]
            value = target - (place + 2) if relative else ORIGIN + target
            struct.pack_into("<H", self.bytes, place, value & 0xFFFF)
        return bytes(self.bytes)


def boot_sector(
    *, ttys0: bytes = b"", ttys1: bytes = b"", flood: tuple[int, int] | None = None, end: End = "poweroff"
) -> bytes:
    """512 bytes that print `flood`, then `ttys0`, then `ttys1`, and end.

    Args:
        flood: a port and a number of lines of 64 bytes, each with its own number: see `flood_lines`.

    Raises:
        ValueError: the texts do not fit into the sector.
    """
    code = _Code()
    code.put("FA 31C0 8ED8 8ED0")  # cli; xor ax,ax; mov ds,ax; mov ss,ax
    code.put("BC")
    code.word(ORIGIN)  # mov sp,0x7c00
    code.put("FC")  # cld
    if flood:
        _flood(code, *flood)
    for name, port in (("ttys0", TTYS0), ("ttys1", TTYS1)):
        code.address("BE", name)  # mov si,text
        code.put("BB")
        code.word(port)  # mov bx,port
        code.jump("E8", "print")  # call print
    _end(code, end)
    _routines(code)
    for name, text in (("ttys0", ttys0), ("ttys1", ttys1)):
        code.label(name)
        code.bytes += text + b"\0"
    done = code.finished()
    if len(done) > 510:
        raise ValueError(f"{len(done)} bytes do not fit into a boot sector")
    return done.ljust(510, b"\0") + b"\x55\xaa"


def flood_lines(count: int) -> bytes:
    """What a flood of `count` lines puts on its port: each line names itself, so that a gap shows where it is."""
    filler = b"." * (LINE - 10)
    return b"".join(b"%08X" % (count - number) + filler + b"\r\n" for number in range(count))


def disk_image(path: Path, sector: bytes, size: int = 1 << 20) -> Path:
    """A raw disk that boots this sector."""
    path.write_bytes(sector)
    with path.open("r+b") as file:
        file.truncate(size)
    return path


def cd_image(path: Path, sector: bytes, volume: str = "FAKE") -> Path:
    """An ISO that boots this sector (El Torito, no emulation), made by genisoimage."""
    tree = path.with_suffix(".tree")
    tree.mkdir()
    (tree / "boot.bin").write_bytes(sector.ljust(2048, b"\0"))
    el_torito = ["-b", "boot.bin", "-no-emul-boot", "-boot-load-size", "4"]
    subprocess.run(["genisoimage", "-quiet", "-V", volume, *el_torito, "-o", str(path), str(tree)], check=True)
    path.chmod(0o444)
    return path


def _flood(code: _Code, port: int, count: int) -> None:
    """Lines of 8 hexadecimal digits counting down from `count`, dots, CR, LF."""
    code.put("BB")
    code.word(port)  # mov bx,port
    code.put("66BD")
    code.bytes += struct.pack("<I", count)  # mov ebp,count
    code.label("line")
    code.put("6689EF")  # mov edi,ebp
    code.put("B90800")  # mov cx,8
    code.label("digit")
    code.put("66C1C704")  # rol edi,4
    code.put("89F8 240F")  # mov ax,di; and al,15
    code.put("3C0A 1C69 2F")  # cmp al,10; sbb al,0x69; das: the classic nibble to ASCII
    code.jump("E8", "put")  # call put
    code.jump("49 0F85", "digit")  # dec cx; jnz digit
    code.put("B9")
    code.word(LINE - 10)  # mov cx,filler
    code.label("dot")
    code.put("B02E")  # mov al,'.'
    code.jump("E8", "put")
    code.jump("49 0F85", "dot")  # dec cx; jnz dot
    for byte in ("0D", "0A"):
        code.put(f"B0{byte}")  # mov al,byte
        code.jump("E8", "put")
    code.jump("664D 0F85", "line")  # dec ebp; jnz line


def _end(code: _Code, end: End) -> None:
    if end in ("poweroff", "reset", "triple fault", "panic"):
        # 0.2 s, as real machines take longer: what the kernel still holds of a pty goes when QEMU does, and libvirt's
        # daemon has to be quicker. int 15h, function 86h: microseconds in cx:dx.
        code.put("B486 B90300 BA400D CD15 FA")  # mov ah,0x86; mov cx,3; mov dx,0x0d40; int 0x15; cli
    if end == "poweroff":
        code.put("BA0406 B80020 EF")  # mov dx,0x604; mov ax,0x2000 (SLP_EN, S5); out dx,ax
    elif end == "reset":
        code.put("BAF90C B006 EE")  # mov dx,0xcf9; mov al,6 (hard reset); out dx,al
    elif end == "triple fault":
        code.address("0F011E", "no_idt")  # lidt [no_idt]: a table of length 0
        code.put("CC")  # int3: no handler, no double-fault handler, shutdown
    elif end in ("read", "write"):
        _disk(code, end)
    elif end == "panic":
        code.put("BA0505 B001 EE")  # mov dx,0x505 (pvpanic); mov al,1; out dx,al
    code.label("stop")
    code.put("F4")  # hlt, with interrupts off
    code.jump("E9", "stop")
    code.label("no_idt")
    code.put("0000 00000000")


def _disk(code: _Code, end: End) -> None:
    """For ever: read the first sector of the first disk, or write one sector of each of its pages in turn."""
    code.label("turn")
    code.address("BE", "packet")  # mov si,packet
    code.put("B280")  # mov dl,0x80
    code.put("B80042" if end == "read" else "B80043")  # mov ax,0x4200 or 0x4300
    code.put("CD13")  # int 0x13
    if end == "write":
        code.address("8306", "block")  # add word [block],8
        code.put("08")
    code.jump("E9", "turn")
    # 16 bytes long; 1 sector; at 0000:8000; from this block on.
    code.label("packet")
    code.put("1000 0100 0080 0000")
    code.label("block")
    code.put("0000 0000 0000 0000")


def _routines(code: _Code) -> None:
    """`print`: the text at si to port bx, up to its 0. `put`: al to port bx, when the transmitter is empty."""
    code.label("print")
    code.put("AC 84C0")  # lodsb; test al,al
    code.jump("0F84", "return")  # jz return
    code.jump("E8", "put")
    code.jump("E9", "print")
    code.label("put")
    code.put("88C4")  # mov ah,al
    code.put("8D5705")  # lea dx,[bx+5]
    code.label("busy")
    code.put("EC A820")  # in al,dx; test al,0x20
    code.jump("0F84", "busy")  # jz busy
    code.put("88E0 89DA EE")  # mov al,ah; mov dx,bx; out dx,al
    code.label("return")
    code.put("C3")  # ret
