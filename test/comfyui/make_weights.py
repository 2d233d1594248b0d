"""
Random weights in the shapes of ComfyUI's nets, for make_models.py. Importing it makes ComfyUI
importable, on the CPU (COMFYUI_PATH); the importer's arguments are kept as ARGUMENTS.
"""

import os
import sys

sys.path.insert(0, os.environ["COMFYUI_PATH"])
ARGUMENTS, sys.argv = sys.argv[1:], ["make_models", "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.ops  # noqa: E402
import torch  # noqa: E402
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel  # noqa: E402

torch.set_num_threads(1)
META = torch.device("meta")


def unet_shapes(config):
    net = UNetModel(**copied(config), device=META, operations=comfy.ops.disable_weight_init)
    return {name: tuple(each.shape) for name, each in net.state_dict().items()}


def copied(config):
    """The constructor pops from its lists."""
    return {name: list(each) if isinstance(each, list) else each for name, each in config.items()}


def random_weights(shapes, seed, dtype=torch.float32):
    """Weights that keep activations near one: variance 1 / inputs, norms near one."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        each = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            inputs = each[0].numel()
            each *= (0.5 if "embedding" in name else inputs**-0.5) if inputs else 1.0
        elif name.endswith("weight"):
            each = 1.0 + 0.1 * each
        else:
            each *= 0.05
        weights[name] = each.to(dtype)
    return weights


def prefixed(prefix, weights):
    return {prefix + name: each for name, each in weights.items()}
