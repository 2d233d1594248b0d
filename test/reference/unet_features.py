"""FreeU, FreeU_V2 and PerturbedAttentionGuidance inside tiny UNets, as ComfyUI's nodes do it.

    COMFYUI_PATH=... python test/reference/unet_features.py   writes test/fixtures/goldens/unet-features.safetensors
"""
import json
from types import SimpleNamespace

import unet  # Sets ComfyUI up; the arguments it reads are none.
import seeded
import torch
from comfy_extras.nodes_freelunch import FreeU, FreeU_V2
from safetensors.torch import save_file

GOLDEN = unet.HERE.parent / "fixtures/goldens/unet-features.safetensors"
FREEU = {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2}
CASES = {
    "freeu": {"size": [8, 8], "features": {"freeu": {"version": 1, **FREEU}}},
    "freeu-v2": {"size": [8, 8], "features": {"freeu": {"version": 2, **FREEU}}},
    "freeu-odd": {"size": [7, 13], "features": {"freeu": {"version": 1, "b1": 0.7, "b2": 1.1, "s1": 0.0, "s2": 1.5}}},
    "freeu-v2-odd": {"size": [5, 6], "features": {"freeu": {"version": 2, **FREEU}}},
    "pag": {"size": [8, 8], "features": {"pag": {"blocks": ["middle.0"]}}},
    "pag-elsewhere": {"size": [7, 9], "features": {"pag": {"blocks": ["input.{low}", "output.{low}"]}}},
    "both": {"size": [8, 6], "features": {"freeu": {"version": 2, **FREEU}, "pag": {"blocks": ["middle.0.0"]}}},
}
# An input and an output block with self-attention.
BLOCKS = {"sd1": (1, 2), "sdxl": (3, 0)}


def patch(version, channels, **scales):
    found = []
    config = SimpleNamespace(unet_config={"model_channels": channels})
    clone = SimpleNamespace(set_model_output_block_patch=found.append)
    model = SimpleNamespace(model=SimpleNamespace(model_config=config), clone=lambda: clone)
    (FreeU if version == 1 else FreeU_V2).execute(model, **scales)
    return found[0]


def options(net, features):
    result = {"patches": {}, "patches_replace": {}}
    if "freeu" in features:
        result["patches"]["output_block_patch"] = [patch(channels=net["modelChannels"], **features["freeu"])]
    if "pag" in features:
        replaced = {}
        for block in features["pag"]["blocks"]:
            side, *numbers = block.split(".")
            replaced[(side, *map(int, numbers))] = lambda q, k, v, extra, mask=None: v
        result["patches_replace"]["attn1"] = replaced
    return result


@torch.no_grad()
def main():
    tensors, cases = {}, {}
    for family, (low, high) in BLOCKS.items():
        net = unet.TINY[family]
        model = unet.build(net)
        model.load_state_dict({k: seeded.weight(k, v.shape) for k, v in model.state_dict().items()})
        for name, case in CASES.items():
            features = json.loads(json.dumps(case["features"]).replace("input.{low}", f"input.{low}").replace("output.{low}", f"output.{high}"))
            item = {"size": case["size"], "timesteps": [999, 0.25], "time": 5, "control": False}
            given = unet.inputs(net, item)
            plain = model(**given)
            out = model(**given, transformer_options=options(net, features))
            assert (out - plain).abs().max() > 1e-3, (family, name)
            tensors[f"{family}.{name}"] = out.contiguous()
            cases[f"{family}.{name}"] = {"size": case["size"], "features": features}
            print(family, name, float((out - plain).norm() / plain.norm()))
    nets = {family: unet.TINY[family] for family in BLOCKS}
    save_file(tensors, GOLDEN, metadata={"nets": json.dumps(nets), "cases": json.dumps(cases)})


if __name__ == "__main__":
    main()
