"""The UNet graph against ComfyUI's UNetModel on the CPU.

    COMFYUI_PATH=... python test/reference/unet.py            writes the goldens of tiny nets
    COMFYUI_PATH=... python test/reference/unet.py --full [FAMILY ...]
        compares nets of full width (random weights, 32x32 latents) with `npx tsx unet-full.ts`;
        writes up to 10 GB to a temporary folder and removes it.
"""
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, os.environ["COMFYUI_PATH"])
ARGUMENTS = sys.argv[1:]
sys.argv = [sys.argv[0], "--cpu"]
import comfy.options

comfy.options.enable_args_parsing()
import comfy.ops
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from safetensors.torch import load_file, save_file

import seeded

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "fixtures/goldens/unet.safetensors"
TOLERANCE = 1e-5


def config(model, mult, res, depth, middle, up, context, **rest):
    """A UNetConfig of src/checkpoint/types.ts."""
    base = {"inChannels": 4, "outChannels": 4, "admChannels": 0}
    heads = rest.pop("heads")
    named = {
        "modelChannels": model, "channelMult": mult, "resBlocks": res, "transformerDepth": depth,
        "transformerDepthMiddle": middle, "transformerDepthOutput": up, "contextDim": context,
        "heads": heads, "isLinearProjection": rest.pop("linear"),
    }
    return {**base, **named, **rest}


SD1 = dict(heads={"count": 8}, linear=False)
SD2 = dict(heads={"channels": 64}, linear=True)
SD1_LEVELS = ([1, 2, 4, 4], [2] * 4, [1] * 6 + [0] * 2, 1, [0] * 3 + [1] * 9)
SDXL_LEVELS = ([1, 2, 4], [2] * 3, [0, 0, 2, 2, 10, 10], 10, [10] * 3 + [2] * 3 + [0] * 3)
REFINER_LEVELS = ([1, 2, 4, 4], [2] * 4, [0, 0, 4, 4, 4, 4, 0, 0], 4, [0] * 3 + [4] * 6 + [0] * 3)
FULL = {
    "sd1": config(320, *SD1_LEVELS, 768, **SD1),
    "sd1-inpaint": config(320, *SD1_LEVELS, 768, **SD1, inChannels=9),
    "sd1-pix2pix": config(320, *SD1_LEVELS, 768, **SD1, inChannels=8),
    "sd2": config(320, *SD1_LEVELS, 1024, **SD2),
    "sdxl": config(320, *SDXL_LEVELS, 2048, **SD2, admChannels=2816),
    "sdxl-refiner": config(384, *REFINER_LEVELS, 1280, **SD2, admChannels=2560),
}
HALF = dict(heads={"channels": 32}, linear=True)
TINY = {
    "sd1": config(32, [1, 2], [1, 1], [1, 0], 1, [0, 0, 1, 1], 24, **SD1),
    "sd1-inpaint": config(32, [1, 2], [1, 1], [0, 1], 1, [1, 1, 0, 0], 24, **SD1, inChannels=9),
    "sd1-pix2pix": config(32, [1, 2], [1, 1], [0, 1], 1, [1, 1, 0, 0], 24, **SD1, inChannels=8),
    "sd2": config(32, [1, 2, 2], [1] * 3, [1, 1, 0], 1, [0, 0, 1, 1, 1, 1], 32, **HALF),
    "sdxl": config(32, [1, 2, 4], [1] * 3, [0, 1, 2], 2, [2, 2, 1, 1, 0, 0], 40, **HALF,
                   admChannels=48),
    "sdxl-refiner": config(32, [1, 2, 2, 2], [1] * 4, [0, 1, 1, 0], 1, [0, 0, 1, 1, 1, 1, 0, 0], 40,
                           **HALF, admChannels=48),
    # As the distilled SDXL nets: levels of unlike length, no attention in the middle.
    "distilled": config(32, [1, 2], [1, 2], [0, 1, 2], -1, [2, 1, 0, 1, 0], 40, **HALF,
                        admChannels=48),
}
CASES = {
    "plain": {"size": [8, 8], "timesteps": [999, 0.25], "time": 77, "control": False},
    "odd": {"size": [7, 13], "timesteps": [-1.554], "time": 154, "control": False},
    "control": {"size": [8, 12], "timesteps": [1, 500], "time": 5, "control": True},
}


def build(net, device=None):
    heads = net["heads"]
    return UNetModel(
        image_size=32, in_channels=net["inChannels"], out_channels=net["outChannels"],
        model_channels=net["modelChannels"], num_res_blocks=net["resBlocks"],
        channel_mult=net["channelMult"], transformer_depth=list(net["transformerDepth"]),
        transformer_depth_middle=net["transformerDepthMiddle"],
        transformer_depth_output=net["transformerDepthOutput"][::-1],  # taken from its end
        context_dim=net["contextDim"], use_spatial_transformer=True, legacy=False,
        use_linear_in_transformer=net["isLinearProjection"],
        num_heads=heads.get("count", -1), num_head_channels=heads.get("channels", -1),
        num_classes="sequential" if net["admChannels"] else None,
        adm_in_channels=net["admChannels"] or None,
        dtype=torch.float32, device=device, operations=comfy.ops.disable_weight_init,
    ).eval()


