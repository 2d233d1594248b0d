"""Goldens for src/checkpoint: names and shapes of every layer, from ComfyUI's own modules.

COMFYUI_PATH names a ComfyUI checkout. Nothing is computed: the models are built on the meta device.
Writes test/fixtures/goldens/checkpoint-names.json; full-size nets are kept as a digest.
"""
import hashlib
import json
import os
import re
import sys

sys.path.insert(0, os.environ["COMFYUI_PATH"])
sys.argv = ["checkpoint", "--cpu"]
import comfy.options

comfy.options.enable_args_parsing()
import comfy.diffusers_convert
import comfy.ops
import comfy.utils
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

OUT = os.path.join(os.path.dirname(__file__), "..", "fixtures", "goldens", "checkpoint-names.json")


def unet(mult, res, depth, middle, context, adm, linear, channels=320, in_channels=4, out=None):
    return {
        "inChannels": in_channels, "outChannels": 4, "modelChannels": channels, "channelMult": mult,
        "resBlocks": res, "transformerDepth": depth, "transformerDepthMiddle": middle,
        # In the order of output_blocks: the deepest level first, one block more on each level.
        "transformerDepthOutput": out or up_depths(res, depth), "contextDim": context, "admChannels": adm,
        "heads": {"channels": 64} if linear else {"count": 8}, "isLinearProjection": linear,
    }


def up_depths(res, depth):
    levels, at = [], 0
    for count in res:
        level = depth[at:at + count]
        levels.append(level + level[-1:])
        at += count
    return [d for level in reversed(levels) for d in level]


UNETS = {
    "sd15": unet([1, 2, 4, 4], [2] * 4, [1] * 6 + [0, 0], 1, 768, 0, False),
    "sd15-inpaint": unet([1, 2, 4, 4], [2] * 4, [1] * 6 + [0, 0], 1, 768, 0, False, in_channels=9),
    "sd21": unet([1, 2, 4, 4], [2] * 4, [1] * 6 + [0, 0], 1, 1024, 0, True),
    "sdxl": unet([1, 2, 4], [2] * 3, [0, 0, 2, 2, 10, 10], 10, 2048, 2816, True),
    "refiner": unet([1, 2, 4, 4], [2] * 4, [0, 0, 4, 4, 4, 4, 0, 0], 4, 1280, 2560, True, channels=384),
    # Distilled SDXL nets: one residual block in the middle, or nothing.
    "ssd-1b": unet([1, 2, 4], [2] * 3, [0, 0, 2, 2, 4, 4], -1, 2048, 2816, True,
                   out=[4, 4, 10, 2, 1, 1, 0, 0, 0]),
    "koala-700m": unet([1, 2, 4], [1] * 3, [0, 2, 5], -2, 2048, 2816, True, out=[5, 5, 2, 2, 0, 0]),
    "tiny-sd1": unet([1, 4, 8], [1] * 3, [0, 1, 1], 1, 128, 0, False, channels=32),
    "tiny-uneven": unet([1, 2], [2, 2], [0, 1, 2, 0], 3, 64, 96, True, channels=64,
                        out=[2, 0, 1, 1, 0, 1]),
}
VAES = {
    "sd": {"widths": [128, 128, 256, 512, 512], "resBlocks": 2},
    "tiny": {"widths": [32, 32, 64], "resBlocks": 1},
}


def golden(config, lines, is_small):
    lines = sorted(lines)
    text = "\n".join(lines)
    entry = {"config": config, "count": len(lines), "sha256": hashlib.sha256(text.encode()).hexdigest()}
    if is_small:
        entry["lines"] = lines
    return entry


