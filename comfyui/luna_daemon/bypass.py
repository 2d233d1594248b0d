"""Bypass LoRAs: ComfyUI hangs them on the forward of modules, not on weights. Here nothing runs a
module's forward, so they are read from it and sent as the adapters they stand for."""

from comfy.weight_adapter import bypass as stock


def is_bypass(forward):
    return type(getattr(forward, "__self__", None)).__name__ == "BypassForwardHook"


def is_bypass_injection(injection):
    """They hold the modules of the net they were made for."""
    return getattr(injection.inject, "__module__", None) == stock.__name__


def bypass_adapters(root, prefix=""):
    """(key, adapter, strength) of the hooks on the modules of `root` now."""
    return [
        (f"{prefix}{name}.weight", hook.adapter, hook.multiplier)
        for name, module in root.named_modules()
        for hook in _chain(module.__dict__.get("forward"))
    ]


def _chain(forward):
    """The hooks on one module: a second LoRA wraps the forward of the first."""
    while is_bypass(forward):
        yield forward.__self__
        forward = forward.__self__.original_forward