def inputs(net, case):
    batch = len(case["timesteps"])
    given = {
        "x": seeded.values("x", [batch, net["inChannels"], *case["size"]], 2),
        "timesteps": torch.tensor(case["timesteps"], dtype=torch.float32),
        "context": seeded.values("context", [batch, case["time"], net["contextDim"]], 2),
    }
    if net["admChannels"]:
        given["y"] = seeded.values("y", [batch, net["admChannels"]])
    return given


def residuals(model, given):
    """One residual for most places: every third is left out, every fourth is for the whole batch."""
    shapes = []
    hooks = [block[-1].register_forward_hook(lambda _m, _i, out: shapes.append(out.shape))
             for block in [*model.input_blocks, model.middle_block]]
    model(**given)
    for hook in hooks:
        hook.remove()
    *skips, middle = shapes
    named = {f"control.{kind}.{index}": shape
             for kind in ("input", "output") for index, shape in enumerate(skips)}
    named["control.middle.0"] = middle
    chosen = {}
    for index, (name, shape) in enumerate(named.items()):
        if index % 3 != 2:
            chosen[name] = seeded.values(name, [1 if index % 4 == 3 else shape[0], *shape[1:]], 0.5)
    return chosen, len(skips)


def comfy_control(named, count):
    """ComfyUI takes each list from its end: input blocks in order, output blocks from the last skip."""
    return {
        "input": [named.get(f"control.input.{index}") for index in reversed(range(count))],
        "middle": [named.get("control.middle.0")],
        "output": [named.get(f"control.output.{index}") for index in range(count)],
    }


@torch.no_grad()
def goldens():
    tensors, residual_shapes = {}, {}
    for family, net in TINY.items():
        model = build(net)
        model.load_state_dict({name: seeded.weight(name, list(value.shape))
                               for name, value in model.state_dict().items()})
        for name, case in CASES.items():
            given = inputs(net, case)
            if case["control"]:
                named, count = residuals(model, given)
                residual_shapes[family] = {key: list(value.shape) for key, value in named.items()}
                given["control"] = comfy_control(named, count)
            tensors[f"{family}.{name}"] = model(**given)
    metadata = {"nets": TINY, "cases": CASES, "residuals": residual_shapes}
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, GOLDEN, {key: json.dumps(value) for key, value in metadata.items()})
    print(f"{GOLDEN.name}: {GOLDEN.stat().st_size} bytes, {len(tensors)} outputs")


def write_checkpoint(model, path):
    """Random weights of unit gain, one tensor in memory at a time."""
    header, end = {}, 0
    for name, value in model.state_dict().items():
        begin, end = end, end + value.numel() * 4
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    random = torch.Generator().manual_seed(1)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, value in model.state_dict().items():
            data = torch.randn(value.shape, generator=random)
            fan_in = value[0].numel() if value.dim() > 1 else 2500
            data *= fan_in**-0.5
            if value.dim() == 1 and name.endswith(".weight"):
                data += 1
            file.write(data.numpy().tobytes())


@torch.no_grad()
def compare_full(family, folder, size=32):
    net = FULL[family]
    model = build(net, "meta")
    parameters = sum(value.numel() for value in model.state_dict().values())
    checkpoint = Path(folder) / "unet.safetensors"
    write_checkpoint(model, checkpoint)
    model.load_state_dict(load_file(checkpoint), assign=True)
    given = inputs(net, {"size": [size, size], "timesteps": [500.5], "time": 77})
    begin = time.perf_counter()
    expected = model(**given)
    seconds = time.perf_counter() - begin
    del model
    save_file({**given, "expected": expected}, Path(folder) / "case.safetensors")
    (Path(folder) / "config.json").write_text(json.dumps(net))
    command = ["npx", "tsx", str(HERE / "unet-full.ts"), folder]
    line = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    result = json.loads(line)
    print(f"{family}: {parameters / 1e6:.1f} M parameters, relative L2 error {result['error']:.2e}, "
          f"{result['targets']} adapter targets, graph {result['graphBytes']} bytes, "
          f"create {result['createMs']} ms, two runs {result['runMs']} ms, "
          f"RSS {result['rssBytes'] / 1e9:.2f} GB, PyTorch {seconds * 1e3:.0f} ms", flush=True)
    return result["error"]


if __name__ == "__main__":
    if ARGUMENTS[:1] == ["--full"]:
        errors = []
        for family in ARGUMENTS[1:] or FULL:
            with tempfile.TemporaryDirectory() as folder:
                errors.append(compare_full(family, folder))
        sys.exit(0 if max(errors) <= TOLERANCE else 1)
    goldens()
