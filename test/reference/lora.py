"""Goldens for src/lora, from ComfyUI itself.

Run: COMFYUI_PATH=... python test/reference/lora.py   (needs torch and safetensors; not part of npm test)
Writes test/fixtures/goldens/lora/: names-*.json (which weight each spelling of a key means, sampled) and
deltas.safetensors (adapters of every low-rank kind on small layers with the change ComfyUI makes of them),
patches.safetensors (stacks of adapters that depend on the weight, with the weight ComfyUI makes of it).
"""
import json
import os
import random
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, os.environ["COMFYUI_PATH"])
sys.argv = ["lora", "--cpu"]
import comfy.options

comfy.options.enable_args_parsing()
import torch
import comfy.lora
import comfy.ops
from comfy.clip_model import CLIPTextModel
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from safetensors.torch import save_file

import seeded

GOLDENS = Path(__file__).parent.parent / "fixtures" / "goldens"
OUT = GOLDENS / "lora"
PREFIXES = ["lora_unet_", "lycoris_", "unet.", "diffusion_model.", "lora_te_", "lora_te1_", "lora_te2_",
            "text_encoder.", "text_encoder_2.", "text_encoders."]
CLIPS = {"sd15": {"l": (768, 12)}, "sd21": {"h": (1024, 23)}, "sdxl": {"l": (768, 12), "g": (1280, 32)}, "refiner": {"g": (1280, 32)}}
SAMPLES = {"sd15": 100, "sdxl": 100, "sd21": 25, "refiner": 25}


def unet(c):
    """The UNet of a config in checkpoint-names.json, on the meta device, as ComfyUI's model object looks to its key maps."""
    args = {
        "num_res_blocks": c["resBlocks"], "channel_mult": c["channelMult"], "transformer_depth": list(c["transformerDepth"]),
        "transformer_depth_middle": c["transformerDepthMiddle"], "transformer_depth_output": list(reversed(c["transformerDepthOutput"])),
    }
    adm = c["admChannels"]
    heads = {"num_heads": 8} if "count" in c["heads"] else {"num_head_channels": 64}
    with torch.device("meta"):
        net = UNetModel(
            image_size=32, in_channels=c["inChannels"], model_channels=c["modelChannels"], out_channels=4,
            use_spatial_transformer=True, context_dim=c["contextDim"], legacy=False, use_linear_in_transformer=c["isLinearProjection"],
            num_classes="sequential" if adm else None, adm_in_channels=adm or None, operations=comfy.ops.disable_weight_init,
            device="meta", **json.loads(json.dumps(args)), **heads)
    weights = {f"diffusion_model.{k}": v for k, v in net.state_dict().items()}
    return SimpleNamespace(state_dict=lambda: weights, model_config=SimpleNamespace(unet_config=args))


def clip(parts):
    weights = {}
    for letter, (width, layers) in parts.items():
        config = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": width // 64, "intermediate_size": 4 * width,
                  "hidden_act": "gelu", "max_position_embeddings": 77, "eos_token_id": 49407, "vocab_size": 49408}
        with torch.device("meta"):
            net = CLIPTextModel(config, torch.float32, "meta", comfy.ops.disable_weight_init)
        weights |= {f"clip_{letter}.transformer.{k}": v for k, v in net.state_dict().items()}
    return SimpleNamespace(state_dict=lambda: weights)


