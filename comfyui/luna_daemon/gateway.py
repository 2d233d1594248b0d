"""LoRAs go where the model and the text encoder compute, which may be two places: the four routings
of daemon and local."""

import logging

import comfy.sd
import comfy.utils
import folder_paths

from .daemon_clip import DaemonCLIP
from .daemon_model import DaemonModel
from .lora_tags import find_lora, short_name


def apply_loras(model, clip, stack, node):
    """`stack` is [(name, strength_model, strength_clip)]. A LoRA that nobody has is a warning."""
    if stack and isinstance(model, DaemonModel):
        logging.info("[%s] DaemonModel detected - UNet LoRAs via daemon", node)
    listed = {}
    for name, for_model, for_clip in stack:
        files = folder_paths.get_filename_list("loras")
        model = _apply(model, DaemonModel, (name, for_model), (listed, files, node))
        clip = _apply(clip, DaemonCLIP, (name, for_clip), (listed, files, node))
    return model, clip


def _apply(target, remote_type, lora, context):
    """One LoRA on one side. Strength 0 leaves it as it is."""
    name, strength = lora
    listed, files, node = context
    if target is None or strength == 0:
        return target
    is_clip = not hasattr(target, "model_options")
    told = f"model=0.0, clip={strength}" if is_clip else f"model={strength}, clip=0.0"
    if isinstance(target, remote_type):
        net = (target.cond_stage_model if is_clip else target.model).luna
        if net.daemon.url not in listed:
            listed[net.daemon.url] = _listed(net)
        found = find_lora(name, listed[net.daemon.url])
        if found is not None:
            logging.info("[%s] LoRA '%s' → daemon (%s)", node, short_name(name), told)
            target = target.clone()
            (target.add_lora_by_name if is_clip else target.add_lora)(found, strength)
            return target
    found = find_lora(name, files)
    if found is None:
        logging.warning("[%s] Warning: LoRA '%s' not found", node, short_name(name))
        return target
    place = "daemon" if isinstance(target, remote_type) else "local"
    logging.info("[%s] LoRA '%s' → %s (%s)", node, short_name(name), place, told)
    path = folder_paths.get_full_path_or_raise("loras", found)
    file = comfy.utils.load_torch_file(path, safe_load=True)
    if is_clip:
        return comfy.sd.load_lora_for_models(None, target, file, 0, strength)[1]
    return comfy.sd.load_lora_for_models(target, None, file, strength, 0)[0]


def _listed(net):
    """The LoRAs in the daemon's folders; none where it does not answer, then they are sent."""
    try:
        return net.daemon.call("list")["loras"]
    except Exception as error:
        if not net.can_go_local(error):
            raise
        return []
