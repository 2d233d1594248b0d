"""Train one adapter per style on the frozen nets. Writes WORK/lora-<style>.pt."""

import math
import time

import torch

from .captions import Captions
from .config import LORA_BATCH, LORA_RATE, LORA_STEPS, LORA_TEXT_SHARE, SEED, WORK
from .data import load_entries
from .files import append_log, save_atomically
from .lora import RECIPES, Recipe, attach
from .parallel import set_gradients
from .train_unet import draw_parts, load_latents, load_nets, part_loss, picture_order

SAVE_EVERY = 50


def final_file(style: str):
    return WORK / f"lora-{style}.pt"


def partial_file(style: str):
    return WORK / f"lora-{style}-partial.pt"


def adapter_state(adapters: dict) -> dict:
    return {key: (adapted.down.weight.data, adapted.up.weight.data) for key, adapted in adapters.items()}


def load_adapters(adapters: dict, state: dict):
    with torch.no_grad():
        for key, (down, up) in state.items():
            adapters[key].down.weight.copy_(down)
            adapters[key].up.weight.copy_(up)


def weights_of(adapters: dict, net: str) -> list:
    chosen = [adapted for (own, _), adapted in adapters.items() if own == net]
    return [weight for adapted in chosen for weight in (adapted.down.weight, adapted.up.weight)]


def train_lora(recipe: Recipe):
    if final_file(recipe.style).exists():
        print(f"lora {recipe.style}: present")
        return
    captions = Captions(load_entries())
    latents = load_latents(recipe.style)
    nets = load_nets(captions)
    torch.manual_seed(SEED)
    adapters = attach(nets, recipe)
    groups = [
        {"params": weights_of(adapters, "unet"), "share": 1.0},
        {"params": weights_of(adapters, "text"), "share": LORA_TEXT_SHARE},
    ]
    weights = [weight for group in groups for weight in group["params"]]
    optimizer = torch.optim.AdamW(groups, LORA_RATE, betas=(0.9, 0.99), weight_decay=0.0)
    step, elapsed, loss_mean = 0, 0.0, None
    partial = partial_file(recipe.style)
    if partial.exists():
        state = torch.load(partial)
        load_adapters(adapters, state["adapters"])
        optimizer.load_state_dict(state["optimizer"])
        step, elapsed, loss_mean = state["step"], state["elapsed"], state["loss"]
    count = sum(weight.numel() for weight in weights)
    append_log(f"lora {recipe.style}: {len(adapters)} targets, {count} parameters, step {step}")
    started = time.time() - elapsed
    while step < LORA_STEPS:
        torch.manual_seed(SEED + step)
        rate = LORA_RATE * min(1, (step + 1) / 20) * (0.5 + 0.5 * math.cos(math.pi * step / LORA_STEPS)) + 1e-5
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"]
        numbers = picture_order(step, len(latents), LORA_BATCH // 2)
        loss = set_gradients(weights, part_loss(nets), draw_parts(captions, latents, numbers, step, 2))
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        step += 1
        loss_mean = loss if loss_mean is None else 0.97 * loss_mean + 0.03 * loss
        if step % SAVE_EVERY == 0 or step == LORA_STEPS:
            elapsed = time.time() - started
            append_log(f"lora {recipe.style}: step {step} loss {loss_mean:.4f} {elapsed:.0f} s")
            state = {"adapters": adapter_state(adapters), "optimizer": optimizer.state_dict()}
            save_atomically(partial, {**state, "step": step, "elapsed": elapsed, "loss": loss_mean})
    save_atomically(final_file(recipe.style), {"adapters": adapter_state(adapters)})


def train_loras():
    for recipe in RECIPES:
        train_lora(recipe)
