"""What loaders give: models of the daemon where it runs and serves the file, ComfyUI's own else."""

import logging
from dataclasses import dataclass

import comfy.sd
import folder_paths

from . import loaders
from .connection import is_reachable
from .errors import LunaError
from .remote_net import AUTO, FORCE_DAEMON, FORCE_LOCAL
from .settings import daemon_url, get_daemon

DAEMON, LOCAL = "daemon", "local"
SOURCES = (AUTO, DAEMON, LOCAL)
NOT_SERVED = LunaError(
    "CHECKPOINT_UNSUPPORTED", "The daemon serves Stable Diffusion 1, 2 and XL in .safetensors only."
)

_warned = set()


@dataclass(frozen=True)
class Opened:
    model: object
    clip: object
    vae: object
    status: str


def daemon_is_there(mode, url=""):
    """For IS_CHANGED: a model that was loaded locally is loaded again once a daemon runs."""
    return mode == AUTO and is_reachable(daemon_url(url))


def warn_once(text):
    if text not in _warned:
        _warned.add(text)
        logging.warning("[LunaDaemon] Warning: %s", text)


def attempt(mode, make):
    """What `make()` gives from the daemon; None where ComfyUI is to load it. Raises in force_daemon."""
    if mode == FORCE_LOCAL:
        return None
    try:
        found = make()
        if found is None:
            raise NOT_SERVED
        return found
    except LunaError as error:
        if mode == FORCE_DAEMON:
            raise
        warn_once(f"{error} Loading locally.")
        return None


def open_checkpoint(name, mode=AUTO, clip_source=AUTO, vae_source=AUTO, url=""):
    path = folder_paths.get_full_path_or_raise("checkpoints", name)

    def make():
        served = loaders.register(get_daemon(url), path, name, mode)
        model = loaders.model_from_checkpoint(path, served)
        return model and (served, model)

    found = attempt(mode, make)
    if found is None:
        embeddings = folder_paths.get_folder_paths("embeddings")
        model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(
            path, embedding_directory=embeddings
        )
        return Opened(model, clip, vae, "local")
    served, model = found
    clip = _part(clip_source, lambda: loaders.clip_from_checkpoint(path, served), "CLIP")
    vae = _part(vae_source, lambda: loaders.vae_from_checkpoint(path, served), "VAE")
    parts = [
        f"{'daemon' if each else 'local'} {part}" for part, each in (("CLIP", clip), ("VAE", vae))
    ]
    return Opened(
        model,
        clip or loaders.local_clip_of_checkpoint(path),
        vae or loaders.local_vae_of_checkpoint(path),
        f"daemon MODEL, {', '.join(parts)} ({served.daemon.url})",
    )


def _part(source, make, what):
    if source == LOCAL:
        return None
    found = make()
    if found is None and source == DAEMON:
        raise LunaError("MODEL_UNKNOWN", f"The daemon has no {what} of this checkpoint.")
    return found


def open_unet(name, mode=AUTO, url=""):
    path = folder_paths.get_full_path_or_raise("diffusion_models", name)

    def make():
        served = loaders.register(get_daemon(url), path, name, mode)
        return loaders.model_from_unet_file(path, served)

    return attempt(mode, make)


def open_clip(names, clip_type, mode=AUTO, url=""):
    paths = [folder_paths.get_full_path_or_raise("text_encoders", name) for name in names]

    def make():
        daemon = get_daemon(url)
        served = [loaders.register(daemon, path, name, mode) for path, name in zip(paths, names)]
        return loaders.clip_from_files(paths, served, clip_type)

    return attempt(mode, make)


def open_vae(name, mode=AUTO, url=""):
    path = folder_paths.get_full_path_or_raise("vae", name)

    def make():
        return loaders.vae_from_file(path, loaders.register(get_daemon(url), path, name, mode))

    return attempt(mode, make)
