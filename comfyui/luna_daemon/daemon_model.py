"""A MODEL whose UNet runs in the daemon: ComfyUI's own BaseModel, without weights, and its patcher."""

import logging
from dataclasses import dataclass
from functools import partial

import comfy.model_detection
import comfy.model_management
import comfy.utils
from safetensors import safe_open

from .guarded import guard
from .header import meta_state_dict
from .local_twin import LocalTwin
from .remote_patcher import RemotePatcher
from .remote_unet import RemoteUNet

FIRST = "input_blocks.0.0.weight"
# ComfyUI's configurations of the families the daemon serves; all others are left to its loaders.
SERVED_CONFIGS = (
    "SD15", "SD20", "SDXL", "SDXLRefiner", "SSD1B", "Segmind_Vega", "KOALA_700M", "KOALA_1B",
    "SD15_instructpix2pix", "SDXL_instructpix2pix",
)  # fmt: skip


class DaemonModel(RemotePatcher):
    def pre_run(self):
        super().pre_run()
        self.model.luna.begin_run(self)

    def cleanup(self):
        super().cleanup()
        self.model.luna.end_run()

    def add_lora(self, name, strength):
        """A LoRA file that the daemon reads from its own folders; nothing of it comes here."""
        self.named_loras.append((name, float(strength)))
        count = len(self.named_loras)
        logging.info(
            "[DaemonModel] Added LoRA '%s' (model_str=%s), stack size: %d", name, strength, count
        )

    @property
    def lora_stack(self):
        return tuple(self.named_loras)


def find_unet(state_dict, is_checkpoint):
    """The UNet in a weightless state dict, or None where there is none that the daemon serves."""
    prefix = comfy.model_detection.unet_prefix_from_state_dict(state_dict)
    if f"{prefix}{FIRST}" not in state_dict:
        prefix = ""
    if prefix and not is_checkpoint:
        # As ComfyUI's UNETLoader does with a full checkpoint, root keys such as v_pred lost.
        state_dict = {
            name.removeprefix(prefix): each
            for name, each in state_dict.items()
            if name.startswith(prefix)
        }
    file_names = None
    if FIRST in state_dict or f"{prefix}{FIRST}" in state_dict:
        inner = prefix if is_checkpoint else ""
        config = comfy.model_detection.model_config_from_unet(state_dict, inner)
    else:
        inner = ""
        config = comfy.model_detection.model_config_from_diffusers_unet(state_dict)
        if config is not None:
            names = comfy.utils.unet_to_diffusers(config.unet_config)
            file_names = {ours: theirs for theirs, ours in names.items() if theirs in state_dict}
            state_dict = {ours: state_dict[theirs] for ours, theirs in file_names.items()}
    # `quant_config`: weights in 8 bits with scales beside them, which the daemon does not read.
    if config is None or type(config).__name__ not in SERVED_CONFIGS or config.quant_config:
        return None
    return FoundUNet(config, state_dict, inner, prefix, file_names)


@dataclass(frozen=True)
class FoundUNet:
    config: object
    state_dict: dict
    # Of the UNet's names in `state_dict`, and in the file.
    prefix: str
    file_prefix: str
    # Names in the file where they are diffusers', by ours.
    file_names: dict | None

    def name_in_file(self, name):
        if self.file_names is not None:
            return self.file_names.get(name, "")
        return self.file_prefix + name


def open_daemon_model(path, served, load_local, is_checkpoint=True):
    """A DaemonModel of the UNet in the file at `path`, which `served.daemon` has as `served.info`;
    None for a family it does not serve. `load_local` makes a stock ModelPatcher of the same file."""
    state_dict = meta_state_dict(path)
    found = state_dict and find_unet(state_dict, is_checkpoint)
    if not found:
        return None
    # The type on the wire; a local run would round its inputs in the same way.
    found.config.set_inference_dtype(served.wire_dtype(), None)
    base = found.config.get_model(found.state_dict, found.prefix, device="meta")
    guard(base.diffusion_model)
    offload = comfy.model_management.unet_offload_device()
    base.device = offload
    # Otherwise other models would be pushed off the device for a net that is not here.
    base.memory_required = lambda input_shape, cond_shapes={}: 0
    base.luna = RemoteUNet(base, served, LocalTwin(load_local), partial(_read_weight, path, found))
    base.diffusion_model._forward = base.luna
    _offer_file_weights(base.diffusion_model, path, found)
    return DaemonModel(base, comfy.model_management.get_torch_device(), offload)


def _read_weight(path, found, name):
    """One weight of the UNet from the file."""
    with safe_open(path, "pt") as file:
        return file.get_tensor(found.name_in_file(name))


def _offer_file_weights(net, path, found):
    """Control-LoRAs copy weights out of `diffusion_model.state_dict()`: those come from the file,
    mapped, not loaded. ComfyUI's other readers ask the whole model, and get the guarded ones."""
    guarded = net.state_dict

    def state_dict(*args, **kwargs):
        if args or kwargs:
            return guarded(*args, **kwargs)
        weights = comfy.utils.load_torch_file(path)
        names = {name: found.name_in_file(name) for name in guarded()}
        return {ours: weights[theirs] for ours, theirs in names.items() if theirs in weights}

    net.state_dict = state_dict
