"""The table of causes: complete, without an unused row, and right about messages that no guest here prints."""

from __future__ import annotations

import ast
import errno
import itertools
from pathlib import Path

import pytest

import builder
from builder.diagnosis import classify
from builder.diagnosis.causes import CAUSES
from builder.diagnosis.patterns import PATTERNS, Origin
from builder.errors import Cause, Diagnosis, HostError, InstallError, MediumError, Source, VerifyError, of_os_error
from builder.vm.machine import Ending
from tests.faults.test_guest_words import SAID

GONE = Ending("failed", 1.0, "QEMU ended unexpectedly")


def test_every_cause_is_named_by_a_pattern_or_where_it_is_raised() -> None:
    package = Path(builder.__file__).parent
    trees = [ast.parse(path.read_text()) for path in package.rglob("*.py") if path.name != "causes.py"]
    used = {
        node.attr
        for node in itertools.chain.from_iterable(map(ast.walk, trees))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Cause"
    }
    assert used == set(Cause.__members__)


def test_every_pattern_has_a_reference_and_every_cause_a_text() -> None:
    assert all(pattern.reference for pattern in PATTERNS)
    assert CAUSES.keys() == set(Cause)
    assert all(text.hint and text.brief for text in CAUSES.values())


def test_no_line_of_a_good_install_is_a_proof() -> None:
    """The console of an install that goes well, in Anaconda's order and words."""
    good = """
Welcome to CentOS Linux 7 (Core) dracut-033-572.el7 (Initramfs)!
Starting installer, one moment...
anaconda 21.48.22.159-1 for CentOS 7 started.
 * installation log files are stored in /tmp during the installation
 * shell is available on TTY2 and in second TMUX pane (ctrl+b, then press 2)
12:00:01 Not asking for VNC because we don't have a network
Starting automated install....
Generating updated storage configuration
Checking storage configuration...
1) [x] Language settings                 2) [x] Time settings
Progress
Setting up the installation environment
Creating disklabel on /dev/sda
Creating xfs on /dev/sda1
Running pre-installation scripts
Starting package installation process
Preparing transaction from installation source
Installing libgcc (1/301)
Performing post-installation setup tasks
Installing boot loader
Running post-installation scripts
[  OK  ] Reached target Shutdown.
dracut Warning: Killing all remaining processes
Powering off.
[  333.3] Power down.
"""
    assert classify.classify(good, Source.CONSOLE) is None
    assert classify.classify(good, Source.CONSOLE, conclusive=False) is None
    assert classify.classify(good, Source.CONSOLE, Origin.GUEST, conclusive=False) is None


@pytest.mark.parametrize("words", SAID, ids=lambda words: words.cause)
def test_words_are_found_in_the_middle_of_others(words: object) -> None:
    said, cause = words.ttys0.replace("\x1b[7m", "").replace("\x1b[0m", ""), words.cause  # type: ignore[attr-defined]
    found = classify.classify(
        f"Installing x (1/2)\n{said}\n[anaconda] 1:main* 2:shell", Source.CONSOLE, conclusive=False
    )
    # What only an event tells has no words.
    assert (found.cause if found else cause) == cause


@pytest.mark.parametrize("origin", [Origin.INSTALLER, Origin.GUEST])
@pytest.mark.parametrize(
    ("line", "refused"),
    [
        ("modprobe: can't load module isofs (kernel/fs/isofs/isofs.ko): invalid module format", True),
        ("modprobe: ERROR: could not insert 'isofs': Unknown symbol in module, or unknown parameter (see dmesg)", True),
        ("modprobe: ERROR: could not insert 'isofs': Required key not available", True),
        # Of machines that are well: a driver without its device, one that the kernel has built in.
        ("modprobe: can't load module crc32c_intel (crc32c-intel.ko): No such device", False),
        ("modprobe: ERROR: could not insert 'padlock_aes': No such device", False),
        ("modprobe: FATAL: Module floppy not found in directory /lib/modules/3.10.0-1160.el7.x86_64", False),
    ],
)
def test_a_refused_module_is_told_from_a_driver_without_device(line: str, refused: bool, origin: Origin) -> None:
    found = classify.classify(f"Loading modules\n{line}\nWaiting for the medium", Source.CONSOLE, origin)
    assert (found is not None and found.cause is Cause.MODULE_REFUSED) == refused
    assert found is None or found.line in line


