"""Luna Daemon for ComfyUI: one frozen copy of a Stable Diffusion model for many instances."""

from .luna_daemon import takeover
from .luna_daemon.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

WEB_DIRECTORY = "./web"

takeover.install()

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]
