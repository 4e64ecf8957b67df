"""Messages about nightly runs: to whom they go, when, and what they say.

Invariant: an address is a secret. It reaches the program that sends (`notify_send`) through a pipe; everything else,
the records included, sees its label. An address that fails does not make a run fail.
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
from builder.nightly.record import NightlyRun, Notification
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
class NotifyAddress:
    """Destination of a message; `label` names it for people."""

    url: str = field(repr=False)
    label: str


@dataclass(frozen=True)
class Notifier:
    """Sends messages to some addresses.

    Args:
        warnings: places from which others can read the addresses, a line each.
    """

    addresses: tuple[NotifyAddress, ...] = ()
    when: When = "failure"
    report_url: str = ""
    warnings: tuple[str, ...] = ()

    def send(self, title: str, body: str, kind: Kind, limit: float = LIMIT) -> list[Notification]:
        """Send a message to all addresses at the same time.

        Args:
            limit: seconds after which an address is given up.
        """
        message = {"title": title, "body": body, "kind": kind}

        def deliver(address: NotifyAddress) -> Notification:
            try:
                (answer,) = _ask([address.url], message, limit)
            except HostError as fault:
                return Notification(to=address.label, delivered=False, why=fault.brief)
            why = masked(answer["why"], address.url, address.label)
            return Notification(to=address.label, delivered=answer["ok"], why=why)

        with ThreadPoolExecutor(max(1, len(self.addresses)), thread_name_prefix="notify") as pool:
            return list(pool.map(deliver, self.addresses))


def prepare(given: Sequence[str] | None, settings: NotifySettings, *, visible: bool = False) -> Notifier:
    """Find out who gets messages, and check every address, before a run begins.

    Args:
        given: addresses, or files that hold one a line, which replace those of the settings.
        visible: they were on the command line.

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
    if not urls:
        raise RecipeError(f"there is no address for messages in {' '.join(values)}", hint="write one address a line")
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
    addresses = tuple(NotifyAddress(url, answer["label"]) for url, answer in zip(urls, answers, strict=True))
    return Notifier(addresses, settings.when, settings.report_url, tuple(warnings))


def recovered(nightly: NightlyRun, earlier: Sequence[NightlyRun]) -> list[str]:
    """Return the names of images that are good in this run and were not when they were last built.

    Args:
        earlier: the runs before it, the oldest first.
    """
    last = {result.name: result.good for run in earlier for result in run.results if result.verdict != "skipped"}
    return [result.name for result in nightly.results if result.good and not last.get(result.name, True)]


def notify(
    nightly: NightlyRun, earlier: Sequence[NightlyRun], folder: Path, notifier: Notifier, note: Callable[[str], None]
) -> NightlyRun:
    """Send a message about a run if it failed or images recovered, and record in its report whether it was delivered.

    Args:
        folder: of the report.
        note: gets a line for each address.

    Returns:
        The run with its notifications.
    """
    good_again = recovered(nightly, earlier)
    failed = nightly.exit_code != 0
    if not notifier.addresses or not (failed or good_again or notifier.when == "always"):
        return nightly
    base = notifier.report_url.rstrip("/")
    where = f"<{base}/{folder.name}/{write.PAGE}>" if base else f"`{folder / write.PAGE}` on {nightly.host}"
    state = "failed" if failed else "good again" if good_again else "done"
    what = f"nightly {'rehearsal' if nightly.rehearsal else 'run'} {state}"
    title = f"builder on {nightly.host}: {what} ({markdown.counts(nightly)})"
    kind: Kind = "failure" if failed else "success"
    sent = notifier.send(title, markdown.summary(nightly, good_again, where), kind)
    for notification in sent:
        note(markdown.delivery(notification))
    nightly = nightly.model_copy(update={"notifications": sent})
    try:
        write.rewrite(folder, nightly, earlier)
    except HostError as fault:
        note(f"the report could not be updated: {fault.brief}")
    return nightly


@contextmanager
def aborts_notified(notifier: Notifier, host: str, note: Callable[[str], None]) -> Iterator[None]:
    """Send a message when the block raises: there is no report of such a run."""
    try:
        yield
    except Exception as fault:
        brief = fault.brief if isinstance(fault, BuilderError) else f"internal error: {type(fault).__name__}"
        body = markdown.abort(brief, fault.hint if isinstance(fault, BuilderError) else "")
        for notification in notifier.send(f"builder on {host}: nightly run ended without a report", body, "failure"):
            note(markdown.delivery(notification))
        raise


def is_address(value: str) -> bool:
    """Return whether this is an address, and not the path of a file with addresses."""
    return ":" in value


def masked(text: str, url: str, shown: str) -> str:
    """Return the text without any part of the address that its label does not show."""
    # The words before each = are names of options of apprise.
    values = re.sub(r"[?&][^=&]*=", "/", url.partition("://")[2])
    parts = {part for part in re.split(r"[/?&:@#,;]+", values) if len(part) >= SHORTEST and part not in shown}
    for part in sorted(parts | set(map(unquote, parts)), key=len, reverse=True):
        text = text.replace(part, MASK)
    return text


def _read(values: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the addresses, and warnings about files that others can read."""
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
        HostError: it did not end in time, or broke; the error does not mention the addresses.
    """
    try:
        done = process.run(PROGRAM, stdin=json.dumps({"urls": urls, "message": message}), timeout=limit, check=False)
        answers: list[dict[str, Any]] = json.loads(done.stdout)
    except HostError:
        raise HostError(f"no answer within {limit:g} s") from None
    except ValueError:
        raise HostError("apprise failed") from None
    return answers
