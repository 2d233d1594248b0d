"""Train the VAE on all flat pictures and on styled copies, then scale its latents to SD's 0.18215.

Two phases: 64 x 64 crops (cheap steps), then whole pictures. Writes WORK/vae.pt.
"""

import time

import numpy as np
import torch
import torch.nn.functional as F

from .config import SCALE, SEED, STYLES, THREADS, VAE_PHASES, VAE_RATE, WORK
from .data import DATA, load_entries
from .files import append_log, save_atomically
from .optimizer import muon_adamw
from .parallel import set_gradients
from .vae import LATENT_CHANNELS, AutoencoderKL

KL_WEIGHT = 1e-4
EDGE_WEIGHT = 0.5
COLOUR_WEIGHT = 5.0  # on 8 x 8 means: colours are learned late without it
SAVE_EVERY = 100
PARTIAL = WORK / "vae-partial.pt"
FINAL = WORK / "vae.pt"


def as_tensor(pictures: np.ndarray) -> torch.Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) uint8."""
    return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))


def to_unit(pictures: torch.Tensor) -> torch.Tensor:
    return pictures.float() / 127.5 - 1


def training_pool():
    """Flat pictures twice as often where they have a name, and every style's copies once."""
    flat = as_tensor(np.load(DATA / "flat.npy"))
    rows = torch.tensor([entry["row"] for entry in load_entries()])
    return torch.cat([flat, flat[rows]] + [as_tensor(np.load(DATA / f"{style}.npy")) for style in STYLES])


def draw_batch(pool: torch.Tensor, batch: int, size: int) -> torch.Tensor:
    """Random pictures, cropped to (size, size) at random places."""
    chosen = to_unit(pool[torch.randint(0, len(pool), (batch,))])
    room = pool.shape[-1] - size
    if room == 0:
        return chosen
    corners = torch.randint(0, room + 1, (batch, 2)).tolist()
    return torch.stack([item[:, y : y + size, x : x + size] for item, (y, x) in zip(chosen, corners)])


def edges(x):
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def picture_loss(result, target):
    """L1 on pixels, on differences of neighbours and on means of 8 x 8.

    Pictures are clamped to -1..1 after decoding, so whiter than white and blacker than black cost nothing. That
    spares the net from hitting the white of the background exactly, which is hard with 32 groups on 32
    channels: every channel is normalized by its own mean over the picture.
    """
    result = torch.where(target.abs() > 0.99, torch.minimum(result * target, target.abs()) * target.sign(), result)
    l1 = (result - target).abs().mean()
    colour = F.avg_pool2d(result - target, 8).abs().mean()
    edge = sum((a - b).abs().mean() for a, b in zip(edges(result), edges(target)))
    return l1 + EDGE_WEIGHT * edge + COLOUR_WEIGHT * colour


def draw_parts(pool: torch.Tensor, batch: int, size: int):
    """Pictures and the noise of their latents, one part per thread."""
    pictures = draw_batch(pool, batch, size)
    noise = torch.randn(batch, LATENT_CHANNELS, size // 8, size // 8)
    return list(zip(pictures.chunk(THREADS), noise.chunk(THREADS)))


def part_loss(model: AutoencoderKL):
    def loss(part):
        pictures, noise = part
        mean, log_variance = model.moments(pictures)
        result = model.decode(mean + noise * torch.exp(0.5 * log_variance))
        kl = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).mean()
        return picture_loss(result, pictures) + KL_WEIGHT * kl

    return loss


def phase_of(step: int):
    for steps, batch, size in VAE_PHASES:
        if step < steps:
            return batch, size
        step -= steps
    raise ValueError(step)


@torch.no_grad()
def encode_all(model, pictures: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) uint8 -> latents (N, 4, H/8, W/8), times 0.18215."""
    return SCALE * torch.cat([model.encode(to_unit(part)) for part in pictures.split(32)])


@torch.no_grad()
def mean_error(model, pictures: torch.Tensor) -> float:
    """Mean absolute error of decode(encode(x)) on the 0..255 scale."""
    total = 0.0
    for part in pictures.split(32):
        result = model.decode(model.encode(to_unit(part))).clamp(-1, 1)
        total += (result - to_unit(part)).abs().sum().item() * 127.5
    return total / pictures.numel()


def report_errors(model, stage: str):
    """Over every eighth named picture."""
    rows = [entry["row"] for entry in load_entries()]
    for kind in ("flat", *STYLES):
        pictures = np.load(DATA / f"{kind}.npy")
        pictures = pictures[rows] if kind == "flat" else pictures
        append_log(f"{stage}: error {kind} {mean_error(model, as_tensor(pictures[::8])):.2f} of 255")


def finish(model):
    """Unit deviation of 0.18215 * latent over the named pictures, as SD's constant expects."""
    flat = as_tensor(np.load(DATA / "flat.npy")[[entry["row"] for entry in load_entries()]])
    model.eval()
    model.rescale_latents(1 / encode_all(model, flat).std().item())
    save_atomically(FINAL, {"model": model.state_dict()})
    report_errors(model, "vae")


def train_vae():
    if FINAL.exists():
        print("vae: present")
        return
    torch.manual_seed(SEED)
    model = AutoencoderKL()
    optimizer = muon_adamw(model, VAE_RATE)
    step, elapsed, total = 0, 0.0, sum(phase[0] for phase in VAE_PHASES)
    if PARTIAL.exists():
        state = torch.load(PARTIAL)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, elapsed = state["step"], state["elapsed"]
    pool = training_pool()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    append_log(f"vae: {parameters} parameters, {len(pool)} pictures, from step {step} to {total}")
    started, loss_mean = time.time() - elapsed, None
    while step < total:
        torch.manual_seed(SEED + step)  # a resumed run draws what an unbroken one would
        rate = VAE_RATE * min(1, (step + 1) / 30) * (1 - step / total) ** 0.7 + 1e-5
        loss = set_gradients(model.parameters(), part_loss(model), draw_parts(pool, *phase_of(step)))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(rate)
        step += 1
        loss_mean = loss if loss_mean is None else 0.98 * loss_mean + 0.02 * loss
        if step % SAVE_EVERY == 0:
            elapsed = time.time() - started
            append_log(f"vae: step {step} loss {loss_mean:.4f} rate {rate:.1e} {elapsed:.0f} s")
            save_atomically(
                PARTIAL,
                {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "elapsed": elapsed},
            )
    finish(model)
