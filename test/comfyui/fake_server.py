"""A daemon of a few lines, for tests of the connection: out = 0.1 x. Speaks the real frames."""

import base64
import hashlib
import socket
import struct
import threading

from luna_daemon import frame

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class FakeServer:
    def __init__(self, keeps=True, refuses=None, fragment=0):
        self._keeps, self._refuses, self._fragment = keeps, refuses, fragment
        self._listener = None
        self._streams = []
        self._port = 0
        self.client = None
        self.restart()

    def restart(self):
        """Another process on the same port, which knows nothing."""
        self.close()
        self.ops, self.tensors, self.messages = [], [], []
        self._known = set()
        self._drop, self._hold = False, None
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    @property
    def url(self):
        return f"ws://127.0.0.1:{self._port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        # A thread that waits in accept() keeps the port until it is woken.
        for each in (self._listener, *self._streams):
            if each is None:
                continue
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            each.close()
        self._listener, self._streams = None, []

    def forget(self):
        self._known.clear()

    def drop_next(self):
        """The connection breaks in place of the next answer."""
        self._drop = True

    def hold_next(self, then):
        """The next run is answered only after a cancel; `then` is called when it came."""
        self._hold = then

    def _accept(self, listener):
        while True:
            try:
                stream, _ = listener.accept()
            except OSError:
                return
            self._streams.append(stream)
            threading.Thread(target=self._serve, args=(stream,), daemon=True).start()

    def _serve(self, stream):
        try:
            self._greet(stream)
            while True:
                self._answer(stream, *frame.decode(_read(stream)))
        except (OSError, EOFError):
            stream.close()

    def _greet(self, stream):
        head = b""
        while b"\r\n\r\n" not in head:
            head += stream.recv(4096)
        key = head.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
        accept = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()
        stream.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            + f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
        )

    def _answer(self, stream, message, tensors):
        self.messages.append(message["type"])
        if message["type"] == "hello":
            self.client = message["client"]
            if self._refuses:
                return self._error(stream, None, *self._refuses)
            welcome = {"protocol": 1, "daemon": {"version": "1", "pid": 1}, "session": "s"}
            return self._send(stream, {"type": "welcome", **welcome})
        if message["type"] == "cancel":
            return self._error(stream, message["id"], "CANCELLED", "cancelled")
        self.ops.append(message["op"])
        self.tensors.append(tensors)
        if message["op"].startswith("put_"):
            if self._keeps:
                self._known.update(tensors)
            return self._send(stream, {"type": "result", "id": message["id"], "data": {}})
        if self._drop:
            self._drop = False
            stream.close()
            raise EOFError
        if self._hold:
            self._hold, then = None, self._hold
            return then()
        unknown = [each for each in message.get("refs", {}).values() if each not in self._known]
        if unknown:
            return self._error(
                stream, message["id"], "TENSOR_UNKNOWN", "unknown", {"digests": unknown}
            )
        timings = {"queueMs": 0, "engineMs": 1, "batch": {"rows": 1, "clients": 1}}
        result = {"type": "result", "id": message["id"], "data": {}, "timings": timings}
        self._send(stream, result, {"out": tensors["x"] * 0.1})

    def _error(self, stream, number, code, text, details=None):
        error = {"code": code, "message": text, "retryable": True, "details": details or {}}
        message = {"type": "error", "error": error}
        self._send(stream, message if number is None else {**message, "id": number})

    def _send(self, stream, message, tensors=None):
        data = b"".join(frame.encode(message, tensors))
        size = self._fragment or len(data)
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        for number, piece in enumerate(pieces):
            if number:
                stream.sendall(b"\x89\x02hi")
            first = (0x80 if number == len(pieces) - 1 else 0) | (0 if number else 2)
            stream.sendall(struct.pack(">BBQ", first, 127, len(piece)) + piece)


def _read(stream):
    """One message of the client; it sends none in fragments, and a pong may come between."""
    while True:
        first, second = _exactly(stream, 2)
        size = second & 0x7F
        if size > 125:
            size = int.from_bytes(_exactly(stream, 2 if size == 126 else 8), "big")
        mask = _exactly(stream, 4)
        data = bytearray(_exactly(stream, size))
        if any(mask):
            data = bytearray(each ^ mask[at % 4] for at, each in enumerate(data))
        if first & 0x0F == 2:
            return data


def _exactly(stream, count):
    data = b""
    while len(data) < count:
        chunk = stream.recv(count - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return data
