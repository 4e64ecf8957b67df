"""A console that asks for a name and a password as getty and login(1) do, and then runs a real shell.

Run as a program on a terminal, with the kind of login as its one argument; the password is in the environment.
"""

from __future__ import annotations

import os
import select
import sys
import termios

from tests.fakes import systemd

MANNERS = ("el7", "debian", "systemd 257", "noisy", "press enter", "torn", "silent", "expired")


def say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def read_line() -> str:
    return sys.stdin.readline().rstrip("\n")


def read_secret(prompt: str) -> str:
    """As glibc's getpass: echo off, typed-ahead input thrown away, before and after."""
    old = termios.tcgetattr(0)
    new = termios.tcgetattr(0)
    new[3] &= ~termios.ECHO
    termios.tcsetattr(0, termios.TCSAFLUSH, new)
    say(prompt)
    secret = read_line()
    termios.tcsetattr(0, termios.TCSAFLUSH, old)
    say("\n")
    return secret


def ask_for_the_size() -> None:
    """As systemd 257 does before each getty: what is typed in answer, or at all, is never the login name."""
    old = termios.tcgetattr(0)
    new = termios.tcgetattr(0)
    new[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(0, termios.TCSADRAIN, new)
    say(systemd.TERMINAL_RESET.decode())
    answered = select.select([0], [], [], 0.05)[0]
    termios.tcsetattr(0, termios.TCSADRAIN, old)
    if answered:
        say("\nsomebody answered\n")
        sys.exit(1)


def banner(manner: str) -> str:
    if manner == "systemd 257":
        return systemd.AGETTY.decode().replace("\r", "")
    if manner == "debian":
        return "\nDebian GNU/Linux 12 rehearsal ttyS0\n\nrehearsal login: "
    return "\nCentOS Linux 7 (Core)\nKernel 3.10.0-1160.el7.x86_64 on an x86_64\n\nlocalhost login: "


def main(manner: str) -> None:
    if manner == "silent":
        read_line()
        return
    if manner == "press enter":
        read_line()
    if manner == "torn":
        say("\nlocalhost lo[    9.1] random: crng init done\ngin: ")
        read_line()
    while True:
        if manner == "systemd 257":
            for _ in range(3):
                ask_for_the_size()
        say("[    8.123456] IPv6: ADDRCONF(NETDEV_UP): eth0: link is not ready\n")
        say(banner(manner))
        if manner == "noisy":
            say("[   20.000001] 8021q: 802.1Q VLAN Support v1.8\n")
        name = read_line()
        if not name:
            continue
        secret = read_secret("Password: " + ("[   21.0] a kernel message\n" if manner == "noisy" else ""))
        if manner == "expired":
            say("Your account has expired; please contact your system administrator\n")
        elif name == "root" and secret == os.environ["FAKE_PASSWORD"]:
            break
        else:
            say("Login incorrect\n")
    if manner == "debian":
        say("Linux rehearsal 6.1.0 x86_64\n\x1b[?2004h")
    say("Last login: Mon Nov 23 09:00:00 on ttyS0\n")
    environment = {**os.environ, "PS1": "\x1b[01;32m[root@localhost ~]# \x1b[0m", "TERM": "vt220"}
    os.execvpe("bash", ["bash", "--norc", "-i"], environment)


if __name__ == "__main__":
    main(sys.argv[1])
