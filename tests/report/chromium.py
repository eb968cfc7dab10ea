"""A real Chromium for tests, driven over the DevTools protocol through two pipes: no driver, no socket, no library."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 60.0  # seconds for one answer
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--no-first-run",
    "--no-default-browser-check",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
)


def find() -> str | None:
    """Return the path of a Chromium, if the machine has one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One headless Chromium with a profile of its own; ends with the `with` block."""

    def __init__(self, binary: str, profile: Path) -> None:
        child_reads, self._write = os.pipe()
        self._read, child_writes = os.pipe()
        # Chromium reads commands from descriptor 3 and answers on 4; the shell puts our pipes there.
        command = f'exec "$0" "$@" 3<&{child_reads} 4>&{child_writes}'
        self._log = (profile / "chromium.log").open("wb")
        self._process = subprocess.Popen(
            ["bash", "-c", command, binary, *FLAGS, f"--user-data-dir={profile / 'profile'}", "about:blank"],
            pass_fds=(child_reads, child_writes),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        os.close(child_reads)
        os.close(child_writes)
        self._buffer = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.call("Browser.close")
        except (OSError, RuntimeError):
            self._process.kill()
        finally:
            os.close(self._write)
            os.close(self._read)
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._log.close()

    def call(self, method: str, *, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Send one command and return its result; events that arrive meanwhile are kept in `events`."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE
        while True:
            answer = self._next(deadline)
            if answer.get("id") != self._number:
                self.events.append(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']}")
            else:
                result: dict[str, Any] = answer["result"]
                return result

    def await_event(self, method: str, session: str) -> dict[str, Any]:
        """Return the next event of that name that has not been handed out."""
        deadline = time.monotonic() + PATIENCE
        while True:
            for index, event in enumerate(self.events):
                if event.get("method") == method and event.get("sessionId") == session:
                    return self.events.pop(index)
            self.events.append(self._next(deadline))

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(self._read, 1 << 20) if ready else b""
            if not chunk:
                raise RuntimeError("the browser does not answer")
            self._buffer += chunk
        raw, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        return message

    @contextmanager
    def page(self, path: Path, *, width: int, height: int = 900, dark: bool = False) -> Iterator[Page]:
        """Open a file in a fresh tab of that size and colour scheme."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        try:
            self.events.clear()
            for domain in ("Page", "Network", "Runtime", "Log"):
                self.call(f"{domain}.enable", session=session)
            scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
            self.call("Emulation.setEmulatedMedia", session=session, features=scheme)
            self.call(
                "Emulation.setDeviceMetricsOverride",
                session=session,
                width=width,
                height=height,
                deviceScaleFactor=1,
                mobile=width < 500,
            )
            self.call("Page.navigate", session=session, url=path.resolve().as_uri())
            self.await_event("Page.loadEventFired", session)
            yield Page(self, session)
        finally:
            self.call("Target.closeTarget", targetId=target)


class Page:
    """One loaded page."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def evaluate(self, expression: str) -> Any:
        """Return the JSON value of a JavaScript expression, run from outside: the page's own policy stays as it is."""
        answer = self._browser.call(
            "Runtime.evaluate", session=self._session, expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def events(self, method: str) -> list[dict[str, Any]]:
        """Return the parameters of all events of that name so far."""
        self.evaluate("0")  # a round trip: what the page has sent before is here now
        return [
            event["params"]
            for event in self._browser.events
            if event.get("method") == method and event.get("sessionId") == self._session
        ]

    def requests(self) -> list[str]:
        """Return the addresses the page asked for, itself and embedded data left out."""
        urls = [event["request"]["url"] for event in self.events("Network.requestWillBeSent")]
        if not urls:
            return ["the page itself was not requested"]
        return [url for url in urls[1:] if not url.startswith("data:")]

    def complaints(self) -> list[str]:
        """Return errors and warnings in the console, and uncaught exceptions."""
        logged = [event["entry"]["text"] for event in self.events("Log.entryAdded")]
        console = [str(event["args"]) for event in self.events("Runtime.consoleAPICalled")]
        thrown = [str(event["exceptionDetails"]) for event in self.events("Runtime.exceptionThrown")]
        return logged + console + thrown

    def screenshot(self, path: Path, *, full: bool = True) -> Path:
        """Write a PNG of the page, below the fold included."""
        answer = self._browser.call(
            "Page.captureScreenshot", session=self._session, format="png", captureBeyondViewport=full
        )
        path.write_bytes(base64.b64decode(answer["data"]))
        return path

    def pdf(self) -> bytes:
        """Return the page as it would be printed."""
        answer = self._browser.call("Page.printToPDF", session=self._session, printBackground=False)
        return base64.b64decode(answer["data"])
