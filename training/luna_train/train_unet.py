"""Train UNet and text encoder together on the latents of the named pictures. Writes WORK/unet.pt."""

import copy
import math
import random
import time

import numpy as np
import torch
from torch import nn

from .captions import Captions
from .config import SEED, THREADS, UNET_BATCH, UNET_CAPTIONS, UNET_RATE, UNET_STEPS, WORK
from .data import DATA, load_entries
from .diffusion import eps_loss, spread_timesteps
from .files import append_log, save_atomically
from .optimizer import muon_adamw
from .parallel import set_gradients
from .text import TextEncoder
from .train_vae import FINAL as VAE_FILE
from .train_vae import as_tensor, encode_all
from .unet import UNet
from .vae import AutoencoderKL

SAVE_EVERY = 50
PARTIAL = WORK / "unet-partial.pt"
FINAL = WORK / "unet.pt"
EMA = 0.995


def load_vae(path=VAE_FILE) -> AutoencoderKL:
    vae = AutoencoderKL()
    vae.load_state_dict(torch.load(path)["model"])
    return vae.eval()


def load_latents(kind="flat") -> torch.Tensor:
    """Scaled latents (N, 4, 16, 16) of flat.npy or of a style, computed once."""
    path = WORK / f"latents-{kind}.pt"
    if not path.exists():
        save_atomically(path, encode_all(load_vae(), as_tensor(np.load(DATA / f"{kind}.npy"))))
    return torch.load(path)


def named_latents() -> torch.Tensor:
    return load_latents()[[entry["row"] for entry in load_entries()]]


class Nets(nn.Module):
    """UNet and text encoder; the token table is the compact one of Captions."""

    def __init__(self, captions: Captions):
        super().__init__()
        self.unet = UNet()
        self.text = TextEncoder(vocabulary=captions.size)


def load_nets(captions: Captions, path=FINAL) -> Nets:
    """The averaged weights of a finished or a running training."""
    nets = Nets(captions)
    nets.load_state_dict(torch.load(path)["ema"])
    return nets.eval()


def picture_order(step: int, count: int, each: int) -> list:
    """Pictures of one step: every picture once before any comes again."""
    first = step * each
    numbers = []
    for place in range(first, first + each):
        turn, index = divmod(place, count)
        numbers.append(turn_order(turn, count)[index])
    return numbers


ORDERS = {}


def turn_order(turn: int, count: int) -> list:
    if turn not in ORDERS:
        ORDERS.pop(turn - 2, None)
        ORDERS[turn] = random.Random(SEED + turn).sample(range(count), count)
    return ORDERS[turn]


def rate_at(step: int) -> float:
    return UNET_RATE * min(1, (step + 1) / 60) * (0.5 + 0.5 * math.cos(math.pi * step / UNET_STEPS)) + 1e-5


def draw_parts(captions: Captions, latents, numbers, step: int, copies: int):
    """The step's captions, latents, noise and timesteps, cut into one part per thread.

    One caption's encoding serves `copies` noisy copies of its picture.
    """
    rows = captions.drawn(numbers, random.Random(SEED + step)).chunk(THREADS)
    clean = latents[numbers].chunk(THREADS)
    noise = torch.randn(copies * len(numbers), *latents.shape[1:]).chunk(THREADS)
    timesteps = spread_timesteps(copies * len(numbers)).chunk(THREADS)
    return [
        (rows[part], clean[part].repeat(copies, 1, 1, 1), noise[part], timesteps[part]) for part in range(THREADS)
    ]


def part_loss(nets):
    def loss(part):
        rows, clean, noise, timesteps = part
        return eps_loss(nets.unet, clean, noise, timesteps, nets.text(rows))

    return loss


def train_unet():
    if FINAL.exists():
        print("unet: present")
        return
    captions, latents = Captions(load_entries()), named_latents()
    torch.manual_seed(SEED)
    nets = Nets(captions)
    average = copy.deepcopy(nets)
    optimizer = muon_adamw(nets, UNET_RATE)
    step, elapsed, loss_mean = 0, 0.0, None
    if PARTIAL.exists():
        state = torch.load(PARTIAL)
        nets.load_state_dict(state["model"])
        average.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        step, elapsed, loss_mean = state["step"], state["elapsed"], state["loss"]
    sizes = [sum(parameter.numel() for parameter in net.parameters()) for net in (nets.unet, nets.text)]
    what = f"{sizes[0]} parameters, text {sizes[1]} ({captions.size} tokens), {len(latents)} pictures"
    append_log(f"unet: {what}, from step {step} to {UNET_STEPS}")
    started = time.time() - elapsed
    while step < UNET_STEPS:
        torch.manual_seed(SEED + step)  # a resumed run draws what an unbroken one would
        numbers = picture_order(step, len(latents), UNET_CAPTIONS)
        parts = draw_parts(captions, latents, numbers, step, UNET_BATCH // UNET_CAPTIONS)
        loss = set_gradients(nets.parameters(), part_loss(nets), parts)
        torch.nn.utils.clip_grad_norm_(nets.parameters(), 1.0)
        optimizer.step(rate_at(step))
        step += 1
        keep = min(EMA, step / (step + 50))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(nets.parameters()), 1 - keep)
        loss_mean = loss if loss_mean is None else 0.98 * loss_mean + 0.02 * loss
        if step % SAVE_EVERY == 0 or step == UNET_STEPS:
            elapsed = time.time() - started
            append_log(f"unet: step {step} loss {loss_mean:.4f} rate {rate_at(step):.1e} {elapsed:.0f} s")
            save_atomically(
                PARTIAL,
                {
                    "model": nets.state_dict(),
                    "ema": average.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                    "elapsed": elapsed,
                    "loss": loss_mean,
                },
            )
    save_atomically(FINAL, {"ema": average.state_dict(), "step": step})
