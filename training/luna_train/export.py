"""Write the checkpoint, the adapters, the list of names and the log to assets/ (or, for a look, to another folder)."""

import json
import shutil

import torch

from .captions import Captions
from .config import ASSETS, WORK
from .data import load_entries
from .files import LOG
from .lora import RECIPES, attach, file_tensors
from .safetensors_file import write_safetensors
from .train_decoder import FINAL as VAE_FINAL
from .train_lora import final_file, load_adapters, partial_file
from .train_unet import FINAL as UNET_FILE
from .train_unet import PARTIAL as UNET_PARTIAL
from .train_unet import VAE_FILE, load_nets, load_vae

CHECKPOINT = "checkpoints/luna-emoji-v1.safetensors"
LICENCE = "MIT; pictures learned from Fluent Emoji, MIT, Copyright (c) Microsoft Corporation"


def prefixed(prefix: str, module) -> dict:
    return {prefix + name: tensor for name, tensor in module.state_dict().items()}


def checkpoint_tensors(nets, captions: Captions) -> dict:
    """All tensors of the SD1 layout in fp16."""
    tensors = prefixed("model.diffusion_model.", nets.unet)
    tensors |= prefixed("cond_stage_model.transformer.", nets.text)
    tensors |= prefixed("first_stage_model.", load_vae(VAE_FINAL if VAE_FINAL.exists() else VAE_FILE))
    table = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    tensors[table] = captions.full_table(tensors[table])
    return {name: tensor.detach().half() for name, tensor in tensors.items()}


def export_checkpoint(folder, source=UNET_FILE):
    captions = Captions(load_entries())
    tensors = checkpoint_tensors(load_nets(captions, source), captions)
    metadata = {
        "format": "pt",
        "modelspec.title": "Luna Emoji v1",
        "modelspec.architecture": "stable-diffusion-v1",
        "modelspec.resolution": "128x128",
        "modelspec.prediction_type": "epsilon",
        "modelspec.license": LICENCE,
    }
    write_safetensors(folder / CHECKPOINT, tensors, metadata)


def lora_metadata(recipe) -> dict:
    metadata = {
        "format": "pt",
        "modelspec.title": f"Luna Emoji {recipe.style}",
        "modelspec.license": LICENCE,
        "style": recipe.style,
        "trigger": "none",
    }
    if recipe.layout == "kohya":
        modules = {"ss_network_module": "networks.lora", "ss_network_dim": str(recipe.rank)}
        metadata |= {**modules, "ss_network_alpha": str(recipe.alpha)}
        if recipe.convolutions:
            arguments = {"conv_dim": str(recipe.rank), "conv_alpha": str(recipe.alpha)}
            metadata["ss_network_args"] = json.dumps(arguments)
    return metadata


def export_lora(folder, recipe, source=UNET_FILE):
    nets = load_nets(Captions(load_entries()), source)
    torch.manual_seed(0)
    adapters = attach(nets, recipe)
    for file in (final_file(recipe.style), partial_file(recipe.style)):
        if file.exists():
            load_adapters(adapters, torch.load(file)["adapters"])
            break
    else:
        print(f"export: {recipe.style} is not trained yet")
    path = folder / "loras" / f"{recipe.style}.safetensors"
    write_safetensors(path, file_tensors(adapters, recipe), lora_metadata(recipe))


def export_all(folder=ASSETS):
    export_checkpoint(folder)
    for recipe in RECIPES:
        export_lora(folder, recipe)
    names = sorted(entry["name"] for entry in load_entries())
    (folder / "names.txt").write_text("\n".join(names) + "\n", "utf8")
    shutil.copy(LOG, folder / "training-log.txt")
    print(f"export: {folder.name}/{CHECKPOINT}, {len(RECIPES)} adapters, {len(names)} names")


def export_early():
    """What there is so far, to WORK/early."""
    source = UNET_FILE if UNET_FILE.exists() else UNET_PARTIAL
    export_checkpoint(WORK / "early", source)
    for recipe in RECIPES:
        export_lora(WORK / "early", recipe, source)
