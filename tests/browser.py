"""Chromium for tests of pages: chromedriver spoken to over HTTP on 127.0.0.1, without a library."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
PATIENCE = 60
"""Seconds that one call may take."""


def missing() -> str:
    """Say which program is not on PATH; nothing when a browser can be driven."""
    return next((f"no {name} on PATH" for name in ("chromium", "chromedriver") if not shutil.which(name)), "")


class Browser:
    """One window."""

    def __init__(self, session: str) -> None:
        """Take the address of a session."""
        self._session = session

    def open(
        self, page: Path, width: int = 1280, height: int = 900, *, dark: bool = False, media: str = ""
    ) -> None:
        """Load a file at a size, in light or dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.command("Emulation.setDeviceMetricsOverride", **size)
        self.command("Emulation.setEmulatedMedia", media=media, features=scheme)
        _call("POST", f"{self._session}/url", {"url": page.resolve().as_uri()})

    def run(self, script: str, *arguments: object) -> Any:  # Any: what the script returns
        """Return what a script in the page returns."""
        return _call("POST", f"{self._session}/execute/sync", {"script": script, "args": list(arguments)})

    def command(self, name: str, **parameters: object) -> Any:  # Any: JSON
        """Give a command of the DevTools protocol."""
        return _call("POST", f"{self._session}/goog/cdp/execute", {"cmd": name, "params": parameters})

    def move(self, x: float, y: float) -> None:
        """Move the pointer to a place in the window."""
        self.command("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def complaints(self) -> list[str]:
        """Return what the console was told since the last call: errors, refused loads, warnings."""
        log = _call("POST", f"{self._session}/se/log", {"type": "browser"})
        return [entry["message"] for entry in log]

    def screenshot(self, path: Path) -> None:
        """Write the whole page as PNG."""
        found = self.command("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def pdf(self) -> bytes:
        """Return the page as it prints."""
        return base64.b64decode(
            self.command("Page.printToPDF", preferCSSPageSize=True, printBackground=True)["data"]
        )


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start Chromium with a fresh profile folder, and end it."""
    driver = subprocess.Popen(
        ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert driver.stdout is not None
        ports = (re.search(r"started successfully on port (\d+)", line) for line in driver.stdout)
        port = next(found.group(1) for found in ports if found)
        options = {"args": [*FLAGS, f"--user-data-dir={profile}"], "binary": shutil.which("chromium")}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        address = f"http://127.0.0.1:{port}/session"
        session = (
            f"{address}/{_call('POST', address, {'capabilities': {'alwaysMatch': wanted}})['sessionId']}"
        )
        try:
            yield Browser(session)
        finally:
            _call("DELETE", session)
    finally:
        driver.terminate()
        driver.communicate()


def _call(method: str, address: str, body: object = None) -> Any:  # Any: JSON
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"}, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=PATIENCE) as answer:
        return json.load(answer)["value"]
