"""SD1's noise schedule, the training loss and a plain DDIM sampler."""

import torch

STEPS = 1000
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, STEPS, dtype=torch.float64) ** 2
KEPT = torch.cumprod(1 - BETAS, 0).float()  # alphas_cumprod


def loss_weight(timesteps):
    """Weight of the eps error: that of an x0 error, at least 0.25 and at most 2.

    The floor matters: at high noise the eps error hardly depends on which picture is meant, and names are
    learned very slowly without it. The cap keeps fine detail from taking the rest of the gradient.
    """
    snr = KEPT[timesteps] / (1 - KEPT[timesteps])
    return torch.clamp(snr + 0.25, max=2.0) / snr


def spread_timesteps(count: int):
    """Random timesteps, evenly spread over the batch, in random order.

    Two thirds lie above 500: there a name decides what the picture becomes, below it hardly matters.
    """
    places = (torch.arange(count) + torch.rand(count)) / count
    return (places**0.6 * STEPS).long().clamp(max=STEPS - 1)[torch.randperm(count)]


def noisy(latents, noise, timesteps):
    kept = KEPT[timesteps][:, None, None, None]
    return kept.sqrt() * latents + (1 - kept).sqrt() * noise


def eps_loss(unet, latents, noise, timesteps, context):
    """latents and noise (B, 4, h, w), timesteps (B,), context (B / n, 77, C) with n >= 1 -> scalar"""
    error = unet(noisy(latents, noise, timesteps), timesteps, context) - noise
    return (error.square().mean((1, 2, 3)) * loss_weight(timesteps)).mean()


@torch.no_grad()
def sample(unet, context, empty_context, noise, steps=20, cfg=3.0):
    """DDIM without added noise: noise (B, 4, h, w) -> latents of the same shape."""
    times = torch.linspace(STEPS - 1, 0, steps + 1).round().long().tolist()
    x = noise
    both = torch.cat([context, empty_context])
    for now, after in zip(times[:-1], times[1:]):
        timesteps = torch.full((2 * len(x),), now)
        with_text, without = unet(torch.cat([x, x]), timesteps, both).chunk(2)
        eps = without + cfg * (with_text - without)
        kept, kept_after = KEPT[now], KEPT[after] if after > 0 else torch.tensor(1.0)
        clean = (x - (1 - kept).sqrt() * eps) / kept.sqrt()
        x = kept_after.sqrt() * clean + (1 - kept_after).sqrt() * eps
    return x
