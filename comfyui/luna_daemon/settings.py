"""What a person can set: environment variables first, then ComfyUI's settings (comfy.settings.json
of the default user, written by the frontend), then the defaults. Read when needed, so that a change
in the settings holds from the next prompt on."""

import json
import logging
import os

import comfy.model_management
import folder_paths

from .daemon import Daemon, shared_daemon

URL = "ws://127.0.0.1:19283"
GRACE_SECONDS = 30.0
_TRUE = ("1", "true", "yes", "on")


def _setting(name):
    path = os.path.join(folder_paths.get_user_directory(), "default", "comfy.settings.json")
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file).get(f"Luna.{name}")
    except (OSError, ValueError):
        return None


def daemon_url(chosen=""):
    return chosen.strip() or os.environ.get("LUNA_DAEMON_URL") or _setting("DaemonUrl") or URL


def is_takeover():
    value = os.environ.get("LUNA_TAKEOVER", _setting("Takeover"))
    return str(value).lower() in _TRUE


def grace_seconds():
    """How long a lost daemon may take to come back."""
    value = os.environ.get("LUNA_RECONNECT_SECONDS", _setting("ReconnectSeconds"))
    try:
        return max(0.0, float(value))
    except (TypeError, ValueError):
        return GRACE_SECONDS


def _token():
    path = os.environ.get("LUNA_TOKEN_FILE")
    if path is None:
        return os.environ.get("LUNA_TOKEN", "")
    with open(path, encoding="utf-8") as file:
        return file.read().strip()


def get_daemon(url=""):
    """The Daemon at `url` for the thread that runs prompts: an interrupt ends its waiting."""
    daemon = shared_daemon(daemon_url(url), _make)
    daemon.connection.grace = grace_seconds()
    return daemon


def _make(url):
    return Daemon(
        url,
        token=_token(),
        say=logging.warning,
        poll=comfy.model_management.throw_exception_if_processing_interrupted,
    )
