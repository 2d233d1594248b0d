"""Luna's nodes for ComfyUI."""

import json
import logging
import time

import comfy.samplers
import comfy.sd
import folder_paths
import nodes

from . import loaders, open_models
from .connection import Connection
from .daemon_model import DaemonModel
from .errors import NOT_RUNNING, LunaError
from .gateway import apply_loras
from .lora_tags import extract_lora_tags, short_name
from .remote_net import AUTO, MODES
from .settings import daemon_url, get_daemon

_MODE = (list(MODES), {"default": AUTO, "tooltip": "auto uses the daemon where one runs; force_daemon fails without one; force_local never asks."})  # fmt: skip
_URL = ("STRING", {"default": "", "tooltip": "Empty: LUNA_DAEMON_URL, or ws://127.0.0.1:19283."})


class _FromDaemon:
    """Loaders that look again when a daemon has come or gone."""

    FUNCTION = "load"
    CATEGORY = "Luna/loaders"

    @classmethod
    def IS_CHANGED(cls, daemon_mode=AUTO, daemon_url="", **_inputs):
        return open_models.daemon_is_there(daemon_mode, daemon_url)


class LunaModelRouter(_FromDaemon):
    """A checkpoint from the shared daemon, or loaded here, as the mode says."""

    @classmethod
    def INPUT_TYPES(cls):
        source = (list(open_models.SOURCES), {"default": AUTO})
        return {
            "required": {
                "ckpt_name": (folder_paths.get_filename_list("checkpoints"),),
                "daemon_mode": _MODE,
            },
            "optional": {"clip_source": source, "vae_source": source, "daemon_url": _URL},
        }

    RETURN_TYPES = ("MODEL", "CLIP", "VAE", "STRING", "STRING")
    RETURN_NAMES = ("MODEL", "CLIP", "VAE", "model_name", "status")
    DESCRIPTION = __doc__

    def load(self, ckpt_name, daemon_mode=AUTO, clip_source=AUTO, vae_source=AUTO, daemon_url=""):
        opened = open_models.open_checkpoint(
            ckpt_name, daemon_mode, clip_source, vae_source, daemon_url
        )
        if isinstance(opened.model, DaemonModel):
            loaders.announce(opened.model.model.luna, "LunaModelRouter")
        else:
            logging.info("[LunaModelRouter] Using a local model - inference stays in this instance")
        return opened.model, opened.clip, opened.vae, short_name(ckpt_name), opened.status


class LunaUNETLoader(_FromDaemon):
    """A UNet of its own file from the daemon."""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "unet_name": (folder_paths.get_filename_list("diffusion_models"),),
                "daemon_mode": _MODE,
            },
            "optional": {"daemon_url": _URL},
        }

    RETURN_TYPES = ("MODEL",)

    def load(self, unet_name, daemon_mode=AUTO, daemon_url=""):
        model = open_models.open_unet(unet_name, daemon_mode, daemon_url)
        if model is not None:
            loaders.announce(model.model.luna, "LunaUNETLoader")
            return (model,)
        path = folder_paths.get_full_path_or_raise("diffusion_models", unet_name)
        return (comfy.sd.load_diffusion_model(path),)


class LunaCLIPLoader(_FromDaemon):
    """One text encoder, or SDXL's two, from the daemon."""

    @classmethod
    def INPUT_TYPES(cls):
        files = folder_paths.get_filename_list("text_encoders")
        return {
            "required": {
                "clip_name": (files,),
                "type": (["stable_diffusion", "sdxl"],),
                "daemon_mode": _MODE,
            },
            "optional": {"clip_name2": (["none", *files],), "daemon_url": _URL},
        }

    RETURN_TYPES = ("CLIP",)

    def load(self, clip_name, type, daemon_mode=AUTO, clip_name2="none", daemon_url=""):
        names = [clip_name] if clip_name2 == "none" else [clip_name, clip_name2]
        kind = getattr(comfy.sd.CLIPType, type.upper(), comfy.sd.CLIPType.STABLE_DIFFUSION)
        clip = open_models.open_clip(names, kind, daemon_mode, daemon_url)
        if clip is None:
            paths = [folder_paths.get_full_path_or_raise("text_encoders", name) for name in names]
            embeddings = folder_paths.get_folder_paths("embeddings")
            clip = comfy.sd.load_clip(paths, embedding_directory=embeddings, clip_type=kind)
        return (clip,)


