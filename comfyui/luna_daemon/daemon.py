"""A daemon as the proxies use it: runs of nets, and what they have sent already."""

import threading
from collections import deque
from dataclasses import dataclass, field

from .connection import Connection
from .errors import LunaError
from .tensors import Known, SlotMemory

# Attempts at a run; the last names nothing, so that a daemon without room still computes.
ATTEMPTS_MAX = 3
# Steps kept for the figures that LunaDaemonStatus shows.
STEPS_KEPT = 512


@dataclass
class Run:
    op: str
    fields: dict
    # Different each time: inside the request.
    own: dict
    # Likely to come again (context, y): sent once, then named by digest.
    shared: dict = field(default_factory=dict)
    # May or may not come again (control): inside the request until it does.
    control: dict = field(default_factory=dict)
    # (adapter set, strength); a set's `parts()` gives (spec, function that makes its factors).
    loras: list = field(default_factory=list)


class Daemon:
    """One connection, and what was sent over it. `poll` is called while a request waits."""

    def __init__(self, url, token="", grace=30.0, say=print, poll=lambda: None):
        self.token = token
        self.connection = Connection(url, token, grace, say, poll)
        self.memory = SlotMemory()
        # (total ms, engine ms, rows) of the latest steps.
        self.steps = deque(maxlen=STEPS_KEPT)
        self._say = say
        self._known = Known()
        self._said = set()

    @property
    def url(self):
        return self.connection.url

    def call(self, op, **fields):
        return self.connection.request({"op": op, **fields}).data

    def run(self, run):
        """Runs a net and returns the Reply. Raises LunaError."""
        for attempt in range(1, ATTEMPTS_MAX + 1):
            is_last = attempt == ATTEMPTS_MAX
            try:
                reply = self.connection.exchange(lambda: self._requests(run, is_last))
                break
            except LunaError as error:
                if error.code != "TENSOR_UNKNOWN" or is_last:
                    raise
                self._known.forget(error.details.get("digests", []))
        if run.op == "model_forward":
            engine = reply.timings.get("engineMs", 0.0)
            self.steps.append((reply.total_ms, engine, run.own["x"].shape[0]))
        self._warn(reply.warnings)
        return reply

    def _requests(self, run, is_last):
        self._known.begin(self.connection.era)
        tensors, refs, puts = dict(run.own), {}, {}
        named = {
            **{slot: (self.memory.digest_of, each) for slot, each in run.shared.items()},
            **{slot: (self.memory.digest_if_repeated, each) for slot, each in run.control.items()},
        }
        for slot, (digest_of, tensor) in named.items():
            digest = None if is_last else digest_of(slot, tensor)
            if digest is None:
                tensors[slot] = tensor
                continue
            refs[slot] = digest
            if self._known.add(digest):
                puts[digest] = tensor
        requests = [({"op": "put_tensors"}, puts)] if puts else []
        specs = []
        for lora, strength in run.loras:
            for spec, factors in lora.parts():
                specs.append({**spec, "strength": strength})
                if factors is not None and self._known.add(spec["digest"]):
                    requests.append(({"op": "put_lora"}, factors()))
        body = {"op": run.op, **run.fields}
        if refs:
            body["refs"] = refs
        if specs:
            body["loras"] = specs
        return [*requests, (body, tensors)]

    def _warn(self, warnings):
        for warning in warnings:
            if warning not in self._said:
                self._said.add(warning)
                self._say(f"[LunaDaemon] Warning: {warning}")


_daemons = {}
_lock = threading.Lock()


def shared_daemon(url, make):
    """The one Daemon of a URL in this process: all its models share what was sent."""
    with _lock:
        if url not in _daemons:
            _daemons[url] = make(url)
        return _daemons[url]
