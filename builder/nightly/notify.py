"""Messages about nightly builds: to whom they go, when, and what they say.

Invariant: an address is a secret. It reaches the program that sends (`notify_send`) through a pipe; everybody else, and
every record, sees its label. No address that fails makes a night fail.
"""

from __future__ import annotations

import importlib.util
import json
import re
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from builder.errors import BuilderError, HostError, RecipeError
from builder.host.config import NotifySettings, When
from builder.nightly import ENVIRONMENT
from builder.nightly.record import Night, Notification
from builder.nightly.report import markdown, write
from builder.system import process

# Seconds for one message; apprise itself gives up a server that does not answer after four.
LIMIT = 30.0
# Without -P a folder named `builder` in the working directory would be taken for this program.
PROGRAM = (sys.executable, "-P", "-m", "builder.nightly.notify_send")
MASK = "***"
# Shorter parts of an address are too frequent in other text to be masked.
SHORTEST = 3
REFUSED = "apprise does not know such addresses, or a part of this one is missing or malformed"
SAFER = f"put addresses into a file of mode 0600 and name that file, or into the environment ({ENVIRONMENT})"

Kind = Literal["failure", "success"]


@dataclass(frozen=True)
class Address:
    """Where a message goes; `label` names it for people."""

    url: str = field(repr=False)
    label: str


@dataclass(frozen=True)
class Notifier:
    """Who gets messages.

    Args:
        warnings: places from which others can read the addresses, a line each.
    """

    addresses: tuple[Address, ...] = ()
    when: When = "failure"
    report_url: str = ""
    warnings: tuple[str, ...] = ()

    def send(self, title: str, body: str, kind: Kind, limit: float = LIMIT) -> list[Notification]:
        """Send a message to all addresses at the same time.

        Args:
            limit: seconds after which an address is given up.
        """
        message = {"title": title, "body": body, "kind": kind}

        def deliver(address: Address) -> Notification:
            try:
                (answer,) = _ask([address.url], message, limit)
            except HostError as fault:
                return Notification(to=address.label, delivered=False, why=fault.brief)
            why = masked(answer["why"], address.url, address.label)
            return Notification(to=address.label, delivered=answer["ok"], why=why)

        with ThreadPoolExecutor(max(1, len(self.addresses)), thread_name_prefix="notify") as pool:
            return list(pool.map(deliver, self.addresses))


def prepare(given: Sequence[str] | None, settings: NotifySettings, *, visible: bool = False) -> Notifier:
    """Find out who gets messages, and check every address, before a night begins.

    Args:
        given: addresses, or files that hold one a line, which replace those of the settings.
        visible: they stood on the command line.

    Raises:
        RecipeError: a file cannot be read, or apprise does not understand an address.
        HostError: apprise is not installed.
    """
    values = given or settings.to
    if not values:
        return Notifier()
    if importlib.util.find_spec("apprise") is None:
        raise HostError("messages need the library apprise", hint="pip install 'builder[notify]'")
    urls, warnings = _read(values)
    if visible and any(map(is_address, values)):
        warnings.append(f"every user of this host can read an address on the command line: {SAFER}")
    if not given and settings.source and any(map(is_address, values)):
        warnings += _readable(settings.source)
    try:
        answers = _ask(urls, None, LIMIT)
    except HostError as fault:
        raise HostError("the addresses for messages could not be checked", fault.brief) from None
    for answer in answers:
        if not answer["ok"]:
            brief = f"no message can be sent to {answer['label']}"
            raise RecipeError(brief, REFUSED, "docs/nightly.md shows what addresses look like")
    addresses = tuple(Address(url, answer["label"]) for url, answer in zip(urls, answers, strict=True))
    return Notifier(addresses, settings.when, settings.report_url, tuple(warnings))


def recovered(night: Night, earlier: Sequence[Night]) -> list[str]:
    """Name the images that are good in this night and were not when they were built last.

    Args:
        earlier: the nights before it, the oldest first.
    """
    last = {result.name: result.good for other in earlier for result in other.results if result.verdict != "not built"}
    return [result.name for result in night.results if result.good and not last.get(result.name, True)]


