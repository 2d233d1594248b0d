"""The one error of the wire, and the one for what a daemon cannot do."""

NOT_RUNNING = "Daemon is not running. Start it with: npx luna serve"


class LunaError(RuntimeError):
    """An error with one of the daemon's stable codes (docs/errors.md). Branch on `code`."""

    def __init__(self, code, message, details=None):
        super().__init__(f"{message} [{code}]")
        self.code = code
        self.details = details or {}

    @property
    def is_lost(self):
        """No daemon is there to answer; another attempt may find one."""
        return self.code in ("DAEMON_NOT_RUNNING", "CONNECTION_LOST", "SHUTTING_DOWN")


class Unsupported(RuntimeError):
    """Something in the workflow acts inside the net in a way the daemon cannot do. Never silence."""

    def __init__(self, what, advice="use force_local for this branch"):
        super().__init__(f"{what}: {advice}.")
        self.what = what
