"""
Writes the models of the ComfyUI tests: random weights in the layouts that ComfyUI accepts, as narrow
as its detection allows (SD1.5 means 320 channels and a context of 768; levels and blocks are free).
Usage: make_models.py FOLDER narrow|full|packs   (needs COMFYUI_PATH)
"""

import os

# First, because it makes ComfyUI importable.
from make_weights import ARGUMENTS, META, copied, prefixed, random_weights, unet_shapes

import comfy.cldm.cldm
import comfy.gligen
import comfy.ops
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.t2i_adapter.adapter
import comfy.utils
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from make_loras import Loras
from safetensors.torch import save_file

# Counted up when the weights change, so that they are written again.
NARROW_VERSION = 6
FULL_VERSION = 2
PACKS_VERSION = 1

COMMON = {
    "image_size": 32, "out_channels": 4, "use_spatial_transformer": True, "legacy": False,
    "dtype": torch.float32,
}  # fmt: skip
SD1 = {
    **COMMON, "in_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4], "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1, "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "use_linear_in_transformer": False, "context_dim": 768, "num_heads": 8,
}  # fmt: skip
# Residual blocks and attention at the first of two levels, both 320 wide: 37 M weights.
NARROW_SD1 = {
    **SD1, "num_res_blocks": [2, 1], "channel_mult": [1, 1], "transformer_depth": [1, 0, 0],
    "transformer_depth_output": [0, 0, 0, 1, 0],
}  # fmt: skip
# Blocks of 640 and 1280 channels too, where FreeU acts.
WIDE_SD1 = {
    **SD1, "num_res_blocks": [1, 1, 1], "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 1],
    "transformer_depth_output": [0, 0, 0, 0, 0, 1],
}  # fmt: skip
# The smallest net that ComfyUI knows by diffusers' names (SD-XS); its skips are those of WIDE_SD1.
XS_SD1 = {
    **WIDE_SD1, "transformer_depth": [0, 1, 1], "transformer_depth_middle": -2,
    "transformer_depth_output": [0, 0, 1, 1, 1, 1], "num_head_channels": 64, "num_heads": -1,
}  # fmt: skip
# The widths of SD1.5, which motion modules are made for, with attention in three places.
MOTION_SD1 = {
    **SD1, "transformer_depth": [1] + [0] * 7, "transformer_depth_output": [0] * 11 + [1],
}  # fmt: skip
# What ComfyUI takes for KOALA 700M, the family's smallest: depths 0, 2 and 5, here all 320 wide.
NARROW_SDXL = {
    **COMMON, "in_channels": 4, "model_channels": 320, "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 1, 1], "transformer_depth": [0, 2, 5], "transformer_depth_middle": -2,
    "transformer_depth_output": [0, 0, 0, 0, 0, 1], "use_linear_in_transformer": True,
    "context_dim": 2048, "num_head_channels": 64, "adm_in_channels": 2816,
    "num_classes": "sequential",
}  # fmt: skip
NARROW_REFINER = {
    **NARROW_SDXL, "model_channels": 384, "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 1, 1, 1], "transformer_depth": [0, 0, 4, 4, 4, 4, 0, 0],
    "transformer_depth_middle": -1, "transformer_depth_output": [0] * 12, "context_dim": 1280,
    "adm_in_channels": 2560,
}  # fmt: skip
SDXL = {
    **NARROW_SDXL, "num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
}  # fmt: skip
VAE = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
    "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip


def clip_l(seed, dtype=torch.float16):
    model = comfy.sd1_clip.SDClipModel(device="meta", dtype=torch.float32)
    shapes = {
        name.removeprefix("transformer."): tuple(each.shape)
        for name, each in model.state_dict().items()
        if name.startswith("transformer.") and "text_projection" not in name
    }
    return random_weights(shapes, seed, dtype)


def clip_g(seed):
    model = comfy.sdxl_clip.SDXLClipG(device="meta", dtype=torch.float32)
    shapes = {
        name.removeprefix("transformer."): tuple(each.shape)
        for name, each in model.state_dict().items()
        if name.startswith("transformer.")
    }
    return random_weights(shapes, seed, torch.float16)


def vae(seed, dtype=torch.float16):
    with META:
        shapes = {
            n: tuple(t.shape)
            for n, t in AutoencoderKL(ddconfig=VAE, embed_dim=4).state_dict().items()
        }
    return random_weights(shapes, seed, dtype)


def control_net(config, seed):
    kept = {name: each for name, each in copied(config).items() if name != "out_channels"}
    net = comfy.cldm.cldm.ControlNet(
        **kept, hint_channels=3, device=META, operations=comfy.ops.disable_weight_init
    )
    weights = random_weights({n: tuple(t.shape) for n, t in net.state_dict().items()}, seed)
    return {
        n: t * 0.3 if "zero_convs" in n or "middle_block_out" in n else t
        for n, t in weights.items()
    }


