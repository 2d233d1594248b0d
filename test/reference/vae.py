"""The autoencoder graphs (KL and TAESD) against ComfyUI's modules on the CPU.

    COMFYUI_PATH=... python test/reference/vae.py          writes the goldens of tiny nets
    COMFYUI_PATH=... python test/reference/vae.py --full   compares nets of full width (needs npx tsx)
"""
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, os.environ["COMFYUI_PATH"])
ARGUMENTS = sys.argv[1:]
sys.argv = [sys.argv[0], "--cpu"]
import comfy.options

comfy.options.enable_args_parsing()
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.taesd.taesd import TAESD
from safetensors.torch import save_file

import seeded
from full import compare, random_weight

GOLDEN = Path(__file__).parent.parent / "fixtures/goldens/vae.safetensors"
BASE = {"latentChannels": 4, "imageChannels": 3, "downscale": 8, "hasEncoder": True, "hasDecoder": True}
TINY = {"kind": "kl", **BASE, "widths": [32, 32, 64, 64, 96], "resBlocks": 1}
FULL = {"kind": "kl", **BASE, "widths": [128, 128, 256, 512, 512], "resBlocks": 2}
TAESD_NET = {"kind": "taesd", **BASE, "widths": [64], "resBlocks": 3}
SDXL_SCALE = 0.13025


def build_kl(net):
    widths = net["widths"]
    return AutoencoderKL(embed_dim=4, ddconfig={
        "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": widths[0],
        "ch_mult": [width // widths[0] for width in widths[1:]], "num_res_blocks": net["resBlocks"],
        "attn_resolutions": [], "dropout": 0.0}).eval()


def build_taesd(scale):
    model = TAESD().eval()
    model.vae_scale.data.fill_(scale)
    return model


def canonical(name):
    """ComfyUI calls TAESD's halves taesd_encoder and taesd_decoder."""
    return name.replace("taesd_", "")


@torch.no_grad()
def goldens():
    tensors = {}
    models = {"kl": build_kl(TINY), "taesd": build_taesd(SDXL_SCALE)}
    for kind, model in models.items():
        state = model.state_dict()
        for name, value in state.items():
            if not name.startswith("vae_s"):
                # The attention's 1x1 kernels count as matrices.
                state[name] = seeded.weight(canonical(name), list(value.shape))
        model.load_state_dict(state)
        for size in ([5, 6], [3, 1]):
            latent = seeded.values("latent", [2, 4, *size], 4)
            image = seeded.values("image", [2, 3, *(8 * axis for axis in size)])
            place = f"{kind}.{size[0]}x{size[1]}"
            tensors[f"{place}.image"] = model.decode(latent).contiguous()
            tensors[f"{place}.latent"] = model.encode(image).contiguous()
    metadata = {"kl": TINY, "taesd": TAESD_NET, "latentScale": SDXL_SCALE}
    save_file(tensors, GOLDEN, {key: json.dumps(value) for key, value in metadata.items()})
    print(f"{GOLDEN.name}: {GOLDEN.stat().st_size} bytes, {len(tensors)} outputs")


@torch.no_grad()
def compare_full():
    random = torch.Generator().manual_seed(1)
    good = True
    for net, model in ((FULL, build_kl(FULL)), (TAESD_NET, build_taesd(0.18215))):
        state = {name: value if name.startswith("vae_s") else random_weight(name, value.shape, random)
                 for name, value in model.state_dict().items()}
        model.load_state_dict(state)
        file = {f"first_stage_model.{canonical(name)}": value for name, value in state.items()
                if not name.startswith("vae_s")}
        latent = torch.randn([1, 4, 32, 32], generator=random) * 4
        image = torch.rand([1, 3, 256, 256], generator=random) * 2 - 1
        for attention in ("fused", "plain"):
            if attention == "plain" and net is TAESD_NET:
                continue
            for component, feeds, expected in (
                ("vae-decoder", {"latent": latent}, {"image": model.decode(latent)}),
                ("vae-encoder", {"image": image}, {"latent": model.encode(image)}),
            ):
                case = {"component": component, "config": net, "attention": attention}
                good &= compare(f"{net['kind']} {component} {attention}", file, case, feeds, expected)
    return good


if __name__ == "__main__":
    if ARGUMENTS[:1] == ["--full"]:
        sys.exit(0 if compare_full() else 1)
    goldens()
