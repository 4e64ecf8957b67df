"""Headless Chromium, driven over two pipes (Chrome DevTools Protocol with --remote-debugging-pipe)."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ERRORS = ("error", "warning", "assert")


class Page:
    """One open page; remembers what its console said."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._file = send, os.fdopen(receive, "rb")
        self._number, self._session = 0, ""
        self._rest = b""
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.loaded = False

    def open(self, address: str) -> None:
        """Load a page to its end."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=address)
        while not self.loaded:
            self._take(self._message())

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def settle(self) -> None:
        """Wait until events that are under way have been dealt with."""
        self.call("Runtime.evaluate", expression="new Promise(done => setTimeout(done))", awaitPromise=True)

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG file."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for its answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self._take(answer)

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = os.read(self._file.fileno(), 1 << 16)
            assert data, "chromium has gone"
            self._rest += data
        one, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(one)
        return found

    def _take(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        match event.get("method"):
            case "Page.loadEventFired":
                self.loaded = True
            case "Runtime.consoleAPICalled" if params["type"] in ERRORS:
                self.complaints.append(json.dumps(params["args"]))
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(params["exceptionDetails"]))
            case "Log.entryAdded" if params["entry"]["level"] in ERRORS:
                self.complaints.append(params["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])

    def close(self) -> None:
        """Give the pipes back."""
        os.close(self._send)
        self._file.close()


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """A browser with a profile of its own in the folder, gone with all its processes afterwards."""
    words = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe"]
    theirs, send = os.pipe()
    receive, answers = os.pipe()

    # The browser reads commands from descriptor 3 and answers on 4.
    script = "import os, sys; a, b = map(os.dup, map(int, sys.argv[1:3])); os.dup2(a, 3); os.dup2(b, 4)"
    script += "; [os.set_inheritable(one, True) for one in (3, 4)]; os.execvp(sys.argv[3], sys.argv[3:])"
    with (folder / "chromium.log").open("wb") as log:
        child = subprocess.Popen(
            [
                sys.executable,
                "-c",
                script,
                str(theirs),
                str(answers),
                *words,
                f"--user-data-dir={folder / 'profile'}",
                "about:blank",
            ],
            stdout=log,
            stderr=log,
            pass_fds=(theirs, answers),
            env={**os.environ, "HOME": str(folder)},
            start_new_session=True,
        )
    os.close(theirs)
    os.close(answers)
    page = Page(send, receive)
    try:
        yield page
        page._session = ""
        page.call("Browser.close")
        child.wait(30)
    finally:
        page.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, 9)
        child.wait()
