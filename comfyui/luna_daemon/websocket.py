"""
A blocking WebSocket client (RFC 6455) for binary messages, over TCP, TLS or a Unix socket. ComfyUI
samples in a thread of its own that has nothing to do but wait, so there is no event loop; buffers
are sent as they are and a message is received straight into the array it is read from.
"""

import base64
import os
import socket
import ssl
import struct
from urllib.parse import urlsplit

from .errors import NOT_RUNNING, LunaError

# A daemon on this machine answers in a few ms.
CONNECT_SECONDS = 5.0
# How often a waiting thread looks whether its prompt was interrupted.
POLL_SECONDS = 0.05
# The largest frame of the protocol (docs/protocol.md, section 7).
MESSAGE_BYTES_MAX = 512 * 2**20
READ_BYTES = 1 << 16
SOCKET_BUFFER_BYTES = 1 << 20
LOOPBACK = ("127.0.0.1", "localhost", "::1")

_BINARY, _CLOSE, _PING, _PONG = 2, 8, 9, 10


class Closed(ConnectionError):
    """The other side is gone."""


def connect(url, token=None, unix_path=None):
    """One attempt. Raises LunaError: DAEMON_NOT_RUNNING, UNAUTHORIZED or ORIGIN_REFUSED."""
    place = urlsplit(url)
    try:
        stream = _open(place, unix_path)
    except OSError as cause:
        raise LunaError("DAEMON_NOT_RUNNING", NOT_RUNNING, {"url": url}) from cause
    try:
        return WebSocket(stream, _upgrade(stream, place, token), _is_here(place, unix_path))
    except OSError as cause:
        stream.close()
        raise LunaError("DAEMON_NOT_RUNNING", f"{url} closed the connection.") from cause
    except BaseException:
        stream.close()
        raise


def _is_here(place, unix_path):
    return unix_path is not None or (place.scheme == "ws" and place.hostname in LOOPBACK)


def _open(place, unix_path):
    if unix_path is not None:
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.settimeout(CONNECT_SECONDS)
        stream.connect(unix_path)
        return stream
    port = place.port or (443 if place.scheme == "wss" else 80)
    stream = socket.create_connection((place.hostname, port), CONNECT_SECONDS)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Finds a machine that went away without a word.
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if place.scheme == "wss":
        context = ssl.create_default_context()
        return context.wrap_socket(stream, server_hostname=place.hostname)
    return stream


def _upgrade(stream, place, token):
    """Asks for the WebSocket; returns what came after the answer's head."""
    host = place.hostname or "localhost"
    lines = [
        f"GET {place.path if len(place.path) > 1 else '/v1/ws'} HTTP/1.1",
        f"Host: {host}:{place.port}" if place.port else f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        "Sec-WebSocket-Version: 13",
    ]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    stream.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    answer = bytearray()
    while b"\r\n\r\n" not in answer:
        chunk = stream.recv(READ_BYTES)
        if not chunk:
            raise Closed("closed during the handshake")
        answer += chunk
    head, _, rest = bytes(answer).partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1].decode(errors="replace")
    if status == "101":
        return rest
    url = place.geturl()
    if status == "401":
        raise LunaError("UNAUTHORIZED", f"{url} wants another token: set LUNA_TOKEN.")
    if status == "403":
        raise LunaError("ORIGIN_REFUSED", f"{url} refuses this host name.")
    raise LunaError("DAEMON_NOT_RUNNING", f"{url} is no Luna daemon (HTTP {status}).")


class WebSocket:
    def __init__(self, stream, rest, is_here):
        self._stream = stream
        self._is_here = is_here
        self._rest = bytearray(rest)
        stream.settimeout(POLL_SECONDS)

    def close(self):
        self._stream.close()

    def send(self, parts, opcode=_BINARY):
        """Sends one message made of buffers. Raises Closed."""
        size = sum(memoryview(part).nbytes for part in parts)
        head = bytearray([0x80 | opcode])
        if size < 126:
            head.append(0x80 | size)
        elif size < 1 << 16:
            head += struct.pack(">BH", 0xFE, size)
        else:
            head += struct.pack(">BQ", 0xFF, size)
        # A mask keeps web pages from forging requests to proxies (RFC 6455, 10.3). Between two
        # programs of one machine there is no proxy, and zeros save a pass over the bytes.
        mask = bytes(4) if self._is_here else os.urandom(4)
        head += mask
        body = parts if self._is_here else [_masked(parts, mask)]
        self._send_all([memoryview(bytes(head)), *(memoryview(each).cast("B") for each in body)])

    def _send_all(self, parts):
        parts = [part for part in parts if part.nbytes]
        gather = getattr(self._stream, "sendmsg", None)
        if isinstance(self._stream, ssl.SSLSocket):
            gather = None
        while parts:
            try:
                sent = gather(parts) if gather else self._stream.send(parts[0])
            except TimeoutError:
                continue
            except OSError as cause:
                raise Closed(str(cause)) from cause
            while parts and sent >= parts[0].nbytes:
                sent -= parts.pop(0).nbytes
            if sent:
                parts[0] = parts[0][sent:]

    def receive(self, poll):
        """The next message as a bytearray; calls `poll` now and then while it waits, whose
        exceptions end the waiting (the message then comes with a later call). Raises Closed."""
        pieces = []
        while True:
            # What `poll` may interrupt must not have been taken from the stream before.
            self._need(2, poll)
            size, head = self._rest[1] & 0x7F, 2
            if size > 125:
                head = 4 if size == 126 else 10
                self._need(head, poll)
                size = int.from_bytes(self._rest[2:head], "big")
            if size > MESSAGE_BYTES_MAX:
                raise Closed(f"a message of {size} bytes")
            first = self._rest[0]
            payload = self._take(head, size)
            opcode = first & 0x0F
            if opcode == _PING:
                self.send([bytes(payload)], _PONG)
            elif opcode == _CLOSE:
                raise Closed(bytes(payload[2:]).decode(errors="replace") or "closed")
            elif opcode != _PONG:
                pieces.append(payload)
                if first & 0x80:
                    return pieces[0] if len(pieces) == 1 else bytearray().join(pieces)

    def _need(self, count, poll):
        while len(self._rest) < count:
            try:
                chunk = self._stream.recv(READ_BYTES)
            except TimeoutError:
                poll()
                continue
            except OSError as cause:
                raise Closed(str(cause)) from cause
            if not chunk:
                raise Closed("the daemon closed the connection")
            self._rest += chunk

    def _take(self, head, size):
        """`size` bytes after `head`; the rest of a large message goes straight to its place."""
        payload = bytearray(size)
        have = min(size, len(self._rest) - head)
        payload[:have] = self._rest[head : head + have]
        del self._rest[: head + have]
        view = memoryview(payload)
        while have < size:
            try:
                count = self._stream.recv_into(view[have:])
            except TimeoutError:
                continue
            except OSError as cause:
                raise Closed(str(cause)) from cause
            if count == 0:
                raise Closed("the daemon closed the connection")
            have += count
        return payload


def _masked(parts, mask):
    import numpy

    data = numpy.frombuffer(b"".join(parts), numpy.uint8).copy()
    data ^= numpy.resize(numpy.frombuffer(mask, numpy.uint8), data.shape)
    return memoryview(data)
