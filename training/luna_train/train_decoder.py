"""Sharpen the VAE's decoder on whole pictures while the latents stay as they are.

The UNet and the adapters depend on the encoder only, so this may come last. The latents get a little noise,
because generated ones are never exact. Writes WORK/vae-final.pt.
"""

import time

import numpy as np
import torch

from .config import DECODER_BATCH, DECODER_RATE, DECODER_STEPS, SCALE, SEED, STYLES, THREADS, WORK
from .data import DATA, load_entries
from .files import append_log, save_atomically
from .optimizer import muon_adamw
from .parallel import set_gradients
from .train_unet import load_latents
from .train_vae import FINAL as VAE_FILE
from .train_vae import as_tensor, picture_loss, report_errors, to_unit
from .vae import AutoencoderKL

SAVE_EVERY = 50
NOISE = 0.2  # of the latents' deviation
PARTIAL = WORK / "vae-decoder-partial.pt"
FINAL = WORK / "vae-final.pt"


def pool():
    """(pictures uint8, scaled latents) of all flat pictures, the named ones twice, and all styled copies."""
    flat, flat_latents = as_tensor(np.load(DATA / "flat.npy")), load_latents()
    rows = [entry["row"] for entry in load_entries()]
    pictures, latents = [flat, flat[rows]], [flat_latents, flat_latents[rows]]
    for style in STYLES:
        pictures.append(as_tensor(np.load(DATA / f"{style}.npy")))
        latents.append(load_latents(style))
    return torch.cat(pictures), torch.cat(latents)


def part_loss(vae):
    def loss(part):
        latents, pictures = part
        return picture_loss(vae.decode(latents / SCALE), pictures)

    return loss


def train_decoder():
    if FINAL.exists():
        print("decoder: present")
        return
    vae = AutoencoderKL()
    vae.load_state_dict(torch.load(VAE_FILE)["model"])
    vae.encoder.requires_grad_(False)
    trained = torch.nn.ModuleList([vae.post_quant_conv, vae.decoder])
    optimizer = muon_adamw(trained, DECODER_RATE)
    step, elapsed = 0, 0.0
    if PARTIAL.exists():
        state = torch.load(PARTIAL)
        vae.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, elapsed = state["step"], state["elapsed"]
    pictures, latents = pool()
    started, loss_mean = time.time() - elapsed, None
    while step < DECODER_STEPS:
        torch.manual_seed(SEED + step)
        rows = torch.randint(0, len(pictures), (DECODER_BATCH,))
        noisy = latents[rows] + NOISE * torch.rand(DECODER_BATCH, 1, 1, 1) * torch.randn_like(latents[rows])
        parts = list(zip(noisy.chunk(THREADS), to_unit(pictures[rows]).chunk(THREADS)))
        loss = set_gradients(trained.parameters(), part_loss(vae), parts)
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step(DECODER_RATE * min(1, (step + 1) / 20) * (1 - step / DECODER_STEPS) + 1e-5)
        step += 1
        loss_mean = loss if loss_mean is None else 0.97 * loss_mean + 0.03 * loss
        if step % SAVE_EVERY == 0 or step == DECODER_STEPS:
            elapsed = time.time() - started
            append_log(f"decoder: step {step} loss {loss_mean:.4f} {elapsed:.0f} s")
            state = {"model": vae.state_dict(), "optimizer": optimizer.state_dict()}
            save_atomically(PARTIAL, {**state, "step": step, "elapsed": elapsed})
    save_atomically(FINAL, {"model": vae.state_dict()})
    report_errors(vae.eval(), "decoder")