def test_words_are_shown_in_their_lines() -> None:
    """As they stood on the console: a script's output is no paragraph; and a prompt is no part of it."""
    text = (
        "Running post-installation scripts\n\nThere was an error running the kickstart script at line 39.  This is a\n"
        "fatal error and installation will be aborted.  The details of this error are:\n\ncopying\n"
        "cp: cannot stat 'x': No such file\n\nPress enter to exit.\n[anaconda] 1:main* 2:shell\n"
    )
    found = classify.classify(text, Source.CONSOLE)
    assert found is not None
    fault = found.to_error(InstallError, "install")
    assert fault.details.splitlines() == [
        "There was an error running the kickstart script at line 39.  This is a",
        "fatal error and installation will be aborted.  The details of this error are:",
        "copying",
        "cp: cannot stat 'x': No such file",
    ]
    assert fault.diagnosis.line.endswith("are: copying cp: cannot stat 'x': No such file")
    hub = " 4) [x] Software\n 5) [!] Root password\n 6) [x] User\n\n"
    prompt = "  Please make your choice from above ['q' to quit | 'b' to begin installation |\n"
    open_item = classify.classify(hub + prompt, Source.CONSOLE)
    assert open_item is not None
    assert open_item.words.splitlines()[0] == "[!] Root password"
    # Where the prompt is all there is, it is the line.
    alone = classify.classify("Press enter to exit.", Source.CONSOLE)
    assert alone is not None
    assert (alone.cause, alone.line) == ("question", "Press enter to exit.")


@pytest.mark.parametrize(
    ("log", "oom", "how", "cause"),
    [
        ("shutting down, reason=crashed", False, "failed", "QEMU killed"),
        ("shutting down, reason=crashed", True, "failed", "QEMU out of memory"),
        ("qemu-system-x86_64: block.c:12: bdrv_x: Assertion `a == b' failed.", False, "failed", "QEMU crashed"),
        ("qemu: terminating on signal 15 from pid 7 (kill)", False, "destroyed", "QEMU killed"),
        ("qemu: terminating on signal 15 from pid 7 (/usr/sbin/libvirtd)", False, "destroyed", "machine ended"),
        ("", False, "destroyed", "machine ended"),
        ("", False, "failed", "QEMU killed"),
    ],
)
def test_the_end_of_qemu(log: str, oom: bool, how: str, cause: str) -> None:
    found = classify.of_ending(Ending(how, 1.0, "gone"), {}, log, oom=oom)  # type: ignore[arg-type]
    assert found.cause == cause
    assert found.line


@pytest.mark.parametrize(
    ("output", "cause", "transient"),
    [
        ("qemu-img: error while writing: No space left on device", "disk full", False),
        ("qemu-system-x86_64: cannot set up guest memory 'pc.ram': Cannot allocate memory", "host memory", True),
        ("Cannot recv data: Connection reset by peer", "libvirt gone", True),
        (
            "internal error: End of file from qemu monitor\nEnd of file while reading data: Input/output error",
            "libvirt gone",
            True,
        ),
        ("qemu-img: error while reading: Input/output error", "disk error", False),
        ("something nobody foresaw", "", False),
    ],
)
def test_words_of_programs_of_this_host(output: str, cause: str, transient: bool) -> None:
    diagnosis = classify.diagnose(HostError("it failed", output=output)).diagnosis
    assert (diagnosis.cause or "", diagnosis.transient) == (cause, transient)


def test_only_output_is_searched_and_a_named_cause_stays() -> None:
    words = "No space left on device"
    assert classify.diagnose(HostError(words, words, words)).diagnosis.cause is None
    error = VerifyError("a check failed", words, output=words, cause=Cause.CHECK_FAILED, role="twin-a")
    assert classify.diagnose(error).diagnosis == Diagnosis(
        Cause.CHECK_FAILED, "a check failed", Source.BUILDER, "twin-a"
    )


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (errno.ENOSPC, Cause.DISK_FULL),
        (errno.EDQUOT, Cause.DISK_FULL),
        (errno.EROFS, Cause.READ_ONLY),
        (errno.EIO, Cause.DISK_ERROR),
        (errno.ENOMEM, Cause.HOST_MEMORY),
        (errno.EACCES, None),
    ],
)
def test_the_number_of_the_error_names_the_cause(number: int, cause: Cause | None) -> None:
    """Whatever language strerror(3) speaks; also where the OSError itself is hidden from people."""

    def fail(*, hidden: bool) -> None:
        try:
            raise OSError(number, "in another language")
        except OSError as fault:
            raise MediumError("cannot read x.iso") from (None if hidden else fault)

    for hidden in (False, True):
        with pytest.raises(MediumError) as caught:
            fail(hidden=hidden)
        assert classify.diagnose(caught.value).diagnosis.cause is cause
    plain = of_os_error(OSError(number, "in another language"))
    assert (plain.diagnosis.cause if plain else cause) is cause


def test_an_error_raised_from_another_has_its_cause() -> None:
    with pytest.raises(VerifyError) as caught:
        raise VerifyError("the console failed") from HostError("virsh failed", output="client socket is closed")
    assert classify.diagnose(caught.value).diagnosis.cause is Cause.LIBVIRT_GONE


def test_what_a_script_said_last_is_told() -> None:
    """The reason for its end comes after what went well."""
    done = "Created symlink /etc/systemd/system/multi-user.target.wants/builder-first-boot.service.\n" * 3
    said = f"There was an error running the kickstart script at line 39.\n\n{done}the licence server does not answer\n"
    found = classify.classify(said, Source.CONSOLE)
    assert found is not None
    assert found.shown.endswith("the licence server does not answer")