def notify(
    night: Night, earlier: Sequence[Night], folder: Path, notifier: Notifier, note: Callable[[str], None]
) -> Night:
    """Send a message about a night if there is anything to say, and add what became of it to the night's report.

    Args:
        folder: of the report.
        note: gets a line for each address.

    Returns:
        The night with its notifications.
    """
    again = recovered(night, earlier)
    failed = night.exit_code != 0
    if not notifier.addresses or not (failed or again or notifier.when == "always"):
        return night
    base = notifier.report_url.rstrip("/")
    where = f"<{base}/{folder.name}/{write.PAGE}>" if base else f"`{folder / write.PAGE}` on {night.host}"
    state = "failed" if failed else "good again" if again else "done"
    title = (
        f"builder on {night.host}: {'rehearsal ' if night.rehearsal else ''}night {state} ({markdown.counts(night)})"
    )
    kind: Kind = "failure" if failed else "success"
    sent = notifier.send(title, markdown.summary(night, again, where), kind)
    for one in sent:
        note(markdown.delivery(one))
    night = night.model_copy(update={"notifications": sent})
    try:
        write.rewrite(folder, night, earlier)
    except HostError as fault:
        note(f"the report does not say so: {fault.brief}")
    return night


@contextmanager
def aborts_notified(notifier: Notifier, host: str, note: Callable[[str], None]) -> Iterator[None]:
    """Send a message when the block raises: there is no report of such a night."""
    try:
        yield
    except Exception as fault:
        brief = fault.brief if isinstance(fault, BuilderError) else f"internal error: {type(fault).__name__}"
        body = markdown.abort(brief, fault.hint if isinstance(fault, BuilderError) else "")
        for one in notifier.send(f"builder on {host}: night ended without a report", body, "failure"):
            note(markdown.delivery(one))
        raise


def is_address(value: str) -> bool:
    """Whether this is an address, and not the path of a file with addresses."""
    return ":" in value


def masked(text: str, url: str, shown: str) -> str:
    """The text without any part of the address that its label does not show."""
    # What stands before a = names an option of apprise.
    values = re.sub(r"[?&][^=&]*=", "/", url.partition("://")[2])
    parts = {part for part in re.split(r"[/?&:@#,;]+", values) if len(part) >= SHORTEST and part not in shown}
    for part in sorted(parts | set(map(unquote, parts)), key=len, reverse=True):
        text = text.replace(part, MASK)
    return text


def _read(values: Sequence[str]) -> tuple[list[str], list[str]]:
    """The addresses, and warnings about files that others can read."""
    urls, warnings = [], []
    for value in values:
        if is_address(value):
            urls.append(value)
            continue
        path = Path(value)
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as fault:
            why = fault.strerror or "" if isinstance(fault, OSError) else "it is not UTF-8 text"
            raise RecipeError(f"the addresses in {path} cannot be read: {why}", hint="one address a line") from None
        urls += [line for line in lines if line and not line.startswith("#")]
        warnings += _readable(path)
    return list(dict.fromkeys(urls)), warnings


def _readable(path: Path) -> list[str]:
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return [f"others can read the addresses in {path}: chmod 600 {path}"]
    return []


def _ask(urls: Sequence[str], message: dict[str, str] | None, limit: float) -> list[dict[str, Any]]:
    """Run the program that checks and sends.

    Raises:
        HostError: it did not end in time, or broke; the error says nothing of the addresses.
    """
    try:
        done = process.run(PROGRAM, stdin=json.dumps({"urls": urls, "message": message}), timeout=limit, check=False)
        answers: list[dict[str, Any]] = json.loads(done.stdout)
    except HostError:
        raise HostError(f"no answer within {limit:g} s") from None
    except ValueError:
        raise HostError("apprise failed") from None
    return answers
