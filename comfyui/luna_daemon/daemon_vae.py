"""
A VAE whose network runs in the daemon. Cropping, scaling of pixels, batches and tiles stay
ComfyUI's own code, so that tiled pictures are the same ones too.
"""

import comfy.model_management
import comfy.sd
import torch

from .control import joined
from .daemon import Run
from .errors import LunaError, Unsupported
from .guarded import guard
from .header import meta_state_dict
from .local_twin import LocalTwin
from .remote_net import RemoteNet
from .remote_patcher import RemotePatcher

# Pictures the daemon takes in one request (docs/protocol.md, section 7).
ROWS_MAX = 16


class DaemonVaePatcher(RemotePatcher):
    def load(self, *args, **kwargs):
        super().load(*args, **kwargs)
        self.model.luna.begin_run()


class DaemonVAE(comfy.sd.VAE):
    def get_sd(self):
        luna = self.first_stage_model.luna
        luna.need_weights(Unsupported("Saving a VAE reads its weights"))
        return luna.twin.loaded(self.patcher).state_dict()


class RemoteVae(RemoteNet):
    title = "DaemonVAE"

    def __init__(self, model, served, twin):
        super().__init__(served, twin)
        self._model = model

    def begin_run(self):
        self.local_reason = None
        self.twin.begin_run()

    def run(self, op, slot, answer, value):
        if self.local_reason is None:
            try:
                return self._run(op, slot, answer, value)
            except LunaError as error:
                if error.code == "LIMIT_EXCEEDED":
                    # More cells than one request may have: ComfyUI then goes on in tiles.
                    raise comfy.model_management.OOM_EXCEPTION(str(error)) from error
                if not self.can_go_local(error):
                    raise self.translate(error) from error
                self.go_local(error)
        local = self.twin.loaded(self._model.luna_patcher())
        there = value.to(device=self.twin.device, dtype=next(local.parameters()).dtype)
        return getattr(local, op.removeprefix("vae_"))(there).to(value)

    def _run(self, op, slot, answer, value):
        outputs = []
        for begin in range(0, value.shape[0], ROWS_MAX):
            own = {slot: value[begin : begin + ROWS_MAX]}
            reply = self.daemon.run(Run(op, {"model": self.info["id"]}, own))
            outputs.append(reply.tensors[answer])
        return joined(outputs).to(device=value.device, dtype=value.dtype)


class _Half:
    """Stands in for `encode` or `decode` of the network."""

    def __init__(self, remote, op, slot, answer):
        self._remote, self._arguments = remote, (op, slot, answer)

    def __call__(self, value, **options):
        if options:
            raise Unsupported(f"The VAE options {sorted(options)}")
        return self._remote.run(*self._arguments, value)

    def __deepcopy__(self, memo):
        return self


def make_daemon_vae(state_dict, served, load_local):
    """A VAE of a weightless state dict without prefix, served by the daemon; None where the daemon
    has no such VAE. `load_local` makes the stock patcher."""
    kind = served.info.get("vae", {}).get("kind")
    if kind != "kl" or "decoder.conv_in.weight" not in state_dict:
        return None
    with torch.device("meta"):
        vae = comfy.sd.VAE(sd=state_dict, device=torch.device("cpu"), dtype=served.wire_dtype())
    if vae.downscale_ratio != served.info["vae"]["downscale"]:
        return None
    model = vae.first_stage_model
    guard(model)
    model.luna = RemoteVae(model, served, LocalTwin(load_local))
    model.decode = _Half(model.luna, "vae_decode", "latent", "image")
    model.encode = _Half(model.luna, "vae_encode", "image", "latent")
    vae.patcher = DaemonVaePatcher(model, vae.device, comfy.model_management.vae_offload_device())
    vae.size = 1
    vae.__class__ = DaemonVAE
    return vae


def vae_state_dict(path, prefix=""):
    """The weightless VAE of a file, its names without `prefix`; None where it is not safetensors."""
    state_dict = meta_state_dict(path)
    if state_dict is None:
        return None
    return {
        name.removeprefix(prefix): each
        for name, each in state_dict.items()
        if name.startswith(prefix)
    }
