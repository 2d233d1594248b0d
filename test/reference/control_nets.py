"""ControlNets and T2I-Adapters against ComfyUI's classes on the CPU: tiny nets with seeded weights,
and the names and shapes of full-size files.

    COMFYUI_PATH=... python test/reference/control_nets.py    writes test/fixtures/goldens/control.safetensors
    COMFYUI_PATH=... python test/reference/control_nets.py --full [SIZE]
        a step of SD1.5's UNet under its ControlNet, both of full width with random weights, in PyTorch and
        in an engine process (control-full.ts); writes 5 GB to a temporary folder and removes it
"""
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import unet  # Sets ComfyUI up.
import comfy.cldm.cldm
import comfy.controlnet
import comfy.ops
import comfy.t2i_adapter.adapter
import comfy.utils
import seeded
import torch
from safetensors.torch import load_file, save_file

GOLDEN = unet.HERE.parent / "fixtures/goldens/control.safetensors"
STEP = 9  # Every ninth value of each residual is kept.


def encoder(model, mult, res, depth, middle, context, **rest):
    """An EncoderConfig of src/checkpoint/types.ts."""
    full = unet.config(model, mult, res, depth, middle, [], context, **rest)
    return {key: value for key, value in full.items() if key not in ("outChannels", "transformerDepthOutput")}


def control(net, union=0, hint=3):
    return {"kind": "controlnet", "encoder": net, "hintChannels": hint, "unionTypes": union}


SD2 = dict(heads={"channels": 64}, linear=True)
TINY = {
    "sd1": control(encoder(32, [1, 2, 4, 4], [2] * 4, [1] * 6 + [0] * 2, 1, 24, **unet.SD1)),
    "sd2": control(encoder(64, [1, 2], [1, 1], [1, 1], 1, 32, **SD2)),
    "sdxl": control(encoder(64, [1, 2, 4], [1] * 3, [0, 1, 2], 2, 40, **SD2, admChannels=48)),
    "small": control(encoder(64, [1, 2], [1, 1], [0, 0], 0, 0, **SD2, admChannels=48)),
    "union": control(encoder(320, [1, 1], [1, 0], [0], -1, 0, **SD2, admChannels=48), union=8),
}
CASES = {
    "plain": {"size": [8, 8], "timesteps": [999, 0.25], "time": 7},
    "odd": {"size": [7, 5], "timesteps": [20.5], "time": 4},
}
UNION = {"auto": [], "tile": [6]}


def adapter(unshuffle, widths, light=False, res=2, kernel=1, conv=False, hint=3):
    return {"kind": "t2i-adapter", "isLight": light, "unshuffle": unshuffle, "hintChannels": hint, "widths": widths,
            "resBlocks": res, "kernel": kernel, "hasConvDown": conv}


ADAPTERS = {
    "full": adapter(8, [32, 64, 128, 128]),
    "sketch": adapter(8, [32, 64, 128, 128], hint=1),
    "conv": adapter(8, [32, 64, 128, 128], kernel=3, conv=True),
    "light": adapter(8, [32, 64, 128, 128], light=True, res=4, kernel=3),
    "xl": adapter(16, [32, 64, 128, 128]),
}


def build(net, device=None):
    e = net["encoder"]
    heads = e["heads"]
    return comfy.cldm.cldm.ControlNet(
        image_size=32, in_channels=e["inChannels"], model_channels=e["modelChannels"], hint_channels=net["hintChannels"],
        num_res_blocks=e["resBlocks"], channel_mult=e["channelMult"], transformer_depth=list(e["transformerDepth"]),
        transformer_depth_middle=e["transformerDepthMiddle"], context_dim=e["contextDim"] or 1, use_spatial_transformer=True,
        legacy=False, use_linear_in_transformer=e["isLinearProjection"], num_heads=heads.get("count", -1),
        num_head_channels=heads.get("channels", -1), num_classes="sequential" if e["admChannels"] else None,
        adm_in_channels=e["admChannels"] or None, union_controlnet_num_control_type=net["unionTypes"] or None,
        dtype=torch.float32, device=device, operations=comfy.ops.disable_weight_init).eval()


def build_adapter(net):
    if net["isLight"]:
        return comfy.t2i_adapter.adapter.Adapter_light(cin=64 * net["hintChannels"], channels=net["widths"], nums_rb=net["resBlocks"])
    cin = net["hintChannels"] * net["unshuffle"] ** 2
    return comfy.t2i_adapter.adapter.Adapter(cin=cin, channels=net["widths"], nums_rb=net["resBlocks"], ksize=net["kernel"],
                                             sk=True, use_conv=net["hasConvDown"], xl=net["unshuffle"] == 16)


def seed(model):
    model.load_state_dict({name: seeded.weight(canonical(name), list(value.shape)) for name, value in model.state_dict().items()})
    return model


def canonical(name):
    """Names of src/checkpoint: every weight ends in .weight or .bias."""
    return "task_embedding.weight" if name == "task_embedding" else name.replace(".in_proj_", ".in_proj.")


