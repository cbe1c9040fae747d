"""Headless Chromium for tests of pages: what it logs, loads, shows, and does with keys.

    def test_a_page(browser):
        page = browser.open(path, width=400, dark=True)
        page.press("ArrowRight")
        assert page.evaluate("document.activeElement.textContent") == "keys"
        page.check()

It speaks the DevTools protocol through a pipe, so it opens no port.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_SECONDS = 60
_KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "End": 35, "Home": 36}
_KEYS |= {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
_TEXT = {"Enter": "\r", " ": " "}  # that a key types
_COLOURS = """(async () => {
  const bytes = Uint8Array.from(atob("%s"), c => c.charCodeAt(0));
  const image = await createImageBitmap(new Blob([bytes], {type: "image/png"}));
  const pen = new OffscreenCanvas(image.width, image.height).getContext("2d");
  pen.drawImage(image, 0, 0);
  const data = pen.getImageData(0, 0, image.width, image.height).data;
  return new Set(new Uint32Array(data.buffer)).size;
})()"""


class Browser:
    """A process of Chromium."""

    def __init__(self, profile: Path) -> None:
        read, theirs_out = os.pipe()
        theirs_in, write = os.pipe()
        command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu"]
        command += ["--remote-debugging-pipe", f"--user-data-dir={profile}"]
        pipes = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out} >/dev/null 2>&1'
        self.process = subprocess.Popen(
            ["bash", "-c", pipes, "chromium", *command],
            pass_fds=(theirs_in, theirs_out),
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.pipes, self.number, self.rest = (read, write), 0, b""
        self.events: dict[str, list[dict]] = {}  # by session

    def call(self, method: str, session: str = "", **params: Any) -> dict:
        """The result of a method of the protocol."""
        self.number += 1
        said = {"id": self.number, "method": method, "params": params}
        said |= {"sessionId": session} if session else {}
        os.write(self.pipes[1], json.dumps(said).encode() + b"\0")
        while True:
            found = self.message()
            if found.get("id") == self.number:
                assert "error" not in found, (method, found["error"])
                return found["result"]

    def message(self) -> dict:
        """The next message; those without an id are kept as events, too."""
        until = time.monotonic() + _SECONDS
        while b"\0" not in self.rest:
            ready = select.select(self.pipes[:1], [], [], until - time.monotonic())[0]
            part = os.read(self.pipes[0], 1 << 20) if ready else b""
            assert part, "Chromium says nothing"
            self.rest += part
        one, _, self.rest = self.rest.partition(b"\0")
        found = json.loads(one)
        if "id" not in found:
            self.events.setdefault(found.get("sessionId", ""), []).append(found)
        return found

    def open(
        self,
        address: str | Path,
        *,
        width: int = 1400,
        height: int = 900,
        dark: bool = False,
    ) -> Page:
        """A page when it has loaded, from a file or a URL."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        url = address.resolve().as_uri() if isinstance(address, Path) else address
        page = Page(self, attached["sessionId"], url)
        for name in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{name}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        page.call("Emulation.setDeviceMetricsOverride", mobile=False, **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.call("Emulation.setEmulatedMedia", features=[scheme])
        page.call("Page.navigate", url=url)
        while not page.happened("Page.loadEventFired"):
            self.message()
        return page

    def close(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.wait()
        for pipe in self.pipes:
            os.close(pipe)


class Page:
    """A page in a tab of its own."""

    def __init__(self, browser: Browser, session: str, url: str) -> None:
        self.browser, self.session, self.url = browser, session, url

    def call(self, method: str, **params: Any) -> dict:
        return self.browser.call(method, self.session, **params)

    def happened(self, method: str) -> list[dict]:
        """What is known of each event of a name."""
        events = self.browser.events.get(self.session, [])
        return [each["params"] for each in events if each["method"] == method]

    def evaluate(self, code: str) -> Any:
        """The value of an expression in JavaScript; a promise is awaited."""
        how = {"returnByValue": True, "awaitPromise": True}
        found = self.call("Runtime.evaluate", expression=code, **how)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, *keys: str) -> None:
        """Press and release keys: "Tab", "ArrowLeft", "x"; "Shift+Tab"."""
        for each in keys:
            shift, key = each.startswith("Shift+"), each.removeprefix("Shift+")
            code = _KEYS.get(key) or ord(key.upper())
            text = _TEXT.get(key, key if len(key) == 1 else "")
            said = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 8 * shift}
            down = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
            self.call("Input.dispatchKeyEvent", **said, **down)
            self.call("Input.dispatchKeyEvent", **said, type="keyUp")

    def point(self, selector: str, *, click: bool = False) -> None:
        """Move the pointer to the middle of the first element, and click."""
        where = self.evaluate(f"""(() => {{
          const found = document.querySelector({json.dumps(selector)});
          found.scrollIntoView({{block: "center"}});
          const box = found.getBoundingClientRect();
          return [box.x + box.width / 2, box.y + box.height / 2];
        }})()""")
        place = {"x": where[0], "y": where[1]}
        self.call("Input.dispatchMouseEvent", type="mouseMoved", **place)
        for kind in ("mousePressed", "mouseReleased") if click else ():
            how = {"type": kind, "button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", **how, **place)

    @property
    def errors(self) -> list[str]:
        """Exceptions, and errors and warnings on the console."""
        thrown = self.happened("Runtime.exceptionThrown")
        said = self.happened("Runtime.consoleAPICalled")
        logged = [each["entry"] for each in self.happened("Log.entryAdded")]
        bad = [str(each["exceptionDetails"]) for each in thrown]
        bad += [str(e["args"]) for e in said if e["type"] in ("error", "warning")]
        return bad + [e["text"] for e in logged if e["level"] in ("error", "warning")]

    @property
    def requests(self) -> list[str]:
        """Addresses that the page asked for, itself and what is inside it left out."""
        asked = self.happened("Network.requestWillBeSent")
        every = [each["request"]["url"] for each in asked]
        return [
            u for u in every if u != self.url and not u.startswith(("data:", "blob:"))
        ]

    def screenshot(self, path: Path | None = None) -> bytes:
        """The whole page as a PNG, and in a file."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        if path:
            path.write_bytes(base64.b64decode(shot))
        return base64.b64decode(shot)

    def colours(self) -> int:
        """How many colours the screenshot has; a blank page has one."""
        return self.evaluate(_COLOURS % base64.b64encode(self.screenshot()).decode())

    def check(self) -> None:
        """No error, no request, not blank, and nothing wider than the window."""
        assert not self.errors
        assert not self.requests
        assert self.colours() > 8
        wide = self.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{wide} px wider than the window"


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Chromium, one process for all tests of a worker."""
    found = Browser(tmp_path_factory.mktemp("chromium"))
    yield found
    found.close()
