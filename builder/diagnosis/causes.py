"""Texts about each cause of a failure: what it means, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from builder.errors import Cause


@dataclass(frozen=True)
class CauseText:
    """Text and hint of a cause."""

    brief: str
    hint: str


CAUSES = {
    # -- the kickstart
    Cause.KICKSTART_ERROR: CauseText("the installer refuses the kickstart",
        "correct the template at that line; `builder kickstart lint` finds most of these before a machine starts"),
    Cause.MISSING_PACKAGE: CauseText("a package is not on the medium",
        "remove it from kickstart.vars.packages, or use a medium that has it"),
    Cause.MISSING_GROUP: CauseText("a package group is not on the medium",
        "remove it, or use a medium that has it"),
    Cause.MANDATORY_ITEM: CauseText("the kickstart leaves a mandatory item open",
        "add what is missing (rootpw, a disk, a package source): it is marked [!] on the console"),
    Cause.PARTITIONING: CauseText("the disk cannot be partitioned as the kickstart says",
        "compare the part lines with disk.size of the recipe"),
    Cause.DISK_TOO_SMALL: CauseText("the disk is too small for the packages",
        "raise disk.size of the recipe"),
    Cause.LOW_MEMORY: CauseText("the machine has too little memory",
        "raise machine.memory of the recipe"),
    Cause.SCRIPT_FAILED: CauseText("a script of the kickstart failed",
        "the line is the script's in kickstart.cfg; its output is in anaconda.log and on the console"),
    Cause.NO_POWER_OFF: CauseText("the installer is done, but the kickstart does not end the machine",
        "end the kickstart with `poweroff`"),
    Cause.REBOOT: CauseText("the guest reset itself",
        "end the kickstart with `poweroff`: a reboot would start the installer again"),
    Cause.NO_MARKER: CauseText("the guest powered itself off, but never reported success",
        "the end of %post was not reached"),
    Cause.FOREIGN_MARKER: CauseText("the guest powered itself off, but reported another kickstart's token",
        "the medium holds another kickstart than this run's: run again with --rebuild remaster"),
    # -- the installer
    Cause.PACKAGES: CauseText("the packages could not be installed",
        "see anaconda.log: a broken medium, or packages that exclude each other"),
    Cause.BOOT_LOADER: CauseText("the boot loader could not be installed",
        "its words are in the details, and those of the programs it ran are in anaconda.log"),
    Cause.QUESTION: CauseText("the installer stopped at a question",
        "its words are in the details: answer it in the kickstart"),
    Cause.TRACEBACK: CauseText("the installer crashed",
        "its traceback is in anaconda.log"),
    Cause.INSTALLER_ENDED: CauseText("the installer ended by itself",
        "see the console above that line"),
    # -- the medium
    Cause.KICKSTART_NOT_FOUND: CauseText("the kickstart was not found",
        "the medium and inst.ks= do not fit"),
    Cause.MODULE_REFUSED: CauseText("the kernel refuses a module of its initramfs",
        "initramfs and kernel do not fit together: the medium was changed, or made wrong; make it anew, or take "
        "another one"),
    Cause.DRACUT_TIMEOUT: CauseText("the installer does not find its medium",
        "LABEL= on its command line and the volume id of the medium must be the same"),
    Cause.EMERGENCY_SHELL: CauseText("the machine fell into an emergency shell",
        "see the console above that line"),
    Cause.MEDIUM_CHECK: CauseText("the medium check failed",
        "the medium is damaged, or was changed without a new md5"),
    # -- the guest
    Cause.CPU_TOO_OLD: CauseText("the CPU is too old for the programs of this release",
        "take a newer host, or --accel tcg with QEMU 7.2 or later; `release` of the recipe says which CPU it needs"),
    Cause.KERNEL_PANIC: CauseText("the guest's kernel panicked",
        "see the console above that line"),
    Cause.GUEST_OUT_OF_MEMORY: CauseText("the guest ran out of memory",
        "raise machine.memory of the recipe"),
    Cause.CONSOLE_FLOOD: CauseText("the guest writes without end",
        "see what repeats itself at the end of console.log"),
    Cause.STALLED: CauseText("the guest shows no sign of life",
        "see the end of console.txt, and screenshot.png: an installer that asks a question waits for ever"),
    Cause.TIME_LIMIT: CauseText("the guest took too long",
        "limits.install or limits.boot of the recipe sets the time"),
    Cause.NO_DHCP: CauseText("the guest got no address",
        "does a DHCP server answer on this network?"),
    # -- the door
    Cause.NO_TCP: CauseText("the guest's SSH port is closed",
        "did the guest boot, and did its sshd start? See its console"),
    Cause.NO_BANNER: CauseText("the guest's SSH port says nothing",
        "did the guest boot, and did its sshd start? See its console"),
    Cause.KEY_EXCHANGE: CauseText("SSH could not agree with the guest",
        "compare the guest's sshd_config with the ciphers of today"),
    Cause.SSHD_REFUSES_ROOT: CauseText("the guest's sshd refuses root",
        "PermitRootLogin and authorized_keys decide; the seed brings the key"),
    Cause.WRONG_HOST_KEY: CauseText("another host key than the guest's own answers",
        "another machine answers there, or the guest made its keys again after it reported them"),
    Cause.CONSOLE_REFUSES_ROOT: CauseText("the console refuses root's password",
        "rootpw in the kickstart, or an expired or locked account"),
    Cause.NO_LOGIN_PROGRAM: CauseText("the login prompt starts again in place of asking for a password",
        "agetty cannot run /bin/login: is it in the image? (package login on Debian, util-linux on EL)"),
    # -- the image
    Cause.NO_IDENTITY: CauseText("a copy did not take its identity",
        "did it boot, and did its first-boot unit run? See its console"),
    Cause.NOT_BOOTED: CauseText("a copy never finished booting",
        "the jobs that still run are in the details"),
    Cause.FAILED_UNIT: CauseText("a service of the image failed",
        "its log is in the details"),
    Cause.CHECK_FAILED: CauseText("a check of the recipe failed",
        "verify.checks of the recipe has its command"),
    Cause.COPIES_ALIKE: CauseText("two copies of the image are alike where machines differ",
        "what makes a machine this machine must not be in the image: see the end of the kickstart's %post"),
    Cause.SECRET_IN_IMAGE: CauseText("the installed disk holds a secret",
        "remove at the end of %post what the details name"),
    Cause.PROVISION_FAILED: CauseText("a script or playbook of the recipe failed",
        "its output is in provision.log"),
    # -- the host
    Cause.QEMU_KILLED: CauseText("QEMU was killed",
        "the sender of the signal is named in qemu.log; of SIGKILL no sender is known"),
    Cause.QEMU_OUT_OF_MEMORY: CauseText("the host's kernel killed QEMU for its memory",
        "give the host more memory, or run less beside it"),
    Cause.QEMU_CRASHED: CauseText("QEMU broke",
        "its last words are in qemu.log"),
    Cause.MACHINE_ENDED: CauseText("the machine was ended from outside",
        "it was destroyed on the host: see the libvirt log"),
    Cause.LIBVIRT_GONE: CauseText("libvirt went away",
        "look why libvirtd ended (journalctl -u libvirtd, dmesg), then run again"),
    Cause.HOST_MEMORY: CauseText("the host has no memory left for the machine",
        "lower machine.memory, or run less beside it"),
    Cause.DISK_FULL: CauseText("the host's disk is full",
        "builder gc; builder images prune; or --artifacts on a larger disk"),
    Cause.READ_ONLY: CauseText("the place is read-only",
        "mount it writable, or give builder another place with --artifacts"),
    Cause.CORRUPT: CauseText("a finished file is not what it was",
        "run again: it was marked, and is built anew; look at the host's disk (dmesg, smartctl)"),
    Cause.DISK_ERROR: CauseText("the machine's disk cannot be read or written",
        "dmesg of the host says which disk fails"),
    Cause.NO_MIRROR: CauseText("no mirror gave the install medium",
        "try later, or give the ISO with --media FILE"),
    Cause.NOT_ON_MIRRORS: CauseText("no mirror has the install medium",
        "compare media.sources of the recipe with what the mirrors have, or give the ISO with --media FILE"),
    Cause.WRONG_MEDIUM: CauseText("the medium is not the one that was asked for",
        "compare its sha256 with the vendor's"),
}  # fmt: skip
