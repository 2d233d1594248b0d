"""Bypass LoRAs: ComfyUI hangs them on the forward of modules, not on weights. Here nothing runs a
module's forward, so they are read from it and sent as the adapters they stand for."""


def is_bypass(forward):
    return type(getattr(forward, "__self__", None)).__name__ == "BypassForwardHook"


def bypass_adapters(root, prefix=""):
    """(key, adapter, strength) of the hooks on the modules of `root` now."""
    return [
        (f"{prefix}{name}.weight", hook.adapter, hook.multiplier)
        for name, module in root.named_modules()
        for hook in _chain(module.__dict__.get("forward"))
    ]


def replaced_forward(root):
    """Name of a module whose forward something else has replaced, or None."""
    for name, module in root.named_modules():
        forward = module.__dict__.get("forward")
        # A bypass hook that was taken off leaves the module's own method there.
        own = getattr(forward, "__func__", None) is type(module).forward
        if forward is not None and not own and not is_bypass(forward):
            return name
    return None


def modules_of(root):
    """The modules of a net as a set that `strange_module` compares with."""
    return {id(module) for module in root.modules()}


def strange_module(root, own):
    """Name of a module that something has put into the net since `modules_of`, or None."""
    return next((name for name, each in root.named_modules() if id(each) not in own), None)


def _chain(forward):
    """The hooks on one module: a second LoRA wraps the forward of the first."""
    while is_bypass(forward):
        yield forward.__self__
        forward = forward.__self__.original_forward
