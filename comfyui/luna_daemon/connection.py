"""
One session with a daemon. It greets, numbers requests, and survives the daemon: after a loss it
reconnects and builds the exchange again, which is safe because a forward is a pure function and
every other operation may be repeated. After `grace` seconds without a daemon it gives up.
"""

import os
import socket
import tempfile
import threading
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from . import PROTOCOL, VERSION, frame
from .errors import LunaError
from .websocket import LOOPBACK, Closed, connect

# Pauses between attempts to reconnect double from the first to the last, in seconds.
PAUSE_MIN = 0.05
PAUSE_MAX = 1.0
PROBE_SECONDS = 0.5
# Codes after which another attempt cannot help.
FINAL_CODES = ("PROTOCOL_VERSION", "UNAUTHORIZED", "ORIGIN_REFUSED")
# Connections one exchange may lose: more, and the request itself seems to end the daemon.
LOSSES_MAX = 5


@dataclass
class Reply:
    data: dict
    tensors: dict
    """Milliseconds the request waited and computed in the daemon, where a net ran."""
    timings: dict = field(default_factory=dict)
    warnings: list = field(default_factory=list)
    """From the first byte sent to the last received."""
    total_ms: float = 0.0


def unix_path(url):
    """The daemon's Unix socket beside a loopback port, if there is one of this user; or None."""
    if url.startswith("ws+unix:"):
        return url.removeprefix("ws+unix:").split(":")[0]
    place = urlsplit(url)
    if place.hostname not in LOOPBACK or not hasattr(socket, "AF_UNIX"):
        return None
    path = os.path.join(tempfile.gettempdir(), f"luna-{place.port}.sock")
    try:
        # A folder for all may hold another user's socket: that one is not our daemon.
        return path if os.stat(path).st_uid == os.getuid() else None
    except OSError:
        return None


def is_reachable(url):
    """True where something listens; a daemon on this machine answers in well under a ms."""
    path = unix_path(url)
    place = urlsplit(url)
    try:
        if path is None:
            socket.create_connection((place.hostname, place.port or 80), PROBE_SECONDS).close()
            return True
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(PROBE_SECONDS)
            probe.connect(path)
            return True
    except OSError:
        return False


class Connection:
    def __init__(self, url, token="", grace=30.0, say=print, poll=lambda: None):
        self.url = url
        self.grace = grace
        self.welcome = {}
        # Changes with each daemon process met: what one was given, the next does not have.
        self.era = 0
        self._token = token
        self._say = say
        self._poll = poll
        self._socket = None
        self._next_id = 1
        self._lock = threading.RLock()

    def close(self):
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def open(self):
        """One attempt to connect, where there is no connection. Raises LunaError."""
        with self._lock:
            if self._socket is None:
                self._socket = self._greet()
                self.era += 1

    def _greet(self):
        path = unix_path(self.url)
        try:
            link = connect(self.url, self._token, path)
        except LunaError:
            # A killed daemon leaves its socket file; the port tells the truth.
            if path is None or self.url.startswith("ws+unix:"):
                raise
            link = connect(self.url, self._token)
        hello = {
            "type": "hello",
            "protocol": PROTOCOL,
            "client": {
                "name": f"comfyui-{os.getpid()}",
                "version": VERSION,
                # So that `luna monitor` shows this process.
                "pid": os.getpid(),
            },
        }
        if self._token:
            hello["token"] = self._token
        try:
            link.send(frame.encode(hello))
            message, _ = frame.decode(link.receive(lambda: None))
        except Closed as cause:
            link.close()
            raise LunaError("DAEMON_NOT_RUNNING", f"{self.url} did not greet: {cause}") from cause
        if message["type"] != "welcome":
            link.close()
            raise _error_of(message)
        self.welcome = message
        return link

    def request(self, body, tensors=None):
        """One request by itself; see `exchange`."""
        return self.exchange(lambda: [(body, tensors or {})])

    def exchange(self, build):
        """Sends what `build()` gives, a list of (body, tensors), and waits for the answer to the
        last. The daemon starts them in order, so a put needs no wait. `build` is called again
        after a reconnect. Raises LunaError, and what `poll` raises, after cancelling."""
        with self._lock:
            self.open()
            for _ in range(LOSSES_MAX):
                try:
                    return self._attempt(build())
                except Closed as cause:
                    self.close()
                    self._say(f"[LunaClient] Connection to the daemon lost ({cause})")
                self._wait_for_daemon()
                self._say("[LunaClient] Connected to the daemon again")
            raise LunaError("CONNECTION_LOST", f"The connection broke {LOSSES_MAX} times.")

    def _wait_for_daemon(self):
        lost_at = time.monotonic()
        pause = PAUSE_MIN
        while True:
            self._poll()
            try:
                return self.open()
            except LunaError as error:
                if error.code in FINAL_CODES:
                    raise
                left = self.grace - (time.monotonic() - lost_at)
                if left <= 0:
                    raise LunaError(
                        "CONNECTION_LOST",
                        f"The daemon has been unreachable for {self.grace:g} s.",
                    ) from error
            time.sleep(min(pause, max(left, 0)))
            pause = min(pause * 2, PAUSE_MAX)

    def _attempt(self, requests):
        began = time.perf_counter()
        pending = set()
        for body, tensors in requests:
            last = self._next_id
            self._next_id += 1
            pending.add(last)
            message = {"type": "request", "id": last, **body}
            self._socket.send(frame.encode(message, tensors))
        try:
            message, tensors = self._answer(pending, last)
        except Closed:
            raise
        except BaseException:
            self._cancel(pending)
            raise
        return Reply(
            message["data"],
            tensors,
            message.get("timings", {}),
            message.get("warnings", []),
            (time.perf_counter() - began) * 1000,
        )

    def _cancel(self, pending):
        try:
            for each in pending:
                self._socket.send(frame.encode({"type": "cancel", "id": each}))
        except Closed:
            self.close()

    def _answer(self, pending, last):
        """The answer to `last`. The first refusal of an earlier one explains a later one best."""
        failed = None
        while True:
            message, tensors = frame.decode(self._socket.receive(self._poll))
            where = message.get("id")
            if message["type"] == "error":
                error = _error_of(message)
                if error.code == "SHUTTING_DOWN":
                    raise Closed("the daemon is stopping")
                if where is None:
                    raise error
            if where not in pending:
                continue  # The late answer to a request that was cancelled.
            pending.discard(where)
            if message["type"] == "error":
                failed = failed or error
            if where == last:
                if failed:
                    raise failed
                return message, tensors


def _error_of(message):
    error = message["error"]
    return LunaError(error["code"], error["message"], error.get("details"))
