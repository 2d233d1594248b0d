"""Low-rank adapters: y = W x + (alpha / rank) up(down(x)), and their two file formats.

kohya:  lora_unet_<diffusers name with _>.lora_down.weight (r, in[, k, k]), .lora_up.weight (out, r[, 1, 1]), .alpha
PEFT:   unet.<diffusers name>.lora_A.weight, .lora_B.weight, no alpha (a strength of 1 is alpha = rank)
"""

from dataclasses import dataclass

import torch
from torch import nn

from .names import diffusers_name


@dataclass(frozen=True)
class Recipe:
    style: str
    layout: str  # "kohya" or "peft"
    rank: int
    alpha: float
    convolutions: bool = False  # 3 x 3 convolutions of the resnets too (LoCon)
    text: bool = False  # the text encoder's linear layers too


RECIPES = (
    Recipe("blueprint", "kohya", rank=8, alpha=8.0, text=True),
    Recipe("pixel", "kohya", rank=4, alpha=2.0, convolutions=True),
    Recipe("high-contrast", "peft", rank=8, alpha=8.0),
)


class Adapted(nn.Module):
    """A frozen linear layer or convolution with its adapter beside it."""

    def __init__(self, base: nn.Module, rank: int, alpha: float):
        super().__init__()
        self.base, self.rank, self.alpha = base, rank, alpha
        if isinstance(base, nn.Linear):
            self.down = nn.Linear(base.in_features, rank, bias=False)
            self.up = nn.Linear(rank, base.out_features, bias=False)
        else:
            self.down = nn.Conv2d(
                base.in_channels, rank, base.kernel_size, base.stride, base.padding, bias=False
            )
            self.up = nn.Conv2d(rank, base.out_channels, 1, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x)) * (self.alpha / self.rank)


def wanted(name: str, module: nn.Module, recipe: Recipe) -> bool:
    if isinstance(module, nn.Linear):
        return ".transformer_blocks." in name
    if not isinstance(module, nn.Conv2d) or recipe.layout == "peft":
        return False
    if name.endswith((".proj_in", ".proj_out")):
        return True
    return recipe.convolutions and name.endswith((".in_layers.2", ".out_layers.3"))


def replace(root: nn.Module, name: str, recipe: Recipe) -> Adapted:
    parent_name, _, own = name.rpartition(".")
    parent = root.get_submodule(parent_name)
    adapted = Adapted(parent.get_submodule(own), recipe.rank, recipe.alpha)
    setattr(parent, own, adapted)
    return adapted


def attach(nets, recipe: Recipe) -> dict:
    """Freeze `nets`, put adapters in, and return them by (net, name): ("unet" | "text", module name)."""
    for net in (nets.unet, nets.text):
        net.requires_grad_(False)
    targets = [("unet", name) for name, module in nets.unet.named_modules() if wanted(name, module, recipe)]
    if recipe.text:
        targets += [("text", name) for name, module in nets.text.named_modules() if isinstance(module, nn.Linear)]
    return {
        (net, name): replace(nets.unet if net == "unet" else nets.text, name, recipe) for net, name in targets
    }


def file_tensors(adapters: dict, recipe: Recipe) -> dict:
    tensors = {}
    for (net, name), adapted in adapters.items():
        path = diffusers_name(name) if net == "unet" else name
        down, up = adapted.down.weight.detach().half(), adapted.up.weight.detach().half()
        if recipe.layout == "peft":
            tensors[f"unet.{path}.lora_A.weight"] = down
            tensors[f"unet.{path}.lora_B.weight"] = up
        else:
            prefix = ("lora_unet_" if net == "unet" else "lora_te_") + path.replace(".", "_")
            tensors[f"{prefix}.lora_down.weight"] = down
            tensors[f"{prefix}.lora_up.weight"] = up
            tensors[f"{prefix}.alpha"] = torch.tensor(recipe.alpha).half()
    return tensors
