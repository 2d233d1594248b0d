"""LDM module names of the SD1 UNet -> diffusers module names, on which kohya and PEFT files are built."""

from .config import UNET_RES_BLOCKS

RESNET = {
    "in_layers.2": "conv1",
    "out_layers.3": "conv2",
    "emb_layers.1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}


def inside(kind: str, rest: str) -> str:
    return RESNET.get(rest, rest) if kind == "resnets" else rest


def diffusers_name(name: str) -> str:
    """input_blocks.3.1.proj_in -> down_blocks.1.attentions.0.proj_in"""
    part, *numbers = name.split(".", 3)
    if part == "middle_block":
        place, rest = int(numbers[0]), ".".join(numbers[1:])
        kind = "attentions" if place == 1 else "resnets"
        return f"mid_block.{kind}.{place // 2}.{inside(kind, rest)}"
    block, place, rest = int(numbers[0]), int(numbers[1]), numbers[2]
    period = UNET_RES_BLOCKS + 1
    if part == "input_blocks":
        level, index = divmod(block - 1, period)
        if rest == "op":
            return f"down_blocks.{level}.downsamplers.0.conv"
        kind = "attentions" if place == 1 else "resnets"
        return f"down_blocks.{level}.{kind}.{index}.{inside(kind, rest)}"
    if part == "output_blocks":
        level, index = divmod(block, period)
        if rest == "conv":
            return f"up_blocks.{level}.upsamplers.0.conv"
        kind = "attentions" if place == 1 else "resnets"
        return f"up_blocks.{level}.{kind}.{index}.{inside(kind, rest)}"
    raise ValueError(name)
