"""A headless Chromium that tests drive by the DevTools protocol, over a WebSocket: no driver.

The tests of a run share one process; each `Tab` has cookies, storage, connections and downloads of its own.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from queue import Empty, Queue
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from tests.runner.shared import is_shared, shared
from tests.support import find_program, read_answer

# Seconds. A busy machine takes ten to start a browser, and twenty for some of the tests.
PATIENCE = 60.0

_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"),
    # Else clicks and keys are dropped until a page has been painted, which may be after it is loaded.
    "--allow-pre-commit-input",
    # Names below .test are localhost's, in IPv6 first and then in IPv4.
    *("--remote-debugging-port=0", "--host-resolver-rules=MAP *.test localhost"),
)

# Sizes of the window in CSS pixels.
PHONE = (390, 844)
DESKTOP = (1280, 800)

_KEYS: Mapping[str, tuple[str, int, str]] = {
    "Tab": ("Tab", 9, ""),
    "Enter": ("Enter", 13, "\r"),
    " ": ("Space", 32, " "),
    "Escape": ("Escape", 27, ""),
}


class Browser:
    """A connection to Chromium. The thread of the test calls it; another thread reads what the browser reports."""

    def __init__(self) -> None:
        """Connect to the browser of the run, or to one of its own outside of a run."""
        self._stop: Callable[[], None] | None = None
        if is_shared():
            url = shared("chromium", _start_chromium)
        else:
            url, self._stop = _start_chromium()
        self._socket = _open_web_socket(url)
        self._numbers = itertools.count(1)
        # Held while a message is written.
        self._lock = threading.Lock()
        self._answers: dict[int, Queue[dict[str, Any]]] = {}
        self._listeners: dict[str, Callable[[str, dict[str, Any]], None]] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def close(self) -> None:
        # The browser ends the connection: what it sends meanwhile would be answered by a reset if this side had.
        self._write_frame(_CLOSE)
        self._reader.join(PATIENCE)
        self._socket.close()
        if self._stop:
            self._stop()

    def send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol, and return its result."""
        number = next(self._numbers)
        answers = self._answers[number] = Queue()
        self._write(number, method, session, parameters)
        try:
            answer = answers.get(timeout=PATIENCE)
        except Empty:
            raise AssertionError(f"the browser does not answer {method}") from None
        finally:
            del self._answers[number]
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def post(self, method: str, session: str, **parameters: Any) -> None:
        """Call a method, and wait for no result: a listener must not wait."""
        self._write(next(self._numbers), method, session, parameters)

    def _write(self, number: int, method: str, session: str | None, parameters: dict[str, Any]) -> None:
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        self._write_frame(_text_frame(json.dumps(message).encode()))

    def _write_frame(self, frame: bytes) -> None:
        with self._lock:
            self._socket.sendall(frame)

    def listen(self, session: str, listener: Callable[[str, dict[str, Any]], None]) -> None:
        self._listeners[session] = listener

    def _read(self) -> None:
        with self._socket.makefile("rb") as stream:
            for text in _read_frames(stream):
                message = json.loads(text)
                if "id" in message:
                    answers = self._answers.get(message["id"])
                    if answers is not None:
                        answers.put(message)
                elif message.get("sessionId") in self._listeners:
                    self._listeners[message["sessionId"]](message["method"], message["params"])


