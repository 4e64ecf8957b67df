"""What systemd 257.13 and agetty 2.41.5 of Debian 13 wrote to ttyS0 of a machine in QEMU, byte for byte."""

from __future__ import annotations

# Before each start of a getty, up to three times: reset, palette, wrap; then where is the cursor, go to the far
# corner, where is it now. 333 ms are given to answer (terminal_get_size_by_dsr in systemd's terminal-util.c).
TERMINAL_RESET = b"\x1b[!p\x1b]104\x07\x1b[?7h\x1b[6n\x1b[32766;32766H\x1b[6n"
AGETTY = b"\r\n\r\nDebian GNU/Linux 13 vm ttyS0\r\n\r\nvm login: "
# Of a login that went well, from the password on.
LOGGED_IN = (
    b"\r\nLinux vm 6.1.0-57-amd64 #1 SMP PREEMPT_DYNAMIC Debian 6.1.192-3 (2026-11-26) x86_64\r\n\r\n"
    b"The programs included with the Debian GNU/Linux system are free software;\r\n\x1b[?2004hroot@vm:~# "
)
