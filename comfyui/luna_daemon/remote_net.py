"""What the three remote nets share: a daemon, a mode, a way back to a local net, clear errors."""

import logging
from dataclasses import dataclass

import comfy.model_management
import torch

from .errors import NOT_RUNNING, LunaError, Unsupported

AUTO, FORCE_DAEMON, FORCE_LOCAL = "auto", "force_daemon", "force_local"
MODES = (AUTO, FORCE_DAEMON, FORCE_LOCAL)

# What this daemon cannot do, however often it is asked.
_BEYOND = ("LORA_UNSUPPORTED", "LORA_MALFORMED", "LIMIT_EXCEEDED")
_OUT_OF_MEMORY = ("out of memory", "bad_alloc", "failed to allocate", "bad allocation")


@dataclass(frozen=True)
class Served:
    """A model file in a daemon. `info` is its ModelInfo (docs/protocol.md, section 6)."""

    daemon: object
    info: dict
    mode: str

    def wire_dtype(self):
        """The type the daemon computes in: float32 on a CPU, else that of the weights."""
        dtype = {"F16": torch.float16, "BF16": torch.bfloat16}.get(
            self.info["dtype"], torch.float32
        )
        if dtype == torch.float32:
            return dtype
        device = self.daemon.call("status")["status"]["engine"]["device"]
        return torch.float32 if device == "cpu" else dtype


class RemoteNet:
    """One net of a model in the daemon."""

    title = "DaemonModel"

    def __init__(self, served, twin):
        self.daemon = served.daemon
        self.info = served.info
        self.mode = served.mode
        self.twin = twin
        # Why this run goes on locally, or None.
        self.local_reason = None
        self._warned = set()

    def __deepcopy__(self, memo):
        return self

    def need_weights(self, reason):
        """In auto warns that the weights are loaded here, else raises `reason`."""
        if self.mode != AUTO:
            raise reason
        self.warn(f"{reason.what}: in auto these weights are loaded locally")

    def go_local(self, reason):
        """The rest of the run on this machine, with a warning; where that is not allowed, raises."""
        if self.mode != AUTO:
            raise self.translate(reason) from reason
        what = reason.what if isinstance(reason, Unsupported) else str(reason)
        self.local_reason = what
        self.warn(f"{what}. Going on locally; this loads the model into this process")

    def can_go_local(self, error):
        if isinstance(error, LunaError):
            return error.is_lost or error.code in _BEYOND
        return isinstance(error, Unsupported)

    def translate(self, error):
        """The daemon's error as ComfyUI expects it."""
        if not isinstance(error, LunaError):
            return error
        if error.is_lost:
            return RuntimeError(f"[{self.title}] {NOT_RUNNING} ({error})")
        text = str(error).lower()
        if error.code == "MEMORY_EXCEEDED" or any(each in text for each in _OUT_OF_MEMORY):
            return comfy.model_management.OOM_EXCEPTION(f"[{self.title}] {error}")
        return error

    def warn(self, text):
        if text not in self._warned:
            self._warned.add(text)
            logging.warning("[%s] Warning: %s.", self.title, text)
