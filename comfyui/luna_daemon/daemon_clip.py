"""
A CLIP whose encoders run in the daemon, one call for each `encode` of token rows. Prompt weights,
sections, SDXL's joining of two encoders and clip skip stay ComfyUI's own code.
"""

import comfy.model_management
import comfy.sd
import torch

from . import adapters
from .bypass import bypass_adapters
from .daemon import Run
from .errors import LunaError, Unsupported
from .guarded import guard
from .header import meta_state_dict
from .local_twin import LocalTwin
from .remote_net import RemoteNet
from .remote_patcher import RemotePatcher
from .text_rows import text_tensors

ENCODERS = {"clip_l": "clip-l", "clip_g": "clip-g", "clip_h": "clip-h"}


class DaemonClipPatcher(RemotePatcher):
    def load(self, *args, **kwargs):
        super().load(*args, **kwargs)
        self.model.luna.begin_run()

    def add_lora(self, name, strength):
        self.named_loras.append((name, float(strength)))


class DaemonCLIP(comfy.sd.CLIP):
    """ComfyUI's CLIP with a patcher that has no weights."""

    def clone(self, *args, **kwargs):
        copy = super().clone(*args, **kwargs)
        copy.__class__ = DaemonCLIP
        return copy

    def add_lora_by_name(self, name, strength):
        """A LoRA file that the daemon reads from its own folders."""
        self.patcher.add_lora(name, strength)

    def get_sd(self):
        luna = self.cond_stage_model.luna
        luna.need_weights(Unsupported("Saving a text encoder reads its weights"))
        return {**luna.twin.loaded(self.patcher).state_dict(), **self.tokenizer.state_dict()}

    def load_sd(self, sd, full_model=False):
        raise Unsupported("Loading weights into a text encoder of the daemon")

    def generate(self, *args, **kwargs):
        raise Unsupported("Generating text with a text encoder of the daemon")


class RemoteText(RemoteNet):
    """All encoders of one CLIP object; `served` may differ for each (DualCLIPLoader)."""

    title = "DaemonCLIP"

    def __init__(self, model, served, twin):
        super().__init__(next(iter(served.values())), twin)
        self._model = model
        self._served = served
        shapes = {name: each.shape for name, each in model.state_dict().items()}
        self._net = adapters.Net(shapes, _layer_of, twin.weight)
        self._loras = (None, [])

    def begin_run(self):
        self.local_reason = None
        self._loras = (None, [])
        self.twin.begin_run()

    def encode(self, name, tokens):
        """(hidden [n, 77, d], pooled [n, d]), float32, of the encoder `name` ("clip_l")."""
        if self.local_reason is None:
            try:
                return self._run(name, tokens)
            except (Unsupported, LunaError) as error:
                if not self.can_go_local(error):
                    raise self.translate(error) from error
                self.go_local(error)
        encoder = getattr(self._model, name)
        twin = self.twin.loaded(self._model.luna_patcher(), bypass_adapters(self._model))
        local = getattr(twin, name)
        for option in ("layer", "layer_idx", "return_projected_pooled"):
            setattr(local, option, getattr(encoder, option))
        local.execution_device = self.twin.device
        return local.encode(tokens)

    def _run(self, name, tokens):
        encoder = getattr(self._model, name)
        if encoder.layer not in ("last", "hidden"):
            raise Unsupported(f"Layers {encoder.layer} of a text encoder")
        if encoder.enable_attention_masks or encoder.zero_out_masked:
            raise Unsupported("Attention masks of a text encoder")
        layer = -1 if encoder.layer == "last" else encoder.layer_idx
        served = self._served[name]
        fields = {
            "model": served.info["id"],
            "encoder": ENCODERS[name],
            "layer": layer if layer < 0 else layer - encoder.num_layers,
            "isLayerNormed": encoder.layer == "last" or encoder.layer_norm_hidden_state,
        }
        width = encoder.transformer.get_input_embeddings().weight.shape[1]
        own = text_tensors(tokens, width, encoder.special_tokens["pad"])
        reply = served.daemon.run(Run("clip_encode", fields, own, loras=self._current_loras()))
        pooled = reply.tensors["pooled"]
        if encoder.return_projected_pooled:
            # Without a projection in the file ComfyUI uses one of random numbers, and nobody reads it.
            pooled = reply.tensors.get("projected", pooled)
        return reply.tensors["hidden"], pooled

    def _current_loras(self):
        patcher = self._model.luna_patcher()
        key = patcher.effective_key()
        if self._loras[0] != key:
            bypass = bypass_adapters(self._model)
            sets = adapters.resolve(patcher.effective_patches(), bypass, self._net)
            named = [(adapters.NamedLora(name), each) for name, each in patcher.named_loras]
            self._loras = (key, named + sets)
        return self._loras[1]


def _layer_of(key):
    name, _, rest = key.partition(".transformer.")
    return f"{ENCODERS.get(name, name)}.{rest.rsplit('.', 1)[0]}"


class _Encode:
    """Stands in for `encode` of one encoder."""

    def __init__(self, remote, name):
        self._remote, self._name = remote, name

    def __call__(self, tokens):
        return self._remote.encode(self._name, tokens)

    def __deepcopy__(self, memo):
        return self


def weightless_options():
    """`model_options` with which ComfyUI builds a text encoder on the meta device."""
    cpu = torch.device("cpu")
    return {"initial_device": torch.device("meta"), "load_device": cpu, "offload_device": cpu}


def clip_of_checkpoint(path, found, embeddings):
    """ComfyUI's CLIP for a checkpoint (see find_unet), weightless; None where it has none."""
    target = found.config.clip_target(state_dict=found.state_dict)
    if target is None:
        return None
    return comfy.sd.CLIP(
        target,
        embedding_directory=embeddings,
        tokenizer_data={},
        state_dict=[],
        model_options=weightless_options(),
        disable_dynamic=True,
    )


def clip_of_files(paths, embeddings, clip_type):
    """ComfyUI's CLIP for single files, weightless; None where one is not safetensors."""
    state_dicts = [meta_state_dict(path) for path in paths]
    if any(each is None for each in state_dicts):
        return None
    return comfy.sd.load_text_encoder_state_dicts(
        state_dicts,
        embedding_directory=embeddings,
        clip_type=clip_type,
        model_options=weightless_options(),
        disable_dynamic=True,
    )


def make_daemon_clip(clip, served, load_local):
    """Turns a weightless CLIP into one that encodes in the daemon. `served` are the files that may
    have its encoders. None where one is missing. `load_local` makes the stock patcher."""
    model = clip.cond_stage_model
    kinds = {}
    for name, kind in ENCODERS.items():
        if not hasattr(model, name):
            continue
        owners = [
            each for each in served if kind in (has["kind"] for has in each.info["textEncoders"])
        ]
        if not owners:
            return None
        kinds[name] = owners[0]
    if not kinds or any(not name.startswith(tuple(kinds)) for name, _ in model.named_parameters()):
        return None
    guard(model)
    stock = clip.patcher
    model.luna = RemoteText(model, kinds, LocalTwin(load_local))
    for name in kinds:
        getattr(model, name).encode = _Encode(model.luna, name)
    clip.patcher = DaemonClipPatcher(model, stock.load_device, stock.offload_device)
    clip.patcher.is_clip = True
    clip.patcher.hook_mode = stock.hook_mode
    clip.patcher.object_patches = dict(stock.object_patches)
    clip.__class__ = DaemonCLIP
    comfy.model_management.archive_model_dtypes(model)
    return clip
