"""
The same net on this machine, for what the daemon cannot do and for when there is none. It is loaded
from the same file when first needed, and given back when the daemon serves a run again.
"""

import copy
import uuid

import comfy.lora
import comfy.lora_convert
import comfy.model_management
import comfy.utils
import folder_paths

from .bypass import is_bypass_injection

NET = "diffusion_model."


class LocalTwin:
    def __init__(self, load):
        # Makes a stock ModelPatcher with real weights.
        self._load = load
        self._base = None
        self._clone = None
        self._key = None

    @property
    def device(self):
        """Where it computes."""
        return self._base.load_device

    def weight(self, key):
        """One weight as it is in the file; what was loaded for it is given back."""
        model = (self._base or self._load()).model
        return comfy.utils.get_attr(model, key).detach().clone()

    def drop(self):
        if self._base is not None:
            self._base = self._clone = self._key = None
            comfy.model_management.cleanup_models()

    def like(self, remote, bypass=()):
        """A stock patcher with the patches that `remote` has now; not loaded."""
        if self._base is None:
            self._base = self._load()
        clone = self._base.clone()
        clone.patches = remote.effective_patches()
        for key, adapter, strength in bypass:
            entry = (strength, _without_dora(adapter), 1.0, None, None)
            clone.patches.setdefault(key, []).append(entry)
        clone.patches_uuid = uuid.uuid4()
        for name, strength in remote.named_loras:
            path = folder_paths.get_full_path("loras", name)
            if path is not None:
                lora = comfy.utils.load_torch_file(path, safe_load=True)
                _add_lora(clone, lora, strength, is_clip=remote.is_clip)
        return clone

    def loaded(self, remote, bypass=()):
        """The model with real weights, patched as `remote` is and on its device."""
        key = remote.effective_key()
        if key != self._key:
            if self._clone is not None:
                # ComfyUI does so only as long as it has the patcher.
                self._clone.eject_model()
            self._clone = self.like(remote, bypass)
            _put_into_net(self._clone, remote)
            within = self._clone.get_nested_additional_models()
            comfy.model_management.load_models_gpu([self._clone, *within])
            self._key = key
        return self._clone.model

    def begin_run(self):
        """Other models may have pushed the net off its device since the last run."""
        self._key = None


def _put_into_net(clone, remote):
    """Parts of the net that nodes have replaced, and modules that are put in when it is loaded."""
    for name, part in remote.object_patches.items():
        if name.startswith(NET):
            clone.add_object_patch(name, part)
    for key, injections in remote.injections.items():
        clone.set_injections(key, [each for each in injections if not is_bypass_injection(each)])
    clone.additional_models = dict(remote.additional_models)
    clone.attachments = dict(remote.attachments)


def _add_lora(patcher, lora, strength, is_clip):
    keys = (
        comfy.lora.model_lora_keys_clip(patcher.model, {})
        if is_clip
        else comfy.lora.model_lora_keys_unet(patcher.model, {})
    )
    loaded = comfy.lora.load_lora(comfy.lora_convert.convert_lora(lora), keys, log_missing=False)
    patcher.add_patches(loaded, strength)


def _without_dora(adapter):
    """A bypass hook leaves DoRA and a change of shape out."""
    places = {"lora": (4, 5), "loha": (7,), "lokr": (8,)}.get(adapter.name, ())
    if all(adapter.weights[place] is None for place in places):
        return adapter
    plain = copy.copy(adapter)
    plain.weights = tuple(
        None if place in places else each for place, each in enumerate(adapter.weights)
    )
    return plain