def unet_golden(name, c):
    adm = c["admChannels"]
    args = {
        "num_res_blocks": c["resBlocks"], "channel_mult": c["channelMult"],
        "transformer_depth": list(c["transformerDepth"]), "transformer_depth_middle": c["transformerDepthMiddle"],
        "transformer_depth_output": list(reversed(c["transformerDepthOutput"])),
    }
    heads = {"num_heads": 8} if "count" in c["heads"] else {"num_head_channels": 64}
    with torch.device("meta"):
        net = UNetModel(
            image_size=32, in_channels=c["inChannels"], model_channels=c["modelChannels"], out_channels=4,
            use_spatial_transformer=True, context_dim=c["contextDim"], legacy=False,
            use_linear_in_transformer=c["isLinearProjection"],
            num_classes="sequential" if adm else None, adm_in_channels=adm or None,
            operations=comfy.ops.disable_weight_init, device="meta", **{k: list(v) if isinstance(v, list) else v for k, v in args.items()}, **heads)
    shapes = {k: list(v.shape) for k, v in net.state_dict().items()}
    names = comfy.utils.unet_to_diffusers(args)
    lines = [f"{d} {n} {'x'.join(map(str, shapes[n]))}" for d, n in names.items() if n in shapes]
    # ComfyUI's map numbers the blocks rightly where every level has as many of them.
    assert set(names.values()) >= set(shapes), set(shapes) - set(names.values())
    return golden(c, lines, name.startswith("tiny"))


def vae_golden(name, c):
    widths, res = c["widths"], c["resBlocks"]
    levels = len(widths) - 1
    with torch.device("meta"):
        net = AutoencoderKL(embed_dim=4, ddconfig={
            "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": widths[0],
            "ch_mult": [w // widths[0] for w in widths[1:]], "num_res_blocks": res, "attn_resolutions": [], "dropout": 0.0})
    shapes = {k: list(v.shape) for k, v in net.state_dict().items()}
    lines = []
    for ldm, shape in shapes.items():
        for d in vae_names(ldm, levels):
            if "attn_1" in ldm and len(shape) == 4:
                shape = shape[:2]
            lines.append(f"{d} {ldm} {'x'.join(map(str, shape))}")
            if levels == 4 and res == 2:  # ComfyUI's converter knows the full size only.
                assert list(comfy.diffusers_convert.convert_vae_state_dict({d: torch.zeros(1, 1)})) == [ldm], (d, ldm)
    config = {"kind": "kl", "latentChannels": 4, "imageChannels": 3, "downscale": 2 ** (levels - 1),
              "hasEncoder": True, "hasDecoder": True, **c}
    return golden(config, lines, name.startswith("tiny"))


def vae_names(ldm, levels):
    """diffusers' names of an LDM weight, by their documented rules."""
    d = re.sub(r"mid\.block_(\d)", lambda m: f"mid_block.resnets.{int(m[1]) - 1}", ldm)
    d = re.sub(r"encoder\.down\.(\d)\.block\.", r"encoder.down_blocks.\1.resnets.", d)
    d = re.sub(r"encoder\.down\.(\d)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0.", d)
    d = re.sub(r"decoder\.up\.(\d)\.block\.", lambda m: f"decoder.up_blocks.{levels - 1 - int(m[1])}.resnets.", d)
    d = re.sub(r"decoder\.up\.(\d)\.upsample\.", lambda m: f"decoder.up_blocks.{levels - 1 - int(m[1])}.upsamplers.0.", d)
    d = d.replace("nin_shortcut", "conv_shortcut").replace("norm_out", "conv_norm_out")
    if "attn_1" not in d:
        return [d]
    d = d.replace("mid.attn_1.norm", "mid_block.attentions.0.group_norm").replace("mid.attn_1", "mid_block.attentions.0")
    new, old = d, d
    for leaf, n, o in (("q", "to_q", "query"), ("k", "to_k", "key"), ("v", "to_v", "value"), ("proj_out", "to_out.0", "proj_attn")):
        new = new.replace(f"attentions.0.{leaf}.", f"attentions.0.{n}.")
        old = old.replace(f"attentions.0.{leaf}.", f"attentions.0.{o}.")
    return sorted({new, old})


if __name__ == "__main__":
    result = {"unet": {k: unet_golden(k, c) for k, c in UNETS.items()}, "vae": {k: vae_golden(k, c) for k, c in VAES.items()}}
    with open(OUT, "w") as f:
        json.dump(result, f, indent=1)
        f.write("\n")
    for kind in result.values():
        for k, entry in kind.items():
            print(k, entry["count"])
