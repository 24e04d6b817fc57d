"""Chromium without a display, driven over a pipe by the DevTools protocol: no driver, no network."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Software rendering, so that it works without a display; names of hosts lead nowhere.
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND", "--remote-debugging-pipe",
)  # fmt: skip


class Page:
    """One page in a browser of its own.

    Attributes:
        errors: what the console got as errors, and exceptions that nobody caught.
        requests: addresses that the page asked a network for.
    """

    def __init__(self, path: Path, *, size: tuple[int, int] = (1200, 900), seconds: float = 90.0) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._deadline, self._number, self._rest = time.monotonic() + seconds, 0, b""
        self._profile = TemporaryDirectory(ignore_cleanup_errors=True)
        self._start(self._profile.name, size)
        try:
            self._open(path.resolve().as_uri())
        except BaseException:
            self.close()
            raise

    def _open(self, address: str) -> None:
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        self._session = self._call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.send("Page.navigate", url=address)
        self.wait_for("document.readyState === 'complete' && document.documentElement.dataset.waiting === '0'")

    def _start(self, profile: str, size: tuple[int, int]) -> None:
        (their_in, self._out), (self._in, their_out) = os.pipe(), os.pipe()
        # The browser reads commands from descriptor 3 and answers on 4.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (their_in, their_out)]

        def place() -> None:
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        command = [str(CHROMIUM), *OPTIONS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdout=quiet, stderr=quiet, preexec_fn=place, close_fds=False)
        for fd in (their_in, their_out, *high):
            os.close(fd)

    def __enter__(self) -> Page:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        self._process.wait(20)
        os.close(self._in)
        os.close(self._out)
        self._profile.cleanup()

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command to the page; its result."""
        return self._call(method, params, self._session)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        done = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in done:
            raise AssertionError(f"{expression}: {done['exceptionDetails']}")
        return done["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Until a JavaScript expression is true."""
        while not self.evaluate(condition):
            if time.monotonic() > self._deadline:
                raise TimeoutError(f"{condition} did not become true; errors so far: {self.errors}")
            time.sleep(0.1)

    def _call(self, method: str, params: dict[str, Any], session: str = "") -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                return answer["result"]
            self._note(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0.0, self._deadline - time.monotonic()))
            if not ready:
                raise TimeoutError("The browser does not answer.")
            self._rest += os.read(self._in, 1 << 20)
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent" and params["request"]["url"].startswith(("http", "ws", "//")):
            self.requests.append(params["request"]["url"])
