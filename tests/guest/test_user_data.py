"""User-data for cloud-init: what it acts on is taken as it is, and all else is told before a clone is made."""

from __future__ import annotations

import gzip
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from pathlib import Path

import pytest

from builder.errors import RecipeError
from builder.guest import user_data

pytestmark = pytest.mark.unit

CONFIG = b"#cloud-config\npackages: [git]\nruncmd:\n  - touch /root/ran\n"
SCRIPT = b"#!/bin/sh\ntouch /root/ran\n"


def mime(*parts: tuple[str, str]) -> bytes:
    message = MIMEMultipart()
    for kind, text in parts:
        message.attach(MIMEText(text, kind))
    return message.as_bytes()


TAKEN = {
    "configuration": CONFIG,
    "nothing but its head": b"#cloud-config\n",
    "head in other letters, behind an empty line": b"\n#Cloud-Config\na: 1\n",
    # PyYAML takes the last of two.
    "a key twice": b"#cloud-config\na: 1\na: 2\n",
    "script": SCRIPT,
    "addresses": b"#include\nhttps://example.org/user-data\n",
    "boothook": b"#cloud-boothook\n#!/bin/sh\ntrue\n",
    # Its YAML is made in the guest.
    "template": b"## template: jinja\n#cloud-config\n{% if a %}b: {{ a }}{% endif %}\n",
    "archive": b"#cloud-config-archive\n- {type: text/cloud-config, content: 'a: 1'}\n",
    "MIME": mime(("cloud-config", "a: 1\n"), ("x-shellscript", SCRIPT.decode())),
    "MIME with one part": b"MIME-Version: 1.0\nContent-Type: text/cloud-config\n\na: 1\n",
    "compressed": gzip.compress(CONFIG),
    "compressed MIME": gzip.compress(mime(("cloud-config", "a: 1\n"))),
}


@pytest.mark.parametrize("data", TAKEN.values(), ids=TAKEN)
def test_what_cloud_init_acts_on_is_taken_byte_for_byte(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    assert user_data.read(tmp_path / "file") == data


REFUSED = {
    "empty": (b"", "nothing that cloud-init acts on: it begins with ''"),
    "configuration without its head": (b"packages: [git]\n", "begins with 'packages: \\[git\\]'"),
    "a comment before the head": (b"# mine\n#cloud-config\n", "begins with '# mine'"),
    "not YAML": (b"#cloud-config\na: 1\nb: [\n", "line 4: not YAML"),
    "a tab": (b"#cloud-config\na:\n\tb: 1\n", "line 3: not YAML"),
    "a list": (b"#cloud-config\n- a\n- b\n", "is not `key: value` lines"),
    "not UTF-8": (b"#cloud-config\na: 1\nb: \xff\n", "line 3: not UTF-8"),
    "byte order mark": (b"\xef\xbb\xbf#cloud-config\na: 1\n", "byte order mark"),
    "script of DOS": (b"#!/bin/sh\r\ntrue\r\n", "DOS line endings"),
    "MIME without its version": (b"Content-Type: multipart/mixed; boundary=x\n\n--x\n", "no MIME-Version"),
    "MIME without parts": (b"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=x\n\n", "without parts"),
    "MIME with a bad part": (mime(("cloud-config", "a: 1\n"), ("cloud-config", "b: [\n")), "part 2, line 2: not YAML"),
    "MIME with a part of no kind": (mime(("plain", "hello\n")), "part 1 is nothing that cloud-init acts on"),
    "too large": (CONFIG + b"#" * user_data.MOST, "more than 1 MiB"),
    "too large when it is unpacked": (gzip.compress(CONFIG + b"#" * user_data.MOST), "more than 1 MiB"),
    "gzip that breaks off": (gzip.compress(CONFIG)[:-9], "breaks off"),
    "no gzip": (b"\x1f\x8bno", "cannot be unpacked"),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED)
def test_all_else_is_refused_with_its_place(tmp_path: Path, data: bytes, message: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(data)
    with pytest.raises(RecipeError, match=message) as caught:
        user_data.read(file)
    assert str(file) in caught.value.brief


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(RecipeError, match="cannot read the user-data"):
            user_data.read(path)