def names(name, config):
    rng = random.Random(11)
    model, text = unet(config), clip(CLIPS[name])
    key_map = comfy.lora.model_lora_keys_unet(model, {}) | comfy.lora.model_lora_keys_clip(text, {})
    shapes = {k: v.shape for m in (model, text) for k, v in m.state_dict().items()}
    by_format = {}
    for key, weight in key_map.items():
        # Embeddings and the projection are no adapter targets here; biases are not low-rank.
        if weight not in shapes or not weight.endswith(".weight") or "embedding" in weight or "text_projection" in weight or key.startswith("lora_prior_te_"):
            continue
        prefix = next((p for p in PREFIXES if key.startswith(p)), "")
        net, layer = weight.removesuffix(".weight").split(".", 1)
        layer = layer.removeprefix("transformer.")
        net = {"diffusion_model": "unet"}.get(net, net.replace("_", "-"))
        by_format.setdefault(prefix, []).append([key[len(prefix):], net, layer, len(shapes[weight]) > 1])
    golden = {"config": name, "text": {f"clip-{k}": v for k, v in CLIPS[name].items()}, "keys": {}}
    for prefix, keys in by_format.items():
        count = SAMPLES[name]
        # Rarely hit: what is not part of a transformer block. Half of the sample comes from there.
        rare = [k for k in keys if "transformer_blocks" not in k[2]]
        sample = rng.sample(rare, min(len(rare), count // 2))
        golden["keys"][prefix] = sample + rng.sample(keys, min(len(keys), count - len(sample)))
        print(name, repr(prefix), len(keys), len(golden["keys"][prefix]))
    # All names of some weights, in the order in which load_lora reads them: the last one counts.
    spelled = {}
    for key, weight in key_map.items():
        if weight in shapes and len(shapes[weight]) > 1 and not key.startswith("lora_prior_te_"):
            spelled.setdefault(weight, []).append(key)
    wanted = ["transformer_blocks.0.attn1.to_q", "transformer_blocks.0.attn2.to_out.0", "transformer_blocks.0.ff.net.0.proj", "proj_in",
              "time_embed.0", "label_emb.0.0", "in_layers.2", "skip_connection", "layers.0.mlp.fc1", "layers.7.self_attn.q_proj"]
    golden["spellings"] = {
        weight: spelled[weight] for part in wanted for weight in [w for w in spelled if w.endswith(f"{part}.weight")][:2]}
    text = json.dumps(golden)
    (OUT / f"names-{name}.json").write_text(text.replace(", [", ",\n[") + "\n")


O, I = 24, 16
LINEAR, POINT, CONV = [O, I], [O, I, 1, 1], [O, I, 3, 3]


def cases():
    """Name, shape of the weight, and tensors below the layer's name."""
    torch.manual_seed(5)
    n = lambda *shape: torch.randn(*shape) * 0.3
    alpha = lambda value: torch.tensor(value)
    yield "lora", LINEAR, {".lora_up.weight": n(O, 4), ".lora_down.weight": n(4, I), ".alpha": alpha(1.5)}
    yield "lora-f16", LINEAR, {".lora_up.weight": n(O, 4).half(), ".lora_down.weight": n(4, I).half(), ".alpha": alpha(3.0).half()}
    yield "lora-bf16", LINEAR, {".lora_up.weight": n(O, 4).bfloat16(), ".lora_down.weight": n(4, I).bfloat16()}
    yield "lora-peft", LINEAR, {".lora_B.weight": n(O, 5), ".lora_A.weight": n(5, I)}
    yield "lora-peft-default", LINEAR, {".lora_B.default.weight": n(O, 5), ".lora_A.default.weight": n(5, I)}
    yield "lora-bare", LINEAR, {".lora_B": n(O, 5), ".lora_A": n(5, I)}
    yield "lora-diffusers", LINEAR, {".lora.up.weight": n(O, 3), ".lora.down.weight": n(3, I), ".alpha": alpha(2.0)}
    yield "lora-processor", LINEAR, {"_lora.up.weight": n(O, 3), "_lora.down.weight": n(3, I)}
    yield "lora-layer", LINEAR, {".lora_linear_layer.up.weight": n(O, 3), ".lora_linear_layer.down.weight": n(3, I)}
    yield "lora-conv", CONV, {".lora_up.weight": n(O, 4, 1, 1), ".lora_down.weight": n(4, I, 3, 3), ".alpha": alpha(2.0)}
    yield "lora-point", POINT, {".lora_up.weight": n(O, 4, 1, 1), ".lora_down.weight": n(4, I, 1, 1), ".alpha": alpha(2.0)}
    yield "lora-linear-on-point", POINT, {".lora_up.weight": n(O, 4), ".lora_down.weight": n(4, I), ".alpha": alpha(2.0)}
    yield "lora-point-on-linear", LINEAR, {".lora_up.weight": n(O, 4, 1, 1), ".lora_down.weight": n(4, I, 1, 1)}
    yield "lora-tucker", CONV, {".lora_up.weight": n(O, 4, 1, 1), ".lora_mid.weight": n(4, 4, 3, 3), ".lora_down.weight": n(4, I, 1, 1), ".alpha": alpha(2.0)}
    hada = lambda r1, r2, i: {".hada_w1_a": n(O, r1), ".hada_w1_b": n(r1, i), ".hada_w2_a": n(O, r2), ".hada_w2_b": n(r2, i)}
    yield "loha", LINEAR, hada(3, 3, I) | {".alpha": alpha(1.0)}
    yield "loha-uneven", LINEAR, hada(3, 2, I) | {".alpha": alpha(1.0)}
    yield "loha-conv", CONV, hada(2, 2, I * 9)
    yield "loha-tucker", CONV, {
        ".hada_t1": n(3, 3, 3, 3), ".hada_w1_a": n(3, O), ".hada_w1_b": n(3, I),
        ".hada_t2": n(3, 3, 3, 3), ".hada_w2_a": n(3, O), ".hada_w2_b": n(3, I), ".alpha": alpha(2.0)}
    yield "lokr", LINEAR, {".lokr_w1": n(4, 4), ".lokr_w2_a": n(6, 2), ".lokr_w2_b": n(2, 4), ".alpha": alpha(1.0)}
    yield "lokr-factored", LINEAR, {".lokr_w1_a": n(4, 2), ".lokr_w1_b": n(2, 4), ".lokr_w2_a": n(6, 3), ".lokr_w2_b": n(3, 4), ".alpha": alpha(1.0)}
    yield "lokr-first-factored", LINEAR, {".lokr_w1_a": n(4, 2), ".lokr_w1_b": n(2, 4), ".lokr_w2": n(6, 4), ".alpha": alpha(1.0)}
    yield "lokr-full", LINEAR, {".lokr_w1": n(2, 4), ".lokr_w2": n(12, 4), ".alpha": alpha(7.0)}
    yield "lokr-conv", CONV, {".lokr_w1": n(4, 4), ".lokr_w2": n(6, 4, 3, 3), ".alpha": alpha(7.0)}
    yield "lokr-conv-factored", CONV, {".lokr_w1": n(4, 2), ".lokr_w2_a": n(6, 2), ".lokr_w2_b": n(2, 8 * 9), ".alpha": alpha(3.0)}
    yield "lokr-tucker", CONV, {".lokr_w1": n(4, 4), ".lokr_t2": n(2, 2, 3, 3), ".lokr_w2_a": n(2, 6), ".lokr_w2_b": n(2, 4), ".alpha": alpha(3.0)}
    yield "lokr-point", POINT, {".lokr_w1": n(4, 4), ".lokr_w2": n(6, 4, 1, 1)}


def deltas():
    # torch 2.15's kron refuses the strides of lokr-tucker, and ComfyUI then skips the layer.
    kron = torch.kron
    torch.kron = lambda a, b: kron(a.contiguous(), b.contiguous())
    tensors, strengths = {}, {}
    for index, (name, shape, parts) in enumerate(cases()):
        strength = [1.0, 0.7, -1.3][index % 3]
        loaded = comfy.lora.load_lora({f"x{k}": v for k, v in parts.items()}, {"x": "x.weight"})
        patch = [(strength, loaded["x.weight"], 1.0, None, None)]
        delta = comfy.lora.calculate_weight(patch, torch.zeros(shape), "x.weight")
        assert delta.abs().max() > 1e-3, name
        tensors |= {f"{name}|x{k}": v.contiguous() for k, v in parts.items()} | {f"{name}|delta": delta.contiguous()}
        strengths[name] = str(strength)
    save_file(tensors, OUT / "deltas.safetensors", metadata=strengths)
    print("cases", len(strengths))


def weight_cases():
    """Name, shape of the weight, and a stack of (strength, strength_model, tensors below the layer's name)."""
    torch.manual_seed(6)
    n = lambda *shape: torch.randn(*shape) * 0.3
    alpha = lambda value: torch.tensor(value)
    lora = lambda i=I: {".lora_up.weight": n(O, 4), ".lora_down.weight": n(4, i), ".alpha": alpha(1.5)}
    conv = lambda: {".lora_up.weight": n(O, 3, 1, 1), ".lora_down.weight": n(3, I, 3, 3), ".alpha": alpha(2.0)}
    hada = lambda i=I: {".hada_w1_a": n(O, 2), ".hada_w1_b": n(2, i), ".hada_w2_a": n(O, 2), ".hada_w2_b": n(2, i), ".alpha": alpha(1.0)}
    lokr = lambda: {".lokr_w1": n(4, 4), ".lokr_w2_a": n(6, 2), ".lokr_w2_b": n(2, 4), ".alpha": alpha(1.0)}
    rows = {".dora_scale": n(O, 1).abs() + 1}
    columns = {".dora_scale": n(1, I).abs() + 1}
    square = lambda *shape: n(*shape) * 0.5
    glora = lambda i=I, r=3: {".a1.weight": n(I, r), ".a2.weight": n(r, I), ".b1.weight": n(O, r), ".b2.weight": n(r, i), ".alpha": alpha(2.0)}
    for name, make in {"lora": lora, "loha": hada, "lokr": lokr}.items():
        yield f"dora-{name}-rows", LINEAR, [(0.7, 1.0, make() | rows)]
        yield f"dora-{name}-columns", LINEAR, [(-0.4, 1.0, make() | columns)]
        yield f"dora-{name}-rows-full", LINEAR, [(1.0, 1.0, make() | rows)]
    yield "dora-conv-rows", CONV, [(0.6, 1.0, conv() | {".dora_scale": n(O, 1, 1, 1).abs() + 1})]
    yield "dora-conv-columns", CONV, [(0.6, 1.0, conv() | {".dora_scale": n(1, I, 1, 1).abs() + 1})]
    yield "glora", LINEAR, [(0.7, 1.0, glora())]
    yield "glora-old", LINEAR, [(0.7, 1.0, {".a1.weight": n(3, I), ".a2.weight": n(I, 3), ".b1.weight": n(3, I), ".b2.weight": n(O, 3), ".alpha": alpha(2.0)})]
    yield "glora-conv", CONV, [(-0.7, 1.0, glora(I * 9, 2) | {".b2.weight": n(2, I, 3, 3)})]
    yield "glora-dora", LINEAR, [(0.7, 1.0, glora() | rows)]
    yield "oft", LINEAR, [(0.7, 1.0, {".oft_blocks": square(4, 6, 6)})]
    yield "oft-limit", CONV, [(1.2, 1.0, {".oft_blocks": square(3, 8, 8), ".alpha": alpha(0.8)})]
    yield "boft", LINEAR, [(0.7, 1.0, {".oft_blocks": square(2, 6, 4, 4), ".alpha": alpha(0.0)})]
    yield "boft-full-rescale", CONV, [(1.0, 1.0, {".oft_blocks": square(2, 6, 4, 4), ".alpha": alpha(1.5), ".rescale": n(O, 1, 1, 1) + 1})]
    yield "diff", CONV, [(0.7, 1.0, {".diff": n(*CONV)})]
    yield "set", LINEAR, [(0.7, 1.0, {".set_weight": n(*LINEAR)})]
    yield "multiply", LINEAR, [(1.0, 1.25, None)]
    yield "multiply-after-lora", LINEAR, [(0.5, 1.0, lora()), (1.0, 0.8, None)]
    yield "lora-then-dora", LINEAR, [(0.5, 1.0, lora()), (0.7, 1.0, lora() | rows)]
    yield "dora-then-lora", LINEAR, [(0.7, 1.0, lora() | rows), (0.5, 1.0, lora())]
    yield "dora-then-dora", CONV, [(0.7, 1.0, conv() | {".dora_scale": n(1, I, 1, 1).abs() + 1}), (0.5, 1.0, conv() | {".dora_scale": n(O, 1, 1, 1).abs() + 1})]
    yield "lora-then-glora", LINEAR, [(0.7, 1.0, lora()), (0.6, 1.0, glora())]
    yield "every-kind", LINEAR, [
        (0.5, 1.0, lora()), (1.0, 1.1, None), (0.6, 1.0, lora() | columns), (0.3, 1.0, hada()), (0.8, 1.0, lora() | rows), (-0.5, 1.0, lokr())]
    yield "lokr-full-dora-rows", LINEAR, [(0.7, 1.0, {".lokr_w1": n(2, 4), ".lokr_w2": n(12, 4)} | rows)]
    yield "lokr-full-dora-columns", CONV, [(0.7, 1.0, {".lokr_w1": n(4, 4), ".lokr_w2": n(6, 4, 3, 3)} | {".dora_scale": n(1, I, 1, 1).abs() + 1})]
    yield "lora-then-lokr-full-dora", LINEAR, [(0.5, 1.0, lora()), (1.0, 1.0, {".lokr_w1": n(2, 4), ".lokr_w2": n(12, 4)} | rows)]
    yield "oft-dora-rows", LINEAR, [(0.7, 1.0, {".oft_blocks": square(4, 6, 6)} | rows)]
    yield "oft-limit-dora-columns", LINEAR, [(0.7, 1.0, {".oft_blocks": square(4, 6, 6), ".alpha": alpha(0.8)} | columns)]
    yield "boft-limit-dora-rows", CONV, [(0.6, 1.0, {".oft_blocks": square(2, 6, 4, 4), ".alpha": alpha(0.9), ".dora_scale": n(O, 1, 1, 1).abs() + 1})]
    yield "boft-dora-rescale", LINEAR, [(1.0, 1.0, {".oft_blocks": square(2, 6, 4, 4), ".alpha": alpha(1.5), ".rescale": n(O, 1) + 1} | rows)]
    yield "lora-then-oft-then-dora", LINEAR, [(0.5, 1.0, lora()), (0.7, 1.0, {".oft_blocks": square(4, 6, 6)}), (0.6, 1.0, lora() | rows)]


def weights():
    tensors, stacks = {}, {}
    for name, shape, stack in weight_cases():
        base = seeded.values(f"{name}|base", shape, 0.5)
        patches = []
        for index, (strength, strength_model, parts) in enumerate(stack):
            value = (None,)
            if parts is not None:
                parts = {k: v.clone() for k, v in parts.items()}
                tensors |= {f"{name}|{index}|x{k}": v.contiguous() for k, v in parts.items()}
                value = comfy.lora.load_lora(parts | {f"x{k}": v for k, v in parts.items()}, {"x": "x.weight"}, log_missing=False)["x.weight"]
            # Attention multiply adds nothing: a None at strength 0.
            patches.append((strength if parts else 0.0, value, strength_model, None, None))
        weight = comfy.lora.calculate_weight(patches, base.clone(), "x.weight")
        assert (weight - base).abs().max() > 1e-3, name
        tensors[f"{name}|weight"] = weight.contiguous()
        stacks[name] = json.dumps([[s, m] for s, m, _ in stack])
    save_file(tensors, OUT / "patches.safetensors", metadata=stacks)
    print("stacks", len(stacks))


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    configs = json.loads((GOLDENS / "checkpoint-names.json").read_text())["unet"]
    for model in CLIPS:
        names(model, configs[model]["config"])
    deltas()
    weights()