def union_control_net(config, seed):
    """A Union ControlNet of six types, as diffusers names it: ComfyUI knows no other layout of it."""
    net = control_net({**config, "union_controlnet_num_control_type": 6}, seed)
    names = {ours: theirs for theirs, ours in comfy.utils.unet_to_diffusers(config).items()}
    for suffix in ("weight", "bias"):
        names[f"middle_block_out.0.{suffix}"] = f"controlnet_mid_block.{suffix}"
        for number in range(100):
            names[f"zero_convs.{number}.0.{suffix}"] = f"controlnet_down_blocks.{number}.{suffix}"
        hints = ["conv_in", *(f"blocks.{number}" for number in range(6)), "conv_out"]
        for number, hint in enumerate(hints):
            names[f"input_hint_block.{2 * number}.{suffix}"] = (
                f"controlnet_cond_embedding.{hint}.{suffix}"
            )
    return {
        names.get(name, name.replace(".attn.in_proj.", ".attn.in_proj_")): tensor.half()
        for name, tensor in net.items()
    }


def adapter_light(seed):
    net = comfy.t2i_adapter.adapter.Adapter_light(
        cin=192, channels=[320, 640, 1280, 1280], nums_rb=4
    )
    return random_weights({n: tuple(t.shape) for n, t in net.state_dict().items()}, seed)