def named(result):
    """Residuals under the names of the UNet's inputs (docs/protocol.md)."""
    found = {f"control.output.{i}": value for i, value in enumerate(result.get("output", []))}
    inputs = result.get("input", [])
    found |= {f"control.input.{len(inputs) - 1 - i}": value for i, value in enumerate(inputs) if value is not None}
    for value in result.get("middle", []):
        found["control.middle.0"] = value
    return found


@torch.no_grad()
def run_nets(tensors):
    for family, net in TINY.items():
        model = seed(build(net))
        for name, case in CASES.items():
            given = unet.inputs({**net["encoder"], "contextDim": net["encoder"]["contextDim"] or 1}, case)
            batch, (h, w) = len(case["timesteps"]), case["size"]
            given["hint"] = seeded.values("hint", [batch, net["hintChannels"], 8 * h, 8 * w])
            for kind, types in (UNION if net["unionTypes"] else {"": []}).items():
                result = named(model(**given, control_type=types))
                for place, value in result.items():
                    tensors[f"{family}.{name}{kind and '-' + kind}/{place}"] = value.flatten()[::STEP].contiguous()


@torch.no_grad()
def run_adapters(tensors):
    for name, net in ADAPTERS.items():
        model = seed(build_adapter(net))
        for title, size in (("plain", [8, 8]), ("odd", [5, 7])):
            side = net["unshuffle"]
            hint = seeded.values("hint", [2, net["hintChannels"], side * size[0], side * size[1]])
            for place, value in named(model(hint)).items():
                tensors[f"{name}.{title}/{place}"] = value.flatten()[::STEP].contiguous()


SDXL = (320, [1, 2, 4], [2] * 3)
FULL = {
    "sd15": control(encoder(320, [1, 2, 4, 4], [2] * 4, [1] * 6 + [0] * 2, 1, 768, **unet.SD1)),
    "sd21": control(encoder(320, [1, 2, 4, 4], [2] * 4, [1] * 6 + [0] * 2, 1, 1024, **SD2)),
    "sdxl": control(encoder(*SDXL, [0, 0, 2, 2, 10, 10], 10, 2048, **SD2, admChannels=2816)),
    "sdxl-mid": control(encoder(*SDXL, [0, 0, 0, 0, 1, 1], 1, 2048, **SD2, admChannels=2816)),
    "sdxl-small": control(encoder(*SDXL, [0] * 6, 0, 0, **SD2, admChannels=2816)),
    "sdxl-union": control(encoder(*SDXL, [0, 0, 2, 2, 10, 10], 10, 2048, **SD2, admChannels=2816), union=6),
}
FULL_ADAPTERS = {
    "t2i": adapter(8, [320, 640, 1280, 1280]),
    "t2i-light": adapter(8, [320, 640, 1280, 1280], light=True, res=4, kernel=3),
    "t2i-xl": adapter(16, [320, 640, 1280, 1280]),
}


