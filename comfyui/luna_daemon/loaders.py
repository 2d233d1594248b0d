"""From a file that ComfyUI lists to a MODEL, CLIP or VAE served by the daemon. Every function gives
None for what the daemon does not serve, which ComfyUI's own loaders then load."""

import logging
import os

import comfy.sd
import comfy.utils
import folder_paths

from .daemon_clip import clip_of_checkpoint, clip_of_files, make_daemon_clip
from .daemon_model import find_unet, open_daemon_model
from .daemon_vae import make_daemon_vae, vae_state_dict
from .errors import LunaError
from .header import meta_state_dict
from .remote_net import Served

VAE_PREFIX = "first_stage_model."
# The daemon has no such file in its folders, or not where this process has it.
_ELSEWHERE = ("PATH_REFUSED", "MODEL_UNKNOWN", "FILE_UNREADABLE")


def register(daemon, path, name, mode):
    """The file as the daemon has it: the same path where both see the same disk, else by name.
    Raises LunaError: MODEL_UNKNOWN, CHECKPOINT_UNSUPPORTED, DAEMON_NOT_RUNNING ..."""
    try:
        info = daemon.call("register_model_by_path", path=os.path.realpath(path))["model"]
    except LunaError as error:
        if error.code not in _ELSEWHERE:
            raise
        info = daemon.call("register_model_by_path", name=name.replace("\\", "/"))["model"]
    size = os.path.getsize(path)
    if info["bytes"] != size:
        raise LunaError(
            "MODEL_UNKNOWN",
            f"The daemon's {info['id']} has {info['bytes']} bytes, {path} has {size}: another file.",
        )
    return Served(daemon, info, mode)


def model_from_checkpoint(path, served):
    def load_local():
        found = comfy.sd.load_checkpoint_guess_config(
            path, output_vae=False, output_clip=False, disable_dynamic=True
        )
        return found[0]

    return open_daemon_model(path, served, load_local)


def model_from_unet_file(path, served):
    def load_local():
        return comfy.sd.load_diffusion_model(path, disable_dynamic=True)

    return open_daemon_model(path, served, load_local, is_checkpoint=False)


def clip_from_checkpoint(path, served):
    state_dict = meta_state_dict(path)
    found = state_dict and find_unet(state_dict, is_checkpoint=True)
    if not found or not served.info["textEncoders"]:
        return None
    embeddings = folder_paths.get_folder_paths("embeddings")
    clip = clip_of_checkpoint(path, found, embeddings)

    def load_local():
        return local_clip_of_checkpoint(path).patcher

    return clip and make_daemon_clip(clip, [served], load_local)


def clip_from_files(paths, served, clip_type):
    embeddings = folder_paths.get_folder_paths("embeddings")
    clip = clip_of_files(paths, embeddings, clip_type)

    def load_local():
        return comfy.sd.load_clip(paths, embeddings, clip_type, disable_dynamic=True).patcher

    return clip and make_daemon_clip(clip, served, load_local)


def vae_from_checkpoint(path, served):
    state_dict = vae_state_dict(path, VAE_PREFIX)

    def load_local():
        return local_vae_of_checkpoint(path).patcher

    return make_daemon_vae(state_dict, served, load_local) if state_dict else None


def vae_from_file(path, served):
    state_dict = vae_state_dict(path)

    def load_local():
        return comfy.sd.VAE(sd=comfy.utils.load_torch_file(path)).patcher

    return make_daemon_vae(state_dict, served, load_local) if state_dict else None


def local_clip_of_checkpoint(path):
    return _parts_of_checkpoint(path, output_clip=True)[1]


def local_vae_of_checkpoint(path):
    return _parts_of_checkpoint(path, output_vae=True)[2]


def _parts_of_checkpoint(path, output_clip=False, output_vae=False):
    """Without the UNet, which would be the whole memory again."""
    return comfy.sd.load_checkpoint_guess_config(
        path,
        output_vae=output_vae,
        output_clip=output_clip,
        output_model=False,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        disable_dynamic=True,
    )


def announce(served, title):
    """The lines people know from the first Luna."""
    family = served.info.get("family", "model")
    megabytes = served.info["bytes"] / 1e6
    logging.info("[%s] ✓ Model registered with daemon: %s (%.1f MB)", title, family, megabytes)
    logging.info("[%s] ✓ Using DaemonModel proxy - inference routes through daemon", title)