class LunaVAELoader(_FromDaemon):
    """A VAE of its own file from the daemon."""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "vae_name": (folder_paths.get_filename_list("vae"),),
                "daemon_mode": _MODE,
            },
            "optional": {"daemon_url": _URL},
        }

    RETURN_TYPES = ("VAE",)

    def load(self, vae_name, daemon_mode=AUTO, daemon_url=""):
        vae = open_models.open_vae(vae_name, daemon_mode, daemon_url)
        return (vae,) if vae is not None else nodes.VAELoader().load_vae(vae_name)


class LunaLoraStack:
    """One more LoRA on a stack for Luna Config Gateway."""

    @classmethod
    def INPUT_TYPES(cls):
        strength = ("FLOAT", {"default": 1.0, "min": -100.0, "max": 100.0, "step": 0.01})
        return {
            "required": {
                "lora_name": (folder_paths.get_filename_list("loras"),),
                "strength_model": strength,
                "strength_clip": strength,
            },
            "optional": {"lora_stack": ("LORA_STACK",)},
        }

    RETURN_TYPES = ("LORA_STACK",)
    FUNCTION = "add"
    CATEGORY = "Luna/workflow"

    def add(self, lora_name, strength_model, strength_clip, lora_stack=None):
        return ([*(lora_stack or []), (lora_name, strength_model, strength_clip)],)


class LunaConfigGateway:
    """Prompts, LoRAs, clip skip and the sampler's settings in one place. LoRAs come from
    `lora_stack` first, then from <lora:name:weight:clip_weight> in the prompts."""

    @classmethod
    def INPUT_TYPES(cls):
        text = ("STRING", {"default": "", "multiline": True, "dynamicPrompts": True})
        return {
            "required": {
                "model": ("MODEL",),
                "clip": ("CLIP",),
                "positive_prompt": text,
                "negative_prompt": text,
            },
            "optional": {
                "clip_skip": ("INT", {"default": -1, "min": -24, "max": -1}),
                # ComfyUI keeps the layer apart from the weights: both give the same encoding.
                "clip_skip_timing": (["after_lora", "before_lora"],),
                "lora_stack": ("LORA_STACK",),
                "seed": ("INT", {"default": 0, "min": 0, "max": 0xFFFFFFFFFFFFFFFF}),
                "steps": ("INT", {"default": 20, "min": 1, "max": 10000}),
                "cfg": ("FLOAT", {"default": 8.0, "min": 0.0, "max": 100.0, "step": 0.1}),
                "sampler_name": (comfy.samplers.KSampler.SAMPLERS,),
                "scheduler": (comfy.samplers.KSampler.SCHEDULERS,),
                "denoise": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}),
            },
        }

    RETURN_TYPES = (
        "MODEL", "CLIP", "CONDITIONING", "CONDITIONING", "STRING", "STRING", "LORA_STACK", "INT",
        "INT", "FLOAT", comfy.samplers.KSampler.SAMPLERS, comfy.samplers.KSampler.SCHEDULERS,
        "FLOAT", "STRING",
    )  # fmt: skip
    RETURN_NAMES = (
        "model", "clip", "positive", "negative", "positive_prompt", "negative_prompt",
        "lora_stack", "seed", "steps", "cfg", "sampler_name", "scheduler", "denoise", "metadata",
    )  # fmt: skip
    FUNCTION = "configure"
    CATEGORY = "Luna/workflow"

    def configure(self, model, clip, positive_prompt, negative_prompt, clip_skip=-1,
                  clip_skip_timing="after_lora", lora_stack=None, **sampler):  # fmt: skip
        positive, from_positive = extract_lora_tags(positive_prompt)
        negative, from_negative = extract_lora_tags(negative_prompt)
        stack = [*(lora_stack or []), *from_positive, *from_negative]

        def skip(clip):
            return (
                nodes.CLIPSetLastLayer().set_last_layer(clip, clip_skip)[0]
                if clip_skip < -1
                else clip
            )

        if clip_skip_timing == "before_lora":
            clip = skip(clip)
        model, clip = apply_loras(model, clip, stack, "LunaConfigGateway")
        if clip_skip_timing == "after_lora":
            clip = skip(clip)
        encode = nodes.CLIPTextEncode().encode
        names = ("seed", "steps", "cfg", "sampler_name", "scheduler", "denoise")
        values = tuple(sampler.get(name, default) for name, default in zip(names, _SAMPLER))
        metadata = {
            "positive_prompt": positive,
            "negative_prompt": negative,
            "clip_skip": clip_skip,
            "loras": [dict(zip(("name", "model", "clip"), each)) for each in stack],
            **dict(zip(names, values)),
        }
        return (
            model, clip, encode(clip, positive)[0], encode(clip, negative)[0], positive, negative,
            stack, *values, json.dumps(metadata),
        )  # fmt: skip


