"""Measure the exported files: are the pictures the right ones, do the styles show; and draw a contact sheet.

Everything is read back from the fp16 files, so this also checks the export.
"""

import random

import numpy as np
import torch
from PIL import Image

from .config import ASSETS, CONTEXT, LATENT, SCALE, SEED, STYLES
from .data import load_entries
from .diffusion import sample
from .export import CHECKPOINT
from .files import append_log
from .lora import RECIPES, attach
from .names import diffusers_name
from .parallel import in_parallel
from .text import TextEncoder
from .tokenizer import encode, padded
from .train_unet import load_latents
from .unet import UNet
from .vae import AutoencoderKL

MEASURED = 200
STYLED = 40
SHEET = (
    "red apple", "rocket", "pizza", "penguin", "sunflower", "house", "bicycle", "guitar", "octopus", "hamburger",
)  # fmt: skip


class Model:
    """UNet, text encoder and VAE of one file, in fp32."""

    def __init__(self, path):
        from safetensors.torch import load_file

        tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
        self.unet, self.text, self.vae = UNet(), TextEncoder(), AutoencoderKL()
        for prefix, net in (
            ("model.diffusion_model.", self.unet),
            ("cond_stage_model.transformer.", self.text),
            ("first_stage_model.", self.vae),
        ):
            own = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
            net.load_state_dict(own)
            net.eval()

    @torch.no_grad()
    def context(self, texts):
        return self.text(torch.tensor([padded(encode(text)) for text in texts]))

    def latents(self, texts, seed=0, steps=20, cfg=3.0, batch=20):
        """(N, 4, 16, 16); the noise of a picture depends on its place in `texts` only."""
        noise = torch.randn(len(texts), 4, LATENT, LATENT, generator=torch.Generator().manual_seed(seed))

        def run(first):
            some = texts[first : first + batch]
            empty = self.context([""]).expand(len(some), -1, CONTEXT)
            return sample(self.unet, self.context(some), empty, noise[first : first + batch], steps, cfg)

        return torch.cat(in_parallel(run, range(0, len(texts), batch)))

    @torch.no_grad()
    def pictures(self, latents) -> np.ndarray:
        """(N, 128, 128, 3) uint8"""
        result = torch.cat([self.vae.decode(part / SCALE) for part in latents.split(10)])
        return ((result.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def nearest(latents, pool):
    return torch.cdist(latents.flatten(1), pool.flatten(1)).argmin(1)


def retrieval(model: Model, entries, seed=0):
    """Share of MEASURED names whose picture's nearest neighbour among all flat pictures is its own."""
    chosen = random.Random(SEED).sample(entries, MEASURED)
    latents = model.latents([entry["name"] for entry in chosen], seed)
    found = nearest(latents, load_latents()).tolist()
    wrong = [(entry["name"], row) for entry, row in zip(chosen, found) if entry["row"] != row]
    return 1 - len(wrong) / MEASURED, wrong, latents


def load_lora(model: Model, path, recipe, strength=1.0):
    """Put the file's adapters into the model."""
    from safetensors.torch import load_file

    tensors = load_file(path)
    for (net, name), adapted in attach(model, recipe).items():
        full = diffusers_name(name) if net == "unet" else name
        if recipe.layout == "peft":
            down, up = (tensors[f"unet.{full}.lora_{side}.weight"] for side in "AB")
        else:
            prefix = ("lora_unet_" if net == "unet" else "lora_te_") + full.replace(".", "_")
            down, up = (tensors[f"{prefix}.lora_{side}.weight"] for side in ("down", "up"))
            assert tensors[f"{prefix}.alpha"].item() == recipe.alpha
        with torch.no_grad():
            adapted.down.weight.copy_(down.float())
            adapted.up.weight.copy_(up.float() * strength)


def style_shares(latents) -> dict:
    """Which style the nearest of all flat and styled pictures has, as shares."""
    pools = {"flat": load_latents()} | {style: load_latents(style) for style in STYLES}
    labels = [style for style, pool in pools.items() for _ in range(len(pool))]
    found = nearest(latents, torch.cat(list(pools.values()))).tolist()
    return {style: sum(labels[row] == style for row in found) / len(found) for style in pools}


def save_sheet(rows, path, colours=128):
    """rows: lists of (128, 128, 3) pictures"""
    picture = Image.fromarray(np.concatenate([np.concatenate(list(row), 1) for row in rows], 0))
    if colours:
        picture = picture.quantize(colours, dither=Image.Dither.NONE)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, optimize=True)


def evaluate(folder=ASSETS, styles=True):
    entries = load_entries()
    model = Model(folder / CHECKPOINT)
    share, wrong, _ = retrieval(model, entries)
    append_log(f"evaluate: nearest picture is the right one for {share:.1%} of {MEASURED} names (20 steps, cfg 3)")
    names_by_row = {entry["row"]: entry["name"] for entry in entries}
    print("wrong:", ", ".join(f"{name} -> {names_by_row.get(row, row)}" for name, row in wrong))
    rows = [model.pictures(model.latents(list(SHEET), seed=1))]
    for recipe in RECIPES if styles else ():
        styled = Model(folder / CHECKPOINT)
        load_lora(styled, folder / "loras" / f"{recipe.style}.safetensors", recipe)
        chosen = random.Random(SEED).sample(entries, STYLED)
        share = style_shares(styled.latents([entry["name"] for entry in chosen]))[recipe.style]
        append_log(f"evaluate: {recipe.style}: the nearest picture has this style for {share:.1%} of {STYLED} names")
        rows.append(styled.pictures(styled.latents(list(SHEET), seed=1)))
    save_sheet(rows, folder / "sheet.png")
