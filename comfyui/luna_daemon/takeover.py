"""
Takeover: ComfyUI's own loaders give models of the daemon, so that a workflow made by somebody else
runs on it without an edit. Asked at each load, so the setting can be switched while ComfyUI runs;
files of families the daemon does not serve go to the loaders as before.
"""

import functools

import comfy.sd
import folder_paths
import nodes

from . import open_models
from .remote_net import AUTO
from .settings import is_takeover

# Of CLIPLoader's types, those with Stable Diffusion's text encoders.
CLIP_TYPES = ("stable_diffusion", "sdxl")


def install():
    _wrap(nodes.CheckpointLoaderSimple, "load_checkpoint", _checkpoint)
    _wrap(nodes.UNETLoader, "load_unet", _unet)
    _wrap(nodes.CLIPLoader, "load_clip", _clip)
    _wrap(nodes.DualCLIPLoader, "load_clip", _dual_clip)
    _wrap(nodes.VAELoader, "load_vae", _vae)


def _wrap(loader, name, take):
    stock = getattr(loader, name)

    @functools.wraps(stock)
    def load(self, *args, **kwargs):
        if is_takeover():
            found = take(*args, **kwargs)
            if found is not None:
                return found
        return stock(self, *args, **kwargs)

    setattr(loader, name, load)
    # Loads again when takeover was switched, or a daemon has come or gone.
    loader.IS_CHANGED = classmethod(
        lambda cls, **_inputs: is_takeover() and open_models.daemon_is_there(AUTO)
    )


def _checkpoint(ckpt_name):
    opened = open_models.open_checkpoint(ckpt_name, AUTO)
    return opened.model, opened.clip, opened.vae


def _unet(unet_name, weight_dtype):
    # Another type than the file's is another picture.
    model = open_models.open_unet(unet_name) if weight_dtype == "default" else None
    return model and (model,)


def _clip(clip_name, type="stable_diffusion", device="default"):
    if type not in CLIP_TYPES:
        return None
    kind = getattr(comfy.sd.CLIPType, type.upper(), comfy.sd.CLIPType.STABLE_DIFFUSION)
    clip = open_models.open_clip([clip_name], kind)
    return clip and (clip,)


def _dual_clip(clip_name1, clip_name2, type, device="default"):
    if type not in CLIP_TYPES:
        return None
    kind = getattr(comfy.sd.CLIPType, type.upper(), comfy.sd.CLIPType.STABLE_DIFFUSION)
    clip = open_models.open_clip([clip_name1, clip_name2], kind)
    return clip and (clip,)


def _vae(vae_name):
    if vae_name not in folder_paths.get_filename_list("vae"):
        return None
    vae = open_models.open_vae(vae_name)
    return vae and (vae,)
