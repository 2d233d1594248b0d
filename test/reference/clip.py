"""The CLIP graph against ComfyUI's CLIPTextModel on the CPU.

    COMFYUI_PATH=... python test/reference/clip.py          writes the goldens of tiny encoders
    COMFYUI_PATH=... python test/reference/clip.py --full [KIND ...]
        compares encoders of full width, stored as checkpoints store them (needs npx tsx)
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
import comfy.ops
import torch
from comfy.clip_model import CLIPTextModel
from safetensors.torch import save_file

import seeded
from full import compare, random_weight

GOLDEN = Path(__file__).parent.parent / "fixtures/goldens/clip.safetensors"


def config(kind, width, layers, vocabulary=49408, positions=77):
    """A TextEncoderConfig of src/checkpoint/types.ts."""
    return {
        "kind": kind, "width": width, "layers": layers, "heads": width // 64, "vocabulary": vocabulary,
        "positions": positions, "activation": "quick_gelu" if kind == "clip-l" else "gelu",
        "projection": 0 if kind == "clip-l" else width,
    }


FULL = {"clip-l": config("clip-l", 768, 12), "clip-h": config("clip-h", 1024, 24), "clip-g": config("clip-g", 1280, 32)}
TINY = {kind: config(kind, 128, 3, 40, 12) for kind in FULL}
# Two rows; the second has a vector in place of a token, as textual inversion puts it.
TOKENS = [[38, 5, 7, 11, 39, 39, 39, 39, 39], [38, 3, 0, 4, 2, 1, 39, 39, 39]]
ENDS = [4, 6]
OVERRIDE = (1, 2)
LAYERS = [0, 2, 3]


def build(net, device=None):
    model = CLIPTextModel({
        "num_hidden_layers": net["layers"], "hidden_size": net["width"], "num_attention_heads": net["heads"],
        "intermediate_size": 4 * net["width"], "hidden_act": net["activation"],
        "max_position_embeddings": net["positions"], "eos_token_id": 49407,
    }, torch.float32, device, comfy.ops.manual_cast).eval()
    embedding = comfy.ops.manual_cast.Embedding(net["vocabulary"], net["width"], device=device)
    model.text_model.embeddings.token_embedding = embedding
    if not net["projection"]:
        model.text_projection = torch.nn.Identity()
    return model


def embed(model, tokens, vector=None, place=OVERRIDE):
    rows = model.get_input_embeddings()(torch.tensor(tokens), out_dtype=torch.float32)
    if vector is not None:
        rows[place] = vector
    return rows


def run(model, rows, ends, layer):
    """hidden, hidden_normed, pooled, projected; layer counts as in the graph, 0 = embeddings."""
    count = [end + 1 for end in ends]
    wanted = None if layer == 0 else layer - 1
    # The encoder adds to its input in place.
    last, hidden, projected, pooled = model(embeds=rows.clone(), num_tokens=count, intermediate_output=wanted,
                                            final_layer_norm_intermediate=False)
    if layer == 0:
        hidden = rows + model.text_model.embeddings.position_embedding.weight[:rows.shape[1]]
    outputs = {"hidden": hidden, "hidden_normed": model.text_model.final_layer_norm(hidden), "pooled": pooled}
    if isinstance(model.text_projection, torch.nn.Linear):
        outputs["projected"] = projected
    return outputs


@torch.no_grad()
def goldens():
    tensors = {}
    for kind, net in TINY.items():
        model = build({**net, "positions": len(TOKENS[0])})
        model.load_state_dict({
            # The graph takes the first rows of a longer table.
            name: seeded.weight(name, [net["positions"], net["width"]])[:len(TOKENS[0])]
            if "position_embedding" in name else seeded.weight(name, list(value.shape))
            for name, value in model.state_dict().items()})
        rows = embed(model, TOKENS, seeded.values("vector", [net["width"]]))
        for layer in LAYERS:
            for name, value in run(model, rows, ENDS, layer).items():
                if layer == LAYERS[-1] or name.startswith("hidden"):
                    tensors[f"{kind}.{layer}.{name}"] = value.contiguous()
    metadata = {"nets": TINY, "tokens": TOKENS, "ends": ENDS, "override": OVERRIDE, "layers": LAYERS}
    save_file(tensors, GOLDEN, {key: json.dumps(value) for key, value in metadata.items()})
    print(f"{GOLDEN.name}: {GOLDEN.stat().st_size} bytes, {len(tensors)} outputs")


def to_open_clip(weights):
    """The names and layout of OpenCLIP: q, k, v in one matrix, the projection transposed."""
    stored = {}
    for name, value in weights.items():
        if "k_proj" in name or "v_proj" in name:
            continue
        if "q_proj" in name:
            value = torch.cat([weights[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")])
        if name == "text_projection.weight":
            stored["text_projection"] = value.T.contiguous()
            continue
        for ours, theirs in (
            ("text_model.embeddings.token_embedding", "token_embedding"), ("text_model.final_layer_norm", "ln_final"),
            ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
            ("text_model.encoder.layers", "transformer.resblocks"), ("layer_norm", "ln_"), ("mlp.fc1", "mlp.c_fc"),
            ("mlp.fc2", "mlp.c_proj"), ("self_attn.q_proj.", "attn.in_proj_"), ("self_attn", "attn"),
        ):
            name = name.replace(ours, theirs)
        stored[name] = value
    return stored


@torch.no_grad()
def compare_full(kind):
    net = FULL[kind]
    model = build(net, "meta")
    random = torch.Generator().manual_seed(1)
    weights = {name: random_weight(name, value.shape, random) for name, value in model.state_dict().items()}
    model.load_state_dict(weights, assign=True)
    tokens = torch.randint(1000, 40000, [2, 77], generator=random).tolist()
    ends, layer = [30, 76], net["layers"] - 1
    vector = torch.randn(net["width"], generator=random) * 0.05
    expected = run(model, embed(model, tokens, vector), ends, layer)
    override, mask = torch.zeros(2, 77, net["width"]), torch.zeros(2, 77, 1)
    override[OVERRIDE], mask[OVERRIDE] = vector, 1
    feeds = {"tokens": torch.tensor(tokens).float(), "end_position": torch.tensor(ends).float(),
             "layer": torch.tensor([float(layer)]), "embedding_override": override, "embedding_mask": mask}
    stored = weights if kind == "clip-l" else to_open_clip(weights)
    places = {"clip-l": "cond_stage_model.transformer.", "clip-h": "cond_stage_model.model.",
              "clip-g": "conditioner.embedders.1.model."}
    file = {places[kind] + name: value for name, value in stored.items()}
    return compare(kind, file, {"component": kind, "config": net}, feeds, expected)


if __name__ == "__main__":
    if ARGUMENTS[:1] == ["--full"]:
        sys.exit(0 if all([compare_full(kind) for kind in ARGUMENTS[1:] or FULL]) else 1)
    goldens()