class Tab:
    """A page, in a context of its own, or in that of another tab."""

    def __init__(
        self,
        browser: Browser,
        *,
        size: tuple[int, int] = DESKTOP,
        scheme: str = "light",
        scripts: bool = True,
        downloads: Path | None = None,
        beside: Tab | None = None,
    ) -> None:
        self._browser = browser
        # What the console shows, the URLs that were requested, and what else the page reported.
        self.problems: list[str] = []
        self.requested: list[str] = []
        self.dialogs: list[str] = []
        # URLs for which the browser would show a dialogue of its own that asks for a password.
        self.challenged: list[str] = []
        self._choosers: Queue[int] = Queue()
        # The status of all requests that are not to reach the server; 0 where they are.
        self._instead = 0
        self._owns_context = beside is None
        self._context: str = (
            # Without the connection that has made it, a context ends.
            browser.send("Target.createBrowserContext", disposeOnDetach=True)["browserContextId"]
            if beside is None
            else beside._context
        )
        target = browser.send("Target.createTarget", url="about:blank", browserContextId=self._context)["targetId"]
        self._session = browser.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        browser.listen(self._session, self._notice)
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.send(f"{domain}.enable")
        if downloads is not None:
            browser.send(
                "Browser.setDownloadBehavior",
                behavior="allow",
                browserContextId=self._context,
                downloadPath=str(downloads),
            )
        # Another test's tab does not take the focus away.
        self.send("Emulation.setFocusEmulationEnabled", enabled=True)
        self.resize(size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", features=features)
        if not scripts:
            self.send("Emulation.setScriptExecutionDisabled", value=True)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.send(method, self._session, **parameters)

    def close(self) -> None:
        if self._owns_context:
            self._browser.send("Target.disposeBrowserContext", browserContextId=self._context)

    def resize(self, size: tuple[int, int]) -> None:
        is_phone = size == PHONE
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=size[0],
            height=size[1],
            deviceScaleFactor=1,
            mobile=is_phone,
        )

    def open(self, url: str) -> None:
        """Navigate, and wait until the page is loaded."""
        error = self.send("Page.navigate", url=url).get("errorText")
        assert error in (None, "net::ERR_HTTP_RESPONSE_CODE_FAILURE"), f"{url}: {error}"
        self.wait_for("document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression, which may be a promise."""
        done = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in done:
            raise AssertionError(f"{expression}: {done['exceptionDetails']['exception'].get('description')}")
        return done["result"].get("value")

    def wait_for(self, expression: str, *, patience: float = PATIENCE) -> Any:
        """Wait until an expression is true. A page that is being replaced has no value."""
        value: Any = None

        def is_true() -> bool:
            nonlocal value
            try:
                value = self.evaluate(expression)
            except AssertionError:
                value = None
            return bool(value)

        self.wait_for_condition(expression, is_true, patience=patience)
        return value

    def wait_for_condition(self, what: str, condition: Callable[[], bool], *, patience: float = PATIENCE) -> None:
        deadline = time.monotonic() + patience
        pause, interval = threading.Event(), 0.01
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"still not: {what}; the page says: {self.text()}")
            pause.wait(interval)
            # Each question takes time of the page that it waits for.
            interval = min(0.2, 1.3 * interval)

    def text(self) -> str:
        """The text that the page shows."""
        return str(self.evaluate("document.body ? document.body.innerText : ''"))

    def wait_for_text(self, text: str) -> None:
        self.wait_for(f"document.body && document.body.innerText.includes({json.dumps(text)})")

    def click(self, selector: str) -> None:
        """Click on the middle of an element, as a mouse does."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.wait_for(f"{found} && {found}.getClientRects().length")
        x, y = self.evaluate(
            f"(() => {{ const e = {found}; e.scrollIntoView({{block: 'center'}}); const r = e.getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def tab_to(self, selector: str) -> None:
        """Press the Tab key until an element has the focus."""
        for _ in range(60):
            self.press("Tab")
            if self.evaluate(f"document.activeElement.matches({json.dumps(selector)})"):
                return
        raise AssertionError(f"the Tab key does not lead to {selector}")

    def overflowing(self) -> list[str]:
        """The elements that reach beyond the window."""
        found = self.evaluate(
            "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
            ".map(e => e.outerHTML.slice(0, 80))"
        )
        return list(found)

    def type(self, text: str) -> None:
        self.send("Input.insertText", text=text)

    def press(self, key: str) -> None:
        code, number, text = _KEYS[key]
        named = {"key": key, "code": code, "windowsVirtualKeyCode": number}
        self.send("Input.dispatchKeyEvent", type="keyDown", **named, **({"text": text} if text else {}))
        self.send("Input.dispatchKeyEvent", type="keyUp", **named)

    def choose(self, selector: str, *files: Path) -> None:
        """Choose files, as the dialogue of the browser does."""
        found = self.send("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")
        self.send("DOM.setFileInputFiles", files=[str(file) for file in files], objectId=found["result"]["objectId"])

    def watch_challenges(self) -> None:
        """Note when the browser would ask for a password by itself, and let it ask for none."""
        self.send("Fetch.enable", handleAuthRequests=True, patterns=[{"urlPattern": "*"}])

    def answer_instead(self, pattern: str, status: int) -> None:
        """Answer the requests for URLs of a pattern as a proxy does that does not pass them."""
        self._instead = status
        self.send("Fetch.enable", patterns=[{"urlPattern": pattern}])

    def wait_for_file_chooser(self, *files: Path) -> None:
        """Choose files in the dialogue that the page has opened. `Page.setInterceptFileChooserDialog` precedes it."""
        opened = self._choosers.get(timeout=PATIENCE)
        self.send("DOM.setFileInputFiles", files=[str(file) for file in files], backendNodeId=opened)

    def drop(self, selector: str, *files: Path) -> None:
        """Drag files from another program onto an element, and drop them."""
        x, y = self.evaluate(
            f"(r => [r.x + r.width / 2, r.y + r.height / 2])"
            f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        )
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.send("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def screenshot(self, path: Path) -> None:
        shown = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shown["data"]))

    def _notice(self, method: str, report: dict[str, Any]) -> None:
        if method == "Log.entryAdded":
            entry = report["entry"]
            self.problems.append(f"{entry['source']}: {entry['text']} {entry.get('url', '')}")
        elif method == "Runtime.exceptionThrown":
            details = report["exceptionDetails"]
            self.problems.append(str(details.get("exception", {}).get("description", details["text"])))
        elif method == "Runtime.consoleAPICalled":
            self.problems.append(str(report["args"]))
        elif method == "Network.requestWillBeSent":
            self.requested.append(report["request"]["url"])
        elif method == "Fetch.requestPaused" and self._instead:
            request = {"requestId": report["requestId"], "responseCode": self._instead}
            self._browser.post("Fetch.fulfillRequest", self._session, **request)
        elif method == "Fetch.requestPaused":
            self._browser.post("Fetch.continueRequest", self._session, requestId=report["requestId"])
        elif method == "Fetch.authRequired":
            self.challenged.append(report["request"]["url"])
            self._browser.post(
                "Fetch.continueWithAuth",
                self._session,
                requestId=report["requestId"],
                authChallengeResponse={"response": "CancelAuth"},
            )
        elif method == "Page.fileChooserOpened":
            self._choosers.put(report["backendNodeId"])
        elif method == "Page.javascriptDialogOpening":
            self.dialogs.append(report["type"])


def _start_chromium() -> tuple[str, Callable[[], None]]:
    """Returns the URL of its WebSocket, and how to end it."""
    profile = tempfile.mkdtemp(prefix="chromium-")
    process = subprocess.Popen(
        [find_program("chromium"), *_OPTIONS, f"--user-data-dir={profile}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    assert process.stderr is not None
    errors = process.stderr

    def stop() -> None:
        process.terminate()
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()
            reader.join(PATIENCE)
            errors.close()
            shutil.rmtree(profile, ignore_errors=True)

    url = next((line.split()[-1] for line in errors if line.startswith("DevTools listening on ")), "")
    # What else it prints is not kept.
    reader = threading.Thread(target=errors.read, daemon=True)
    reader.start()
    if not url:
        stop()
        raise AssertionError("chromium does not start")
    return url, stop


def _open_web_socket(url: str) -> socket.socket:
    """RFC 6455, section 4.1."""
    parts = urlsplit(url)
    opened = socket.create_connection((parts.hostname, parts.port))
    fields = (
        *(f"GET {parts.path} HTTP/1.1", f"Host: {parts.netloc}", "Connection: Upgrade", "Upgrade: websocket"),
        *(f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}", "Sec-WebSocket-Version: 13"),
    )
    opened.sendall("\r\n".join((*fields, "", "")).encode())
    answer = read_answer(opened)
    assert answer.status == 101, answer
    return opened


# RFC 6455, section 5.5.1, masked with zeros, without a reason.
_CLOSE = b"\x88\x80\0\0\0\0"


def _text_frame(text: bytes) -> bytes:
    """RFC 6455, section 5.2: one frame, masked with zeros, which changes nothing."""
    size = len(text)
    if size < 126:
        return struct.pack(">BB4x", 0x81, 0x80 | size) + text
    if size < 1 << 16:
        return struct.pack(">BBH4x", 0x81, 0xFE, size) + text
    return struct.pack(">BBQ4x", 0x81, 0xFF, size) + text


def _read_frames(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the texts of frames, none of which Chromium masks or divides, until it closes the connection."""
    while head := stream.read(2):
        size = head[1]
        if size > 125:
            size = int.from_bytes(stream.read(2 if size == 126 else 8), "big")
        text = stream.read(size)
        if head[0] == 0x81:
            yield text