def digest(shapes):
    lines = sorted(f"{name} {list(shape)}" for name, shape in shapes.items())
    return {"count": len(lines), "sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest()}


class Recorder:
    """Stands in for ComfyUI's net: what the loader gives it is what the names mean."""

    def __init__(self, **config):
        self.config = config
        self.dtype = torch.float32

    def load_state_dict(self, tensors, strict=True):
        Recorder.found = dict(tensors)
        return [], []


def diffusers_names(net, shapes):
    """Their name to ours, as ComfyUI's loader maps them; it is given every name it asks for."""
    e = net["encoder"]
    config = {"num_res_blocks": e["resBlocks"], "channel_mult": e["channelMult"], "transformer_depth": list(e["transformerDepth"]),
              "transformer_depth_output": [0] * sum(count + 1 for count in e["resBlocks"]),
              "transformer_depth_middle": e["transformerDepthMiddle"]}
    theirs = {ours: name for name, ours in comfy.utils.unet_to_diffusers(config).items() if not name.startswith("class_")}
    for ours in shapes:
        stem, _, part = ours.rpartition(".")
        if stem.startswith("zero_convs."):
            theirs[ours] = f"controlnet_down_blocks.{stem.split('.')[1]}.{part}"
        elif stem.startswith("middle_block_out"):
            theirs[ours] = f"controlnet_mid_block.{part}"
        elif stem.startswith("input_hint_block."):
            number = int(stem.split(".")[1]) // 2
            inner = "conv_in" if number == 0 else "conv_out" if number == 7 else f"blocks.{number - 1}"
            theirs[ours] = f"controlnet_cond_embedding.{inner}.{part}"
        elif ours not in theirs:
            theirs[ours] = ours.replace(".attn.in_proj.", ".attn.in_proj_")
    given = {theirs[ours]: torch.empty(shape, device="meta") for ours, shape in shapes.items()}
    places = {id(value): name for name, value in given.items()}
    original, comfy.cldm.cldm.ControlNet = comfy.cldm.cldm.ControlNet, Recorder
    wrapped, comfy.controlnet.ControlNet = comfy.controlnet.ControlNet, lambda model, **rest: model
    comfy.controlnet.load_controlnet_state_dict(dict(given))
    comfy.cldm.cldm.ControlNet, comfy.controlnet.ControlNet = original, wrapped
    mapped = {ours: places[id(value)] for ours, value in Recorder.found.items()}
    assert mapped == {ours: theirs[ours] for ours in shapes}, set(mapped.items()) ^ set(theirs.items())
    return {theirs[ours]: shape for ours, shape in shapes.items()}


def adapter_names(net, shapes):
    theirs = {}
    for ours, shape in shapes.items():
        parts = ours.split(".")
        if parts[0] == "body":
            number = int(parts[1])
            level, j = (number, None) if net["isLight"] else divmod(number, 2)
            rest = parts[2:]
            if net["isLight"] and rest[0] == "body":
                j, rest = int(rest[1]), rest[2:]
            inner = ["in_conv" if rest[0] == "in_conv" else rest[0], *rest[1:]]
            where = ["resnets", str(j)] if rest[0].startswith("block") else []
            theirs[ours] = ".".join(["adapter", "body", str(level), *where, *inner])
        else:
            theirs[ours] = f"adapter.{ours}"
    if not net["isLight"]:  # ComfyUI does not read light adapters in these names.
        given = {theirs[ours]: torch.empty(shape, device="meta") for ours, shape in shapes.items()}
        places = {id(value): name for name, value in given.items()}
        original = comfy.t2i_adapter.adapter.Adapter
        comfy.t2i_adapter.adapter.Adapter = lambda **config: Recorder(**config)
        wrapped, comfy.controlnet.T2IAdapter = comfy.controlnet.T2IAdapter, lambda model, *rest: model
        Recorder.input_channels = 3
        comfy.controlnet.load_t2i_adapter(dict(given))
        comfy.t2i_adapter.adapter.Adapter, comfy.controlnet.T2IAdapter = original, wrapped
        assert {ours: places[id(value)] for ours, value in Recorder.found.items()} == theirs
    return {theirs[ours]: shape for ours, shape in shapes.items()}


def full_names():
    names = {}
    for title, net in {**FULL, **FULL_ADAPTERS}.items():
        is_adapter = net["kind"] == "t2i-adapter"
        with torch.device("meta"):
            model = build_adapter(net) if is_adapter else build(net, "meta")
        shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
        theirs = (adapter_names if is_adapter else diffusers_names)(net, shapes)
        names[title] = {"config": net, "ldm": digest(shapes), "diffusers": digest(theirs)}
        print(title, len(shapes))
    return names


@torch.no_grad()
def compare_full(folder, size):
    """Strength 0.8 on the second of two rows, none on the first."""
    nets = {"unet": unet.build(unet.FULL["sd1"], "meta"), "control": build(FULL["sd15"], "meta")}
    for name, model in nets.items():
        unet.write_checkpoint(model, Path(folder) / f"{name}.safetensors")
        model.load_state_dict(load_file(Path(folder) / f"{name}.safetensors"), assign=True)
    given = unet.inputs(unet.FULL["sd1"], {"size": [size, size], "timesteps": [500.5, 20], "time": 77})
    hint = seeded.values("hint", [1, 3, 8 * size, 8 * size])
    begin = time.perf_counter()
    bare = nets["unet"](**given)
    middle = time.perf_counter()
    residuals = named(nets["control"](**given, hint=hint))
    scale = torch.tensor([0, 0.8])[:, None, None, None]
    control = unet.comfy_control({name: value * scale for name, value in residuals.items()}, len(residuals) - 1)
    expected = nets["unet"](**given, control=control)
    seconds = {"bare": middle - begin, "controlled": time.perf_counter() - middle}
    nets.clear()
    save_file({**given, "hint": hint, "bare": bare, "expected": expected}, Path(folder) / "case.safetensors")
    command = ["npx", "tsx", str(unet.HERE / "control-full.ts"), folder]
    line = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    print(f"SD1.5 at {size}x{size}, 2 rows: PyTorch {seconds}, engine {line}", flush=True)
    return json.loads(line)["error"]


if __name__ == "__main__":
    if unet.ARGUMENTS[:1] == ["--full"]:
        with tempfile.TemporaryDirectory() as temporary:
            error = compare_full(temporary, int((unet.ARGUMENTS[1:] or ["32"])[0]))
        sys.exit(0 if error <= unet.TOLERANCE else 1)
    tensors = {}
    run_nets(tensors)
    run_adapters(tensors)
    metadata = {"nets": TINY, "cases": CASES, "adapters": ADAPTERS, "union": UNION, "names": full_names()}
    save_file(tensors, GOLDEN, {key: json.dumps(value) for key, value in metadata.items()})
    print(f"{GOLDEN.name}: {GOLDEN.stat().st_size} bytes, {len(tensors)} residuals")
