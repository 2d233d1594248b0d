"""Nodes that only the tests have: inputs without a text encoder or a picture file."""

import torch


class TestConditioning:
    """A conditioning of random numbers, with a pooled output where `pooled` is not 0."""

    @classmethod
    def INPUT_TYPES(cls):
        whole = ("INT", {"default": 0, "min": 0, "max": 1 << 30})
        return {"required": {"seed": whole, "tokens": whole, "width": whole, "pooled": whole}}

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "make"
    CATEGORY = "Luna/test"

    def make(self, seed, tokens, width, pooled):
        generator = torch.Generator().manual_seed(seed)
        extra = {"pooled_output": torch.randn(1, pooled, generator=generator)} if pooled else {}
        return ([[torch.randn(1, tokens, width, generator=generator), extra]],)


class TestImage:
    """Random smooth colours."""

    @classmethod
    def INPUT_TYPES(cls):
        whole = ("INT", {"default": 64, "min": 0, "max": 1 << 30})
        return {"required": {"seed": whole, "width": whole, "height": whole}}

    RETURN_TYPES = ("IMAGE", "MASK")
    FUNCTION = "make"
    CATEGORY = "Luna/test"

    def make(self, seed, width, height):
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand(1, 4, 8, 8, generator=generator)
        fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
        return fine[:, :3].movedim(1, -1), (fine[:, 3] > 0.5).float()


NODE_CLASS_MAPPINGS = {"TestConditioning": TestConditioning, "TestImage": TestImage}