def gligen(config, seed):
    """A gated attention beside each of the UNet's, and the net that makes tokens of boxes."""
    tensors = {}
    with META:
        position = comfy.gligen.PositionNet(in_dim=768, out_dim=768)
        parts = {"position_net.": position.state_dict()}
        for name, shape in unet_shapes(config).items():
            block, found, _ = name.partition(".1.transformer_blocks.0.norm1.weight")
            if found:
                gate = comfy.gligen.GatedSelfAttentionDense(shape[0], 768, 8, shape[0] // 8)
                parts[f"{block}.1.transformer_blocks.0.fuser."] = gate.state_dict()
    for prefix, found in parts.items():
        shapes = {name: tuple(each.shape) for name, each in found.items()}
        tensors.update(prefixed(prefix, random_weights(shapes, seed)))
    # How far a gate is open.
    return {n: torch.tensor(0.8) if ".alpha_" in n else t for n, t in tensors.items()}


def hypernetwork(seed):
    """Two layers on keys and on values, by their width: of the text's attention and of the picture's."""
    generator = torch.Generator().manual_seed(seed)

    def net(width):
        random = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
        return {
            "linear.0.weight": random(2 * width, width) * width**-0.5,
            "linear.0.bias": random(2 * width) * 0.05,
            "linear.1.weight": random(width, 2 * width) * width**-0.5,
            "linear.1.bias": random(width) * 0.05,
        }

    nets = {width: [net(width), net(width)] for width in (768, 320)}
    return {"activation_func": "relu", "is_layer_norm": False, "use_dropout": False, **nets}


def saver(folder):
    def save(path, tensors):
        place = os.path.join(folder, path)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        # Under another name first: two runs of the tests may write at once.
        draft = f"{place}.{os.getpid()}"
        if path.endswith(".pt"):
            torch.save(tensors, draft)
        else:
            save_file({n: t.contiguous() for n, t in tensors.items()}, draft)
        os.replace(draft, place)

    return save


def narrow(folder):
    save = saver(folder)

    def unet(config, seed):
        return random_weights(unet_shapes(config), seed)

    net = prefixed("model.diffusion_model.", unet(NARROW_SD1, 1))
    text = prefixed("cond_stage_model.transformer.", clip_l(2))
    picture = vae(3)
    save("checkpoints/sd1.safetensors", {**net, **text, **prefixed("first_stage_model.", picture)})
    save(
        "checkpoints/sd1-inpaint.safetensors",
        prefixed("model.diffusion_model.", unet({**NARROW_SD1, "in_channels": 9}, 4)),
    )
    save("diffusion_models/sd1-other.safetensors", unet(NARROW_SD1, 5))
    wide = random_weights(unet_shapes(WIDE_SD1), 12, torch.float16)
    save("diffusion_models/sd1-wide.safetensors", wide)
    xl = prefixed("model.diffusion_model.", unet(NARROW_SDXL, 6))
    save("checkpoints/sdxl.safetensors", xl)
    save(
        "checkpoints/sdxl-v.safetensors", {**xl, "v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    )
    save(
        "checkpoints/refiner.safetensors",
        prefixed("model.diffusion_model.", unet(NARROW_REFINER, 7)),
    )
    save("vae/vae.safetensors", picture)
    save("text_encoders/clip_l.safetensors", clip_l(2))
    save("controlnet/canny.safetensors", control_net(NARROW_SD1, 8))
    save("controlnet/sketch.safetensors", adapter_light(9))
    save("controlnet/union.safetensors", union_control_net(XS_SD1, 13))
    control_lora = {
        n: t
        for n, t in control_net(NARROW_SD1, 10).items()
        if n.startswith(("zero_convs", "input_hint", "middle_block_out"))
    }
    save("controlnet/control-lora.safetensors", {**control_lora, "lora_controlnet": torch.zeros(1)})
    save(
        "embeddings/thing.safetensors",
        {"emb_params": 0.5 * torch.randn(3, 768, generator=torch.Generator().manual_seed(11))},
    )
    save("gligen/boxes.safetensors", gligen(NARROW_SD1, 14))
    save("hypernetworks/style.pt", hypernetwork(15))
    loras = Loras(NARROW_SD1)
    for name, tensors in {
        "a": loras.lora(), "b": loras.lora(rank=8, alpha=8.0, only="attn"), "c": loras.lora(alpha=4.0),
        "tucker": loras.tucker(), "loha": loras.loha(), "lokr": loras.lokr(), "dora": loras.dora(),
        "lokr-full": loras.lokr_full(), "glora": loras.glora(), "oft": loras.oft(), "boft": loras.boft(),
        "diff": loras.diff(), "twice": loras.twice(),
        "text": {**loras.lora(only="ff"), **loras.text()}, "locon": loras.lora(rank=6, only="conv"),
        "lokr-dora": loras.dora(loras.lokr_full()), "oft-dora": loras.dora(loras.oft(limit=0.9)),
        "boft-dora": loras.dora(loras.boft(limit=0.9)),
    }.items():  # fmt: skip
        save(f"loras/{name}.safetensors", tensors)


def full(folder):
    save = saver(folder)
    net = prefixed("model.diffusion_model.", random_weights(unet_shapes(SD1), 21))
    text = prefixed("cond_stage_model.transformer.", clip_l(22, torch.float32))
    picture = prefixed("first_stage_model.", vae(23, torch.float32))
    save("checkpoints/full-sd1.safetensors", {**net, **text, **picture})
    loras = Loras(SD1, 24)
    save("loras/full.safetensors", loras.lora(rank=16, alpha=8.0))
    save("text_encoders/clip_g.safetensors", clip_g(25))
    both = {
        **loras.text(prefix="lora_te1"), **loras.text(layers=32, width=1280, prefix="lora_te2")
    }  # fmt: skip
    save("loras/text-xl.safetensors", both)


def ip_adapter(seed):
    """The plain one of SD1.5: four tokens of a picture's vector, a key and a value of them for each
    of 16 attentions, here all as wide as in NARROW_SD1."""
    shapes = {
        "image_proj.proj.weight": (4 * 768, 1024), "image_proj.proj.bias": (4 * 768,),
        "image_proj.norm.weight": (768,), "image_proj.norm.bias": (768,),
    }  # fmt: skip
    for number in range(1, 32, 2):
        shapes.update({f"ip_adapter.{number}.to_{part}_ip.weight": (320, 768) for part in "kv"})
    return random_weights(shapes, seed)


def motion_module(seed):
    """AnimateDiff's v3 for SD1.5 (32 frames, nothing in the middle), on the way down alone and with
    one attention in place of two."""
    shapes = {}
    for block, width in enumerate((320, 640, 1280, 1280)):
        for number in range(2):
            net = f"down_blocks.{block}.motion_modules.{number}.temporal_transformer"
            inner = f"{net}.transformer_blocks.0"
            for name, inputs, outputs in (
                (f"{net}.proj_in", width, width), (f"{net}.proj_out", width, width),
                (f"{inner}.attention_blocks.0.to_out.0", width, width),
                (f"{inner}.ff.net.0.proj", width, 8 * width), (f"{inner}.ff.net.2", 4 * width, width),
            ):  # fmt: skip
                shapes.update({f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)})
            for name in (f"{net}.norm", f"{inner}.norms.0", f"{inner}.ff_norm"):
                shapes.update({f"{name}.weight": (width,), f"{name}.bias": (width,)})
            for part in "qkv":
                shapes[f"{inner}.attention_blocks.0.to_{part}.weight"] = (width, width)
            shapes[f"{inner}.attention_blocks.0.pos_encoder.pe"] = (1, 32, width)
    return random_weights(shapes, seed, torch.float16)


def packs(folder):
    save = saver(folder)
    save("ipadapter/ip-adapter.safetensors", ip_adapter(31))
    save("animatediff_models/motion.safetensors", motion_module(32))
    net = random_weights(unet_shapes(MOTION_SD1), 33, torch.float16)
    save("diffusion_models/sd1-motion.safetensors", net)


if __name__ == "__main__":
    {"narrow": narrow, "full": full, "packs": packs}[ARGUMENTS[1]](ARGUMENTS[0])
