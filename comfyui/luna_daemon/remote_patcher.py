"""
A ModelPatcher whose net runs elsewhere: it keeps patches, hooks and options as ComfyUI does, and
never touches a weight. The net has a `luna` attribute with `begin_run`, `twin` and `mode`.
Why each member is overridden: docs/comfyui.md, "Inside".
"""

import logging
import weakref

import comfy.model_patcher
import comfy.patcher_extension

from .errors import Unsupported

# Large, and finite because ComfyUI divides by what a picture needs. The daemon splits batches.
FREE_BYTES = 1 << 40
COMPILE_KEY = "torch.compile"


class RemotePatcher(comfy.model_patcher.ModelPatcher):
    def __init__(self, model, load_device, offload_device, size=0, weight_inplace_update=False):
        # With size 0 ComfyUI would count the bytes of weights that are not here.
        super().__init__(model, load_device, offload_device, 1, weight_inplace_update)
        # (name, strength) of LoRAs the daemon reads from its own folders.
        self.named_loras = []

    def clone(self, *args, **kwargs):
        copy = super().clone(*args, **kwargs)
        copy.named_loras = list(self.named_loras)
        return copy

    # Memory: nothing is here, so nothing can be loaded, evicted or pinned.

    def is_dynamic(self):
        return False

    def model_size(self):
        return 1

    def loaded_size(self):
        return 1

    def lowvram_patch_counter(self):
        return 0

    def model_mmap_residency(self, free=False):
        return (0, 0)

    def get_free_memory(self, device):
        return FREE_BYTES

    def memory_required(self, input_shape):
        return 0

    def partially_unload(self, device_to, memory_to_free=0, force_patch_weights=False):
        return 0

    def partially_load(self, device_to, extra_memory=0, force_patch_weights=False):
        with self.use_ejected(skip_and_inject_on_exit_only=True):
            # Object patches of the clone that ran before would otherwise stay on the model.
            self.unpatch_model()
            self.patch_model(load_weights=False)
            self.load(device_to)
        return 0

    def load(
        self, device_to=None, lowvram_model_memory=0, force_patch_weights=False, full_load=False
    ):
        self.model.device = device_to
        self.model.current_weight_patches_uuid = self.patches_uuid
        self.model.luna_patcher = weakref.ref(self)
        for callback in self.get_all_callbacks(comfy.patcher_extension.CallbacksMP.ON_LOAD):
            callback(self, device_to, lowvram_model_memory, force_patch_weights, full_load)
        self.apply_hooks(self.forced_hooks, force_apply=True)

    def unpatch_model(self, device_to=None, unpatch_weights=True):
        super().unpatch_model(None, unpatch_weights=False)
        if unpatch_weights:
            self.current_hooks = None
            self.model.current_weight_patches_uuid = None

    def clone_has_same_weights(self, clone):
        same_names = self.named_loras == getattr(clone, "named_loras", None)
        return same_names and super().clone_has_same_weights(clone)

    # Hooks: the daemon takes their patches with each step.

    def patch_hooks(self, hooks):
        self.current_hooks = hooks

    def unpatch_hooks(self, whitelist_keys_set=None):
        self.current_hooks = None

    def effective_patches(self):
        """Key to list of patches as a forward would have them in its weights now."""
        patches = {key: list(entries) for key, entries in self.patches.items()}
        for key, entries in self.get_combined_hook_patches(self.current_hooks).items():
            patches[key] = patches.get(key, []) + entries
        return patches

    def effective_key(self):
        """Equal as long as `effective_patches` is."""
        hooks = self.current_hooks.hooks if self.current_hooks is not None else ()
        return (
            self.patches_uuid,
            tuple((hook.hook_ref, hook.strength) for hook in hooks),
            tuple(self.named_loras),
        )

    # What needs the weights: from the local twin in auto, else refused by name.

    def _twin(self, what):
        luna = self.model.luna
        luna.need_weights(Unsupported(what))
        return luna.twin.like(self)

    def get_key_patches(self, filter_prefix=None):
        return self._twin("A merge of models or a save reads the weights").get_key_patches(
            filter_prefix
        )

    def patch_weight_to_device(
        self, key, device_to=None, inplace_update=False, return_weight=False
    ):
        return self._twin(f"Something reads the weight {key}").patch_weight_to_device(
            key, device_to, inplace_update, return_weight
        )

    def state_dict_for_saving(self, *args, **kwargs):
        return self._twin("Saving a model reads its weights").state_dict_for_saving(*args, **kwargs)

    def add_weight_wrapper(self, name, function):
        raise Unsupported(f"A function on the weight {name} (training?)")

    def add_wrapper_with_key(self, wrapper_type, key, wrapper):
        if key == COMPILE_KEY:
            logging.warning("[DaemonModel] torch.compile is ignored: the model runs in the daemon.")
            return
        super().add_wrapper_with_key(wrapper_type, key, wrapper)