_SAMPLER = (0, 20, 8.0, "euler", "normal", 1.0)


class LunaKSampler(nodes.KSampler):
    """KSampler that also says how long a step took and where it was computed."""

    CATEGORY = "Luna/sampling"

    def sample(self, model, seed, steps, *args, **kwargs):
        began = time.perf_counter()
        result = super().sample(model, seed, steps, *args, **kwargs)
        each = (time.perf_counter() - began) * 1000 / max(1, steps)
        is_remote = isinstance(model, DaemonModel) and model.model.luna.local_reason is None
        place = "daemon" if is_remote else "local"
        logging.info("[LunaKSampler] %d steps via %s, %.1f ms a step", steps, place, each)
        if is_remote and model.named_loras:
            logging.info("[DaemonModel] The base weights were not touched")
        return result


class LunaDaemonStatus:
    """What the daemon holds and does right now; asked anew in every run."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}, "optional": {"daemon_url": _URL}}

    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("status",)
    OUTPUT_NODE = True
    FUNCTION = "ask"
    CATEGORY = "Luna/daemon"

    @classmethod
    def IS_CHANGED(cls, **_inputs):
        return float("nan")

    def ask(self, daemon_url=""):
        text = "\n".join(status_lines(daemon_url))
        return {"ui": {"text": [text]}, "result": (text,)}


def status_lines(url=""):
    address = daemon_url(url)
    # A connection of its own: the shared one may be in the middle of a long step.
    daemon = get_daemon(url)
    connection = Connection(address, daemon.token, grace=0)
    try:
        status = connection.request({"op": "status"}).data["status"]
    except LunaError as error:
        return [f"{NOT_RUNNING} ({address})" if error.is_lost else str(error)]
    finally:
        connection.close()
    engine, queue = status["engine"], status["queue"]
    lines = [
        f"Daemon {status['daemon']['version']} is running at {address} on {engine['device']}",
        *(
            f"{each['id']}: {each['bytes'] / 1e6:.1f} MB, {each['copies']} copy, {each['users']} users"
            for each in status["models"]
        ),
        f"{len(status['sessions'])} sessions, {queue['depth']} requests waiting",
        f"{status['tensorStore']['bytes'] / 1e6:.1f} MB of tensors, "
        f"{engine['loraCache']['bytes'] / 1e6:.1f} MB of LoRAs",
    ]
    if daemon.steps:
        over = sorted(total - engine for total, engine, _ in daemon.steps)
        lines.append(
            f"Overhead of a step here: {over[len(over) // 2]:.1f} ms (median of {len(over)})"
        )
    return lines


NODE_CLASS_MAPPINGS = {
    each.__name__: each
    for each in (
        LunaModelRouter, LunaUNETLoader, LunaCLIPLoader, LunaVAELoader, LunaLoraStack,
        LunaConfigGateway, LunaKSampler, LunaDaemonStatus,
    )
}  # fmt: skip
NODE_DISPLAY_NAME_MAPPINGS = {
    "LunaModelRouter": "Luna Model Router",
    "LunaUNETLoader": "Luna UNET Loader",
    "LunaCLIPLoader": "Luna CLIP Loader",
    "LunaVAELoader": "Luna VAE Loader",
    "LunaLoraStack": "Luna LoRA Stack",
    "LunaConfigGateway": "Luna Config Gateway",
    "LunaKSampler": "Luna KSampler",
    "LunaDaemonStatus": "Luna Daemon Status",
}
