"""Adapter files of every kind, for make_models.py: random, for any UNet ComfyUI knows."""

# First, because it makes ComfyUI importable.
from make_weights import META, unet_shapes

import comfy.lora
import comfy.model_detection
import comfy.utils
import torch


class Loras:
    """Adapter files in kohya's names for a UNet's layers."""

    def __init__(self, config, seed=100):
        weights = {n: torch.empty(s, device=META) for n, s in unet_shapes(config).items()}
        found = comfy.model_detection.model_config_from_unet(weights, "")
        found.set_inference_dtype(torch.float32, None)
        model = found.get_model(weights, "", device=META)
        shapes = {n: tuple(t.shape) for n, t in model.state_dict().items()}
        self.diffusers = comfy.utils.unet_to_diffusers(config)
        keys = comfy.lora.model_lora_keys_unet(model, {})
        self.layers = {
            name: shapes[key]
            # Sorted: ComfyUI's map is made from sets; a layer is to have the same numbers each time.
            for name, key in sorted(keys.items())
            if name.startswith("lora_unet_") and key in shapes and len(shapes[key]) > 1
        }
        self._generator = torch.Generator().manual_seed(seed)

    def _random(self, *shape, scale=0.1):
        return torch.randn(*shape, generator=self._generator) * scale

    def _linear(self, only):
        return {n: s for n, s in self.layers.items() if only in n and len(s) == 2}

    def lora(self, rank=4, alpha=2.0, only=""):
        tensors = {}
        for name, shape in self.layers.items():
            if only not in name:
                continue
            tail = (1,) * (len(shape) - 2)
            tensors[f"{name}.lora_up.weight"] = self._random(shape[0], rank, *tail)
            tensors[f"{name}.lora_down.weight"] = self._random(rank, *shape[1:])
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
        return tensors

    def twice(self):
        """Attention by diffusers' names and by ComfyUI's own, which it reads first."""
        own = {
            f"lora_unet_{ours.removesuffix('.weight').replace('.', '_')}":
            f"lora_unet_{theirs.removesuffix('.weight').replace('.', '_')}"
            for theirs, ours in self.diffusers.items()
        }  # fmt: skip
        tensors = self.lora(only="attn")
        for name, shape in self.layers.items():
            if own.get(name, name) != name and "attn" in own[name] and len(shape) == 2:
                tensors[f"{name}.lora_up.weight"] = self._random(shape[0], 2)
                tensors[f"{name}.lora_down.weight"] = self._random(2, shape[1])
        return tensors

    def tucker(self, rank=4):
        tensors = {}
        for name, shape in self.layers.items():
            if len(shape) == 4 and shape[2] == 3:
                tensors[f"{name}.lora_up.weight"] = self._random(shape[0], rank, 1, 1)
                tensors[f"{name}.lora_mid.weight"] = self._random(rank, rank, 3, 3)
                tensors[f"{name}.lora_down.weight"] = self._random(rank, shape[1], 1, 1)
                tensors[f"{name}.alpha"] = torch.tensor(2.0)
        return tensors

    def loha(self, rank=3):
        tensors = {}
        for name, shape in self.layers.items():
            columns = torch.Size(shape[1:]).numel()
            for side in "12":
                tensors[f"{name}.hada_w{side}_a"] = self._random(shape[0], rank, scale=0.3)
                tensors[f"{name}.hada_w{side}_b"] = self._random(rank, columns, scale=0.3)
            tensors[f"{name}.alpha"] = torch.tensor(1.0)
        return tensors

    def lokr(self, rank=2, factor=4):
        tensors = {}
        for name, shape in self._linear("").items():
            rows, columns = shape[0] // factor, shape[1] // factor
            tensors[f"{name}.lokr_w1"] = self._random(factor, factor, scale=0.3)
            tensors[f"{name}.lokr_w2_a"] = self._random(rows, rank, scale=0.3)
            tensors[f"{name}.lokr_w2_b"] = self._random(rank, columns, scale=0.3)
            tensors[f"{name}.alpha"] = torch.tensor(1.0)
        return tensors

    def dora(self, tensors=None):
        """`tensors` with a norm for each output."""
        tensors = tensors or self.lora(only="attn")
        # Sorted, so that the numbers are the same ones each time.
        for name in sorted({each.split(".")[0] for each in tensors}):
            tensors[f"{name}.dora_scale"] = 1.0 + self._random(self.layers[name][0], 1).abs()
        return tensors

    def lokr_full(self, factor=4):
        tensors = {}
        for name, shape in self._linear("attn").items():
            tensors[f"{name}.lokr_w1"] = self._random(factor, factor)
            tensors[f"{name}.lokr_w2"] = self._random(shape[0] // factor, shape[1] // factor)
        return tensors

    def glora(self, rank=4):
        tensors = {}
        for name, shape in self._linear("attn").items():
            outputs, inputs = shape
            for part, sides in {
                "a1": (inputs, rank), "a2": (rank, inputs), "b1": (outputs, rank), "b2": (rank, inputs),
            }.items():  # fmt: skip
                tensors[f"{name}.{part}.weight"] = self._random(*sides)
            tensors[f"{name}.alpha"] = torch.tensor(2.0)
        return tensors

    def oft(self, blocks=8, limit=None):
        tensors = {}
        for name, shape in self._linear("attn").items():
            side = shape[0] // blocks
            tensors[f"{name}.oft_blocks"] = self._random(blocks, side, side, scale=0.02)
            if limit is not None:
                tensors[f"{name}.alpha"] = torch.tensor(limit)
        return tensors

    def boft(self, stages=2, size=8, limit=0.0):
        tensors = {}
        for name, shape in self._linear("attn").items():
            tensors[f"{name}.oft_blocks"] = self._random(stages, shape[0] // size, size, size)
            tensors[f"{name}.alpha"] = torch.tensor(limit)
        return tensors

    def diff(self):
        tensors = {}
        for name, shape in self.layers.items():
            if "attn2_to_k" in name or "conv" in name:
                tensors[f"{name}.diff"] = self._random(*shape, scale=0.02)
            if "conv" in name:
                tensors[f"{name}.diff_b"] = self._random(shape[0])
        return tensors

    def text(self, rank=4, layers=12, width=768, prefix="lora_te"):
        tensors = {}
        for layer in range(layers):
            for part, outputs, inputs in (
                ("self_attn_q_proj", width, width),
                ("mlp_fc1", 4 * width, width),
            ):
                name = f"{prefix}_text_model_encoder_layers_{layer}_{part}"
                tensors[f"{name}.lora_up.weight"] = self._random(outputs, rank)
                tensors[f"{name}.lora_down.weight"] = self._random(rank, inputs)
                tensors[f"{name}.alpha"] = torch.tensor(2.0)
        return tensors
