"""AutoencoderKL in LDM's layout (f8, 4 latent channels): the key names are the checkpoint's own.

Shapes: pictures (B, 3, H, W) in -1..1, latents (B, 4, H/8, W/8).
"""

import torch
import torch.nn.functional as F
from torch import nn

from .config import VAE_CHANNELS, VAE_MULTIPLIERS, VAE_RES_BLOCKS

LATENT_CHANNELS = 4


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


def conv3(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class ResnetBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.norm1 = norm(inputs)
        self.conv1 = conv3(inputs, outputs)
        self.norm2 = norm(outputs)
        self.conv2 = conv3(outputs, outputs)
        nn.init.zeros_(self.conv2.weight)  # every block starts as its shortcut
        nn.init.zeros_(self.conv2.bias)
        if inputs != outputs:
            self.nin_shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttnBlock(nn.Module):
    """One head over all positions; q, k, v are 1x1 convolutions as in LDM."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        batch, channels, height, width = x.shape
        h = self.norm(x)
        rows = [layer(h).flatten(2).transpose(1, 2).unsqueeze(1) for layer in (self.q, self.k, self.v)]
        h = F.scaled_dot_product_attention(*rows)  # (B, 1, HW, C)
        h = h.squeeze(1).transpose(1, 2).reshape(batch, channels, height, width)
        return x + self.proj_out(h)


class Downsample(nn.Module):
    """Stride 2 after padding right and bottom only, as LDM does."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = conv3(channels, channels)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def middle(channels: int) -> nn.Module:
    mid = nn.Module()
    mid.block_1 = ResnetBlock(channels, channels)
    mid.attn_1 = AttnBlock(channels)
    mid.block_2 = ResnetBlock(channels, channels)
    return mid


def run_middle(mid: nn.Module, x):
    return mid.block_2(mid.attn_1(mid.block_1(x)))


class Encoder(nn.Module):
    def __init__(self, base: int, multipliers, blocks: int):
        super().__init__()
        self.conv_in = conv3(3, base)
        self.down = nn.ModuleList()
        channels = base
        for index, multiplier in enumerate(multipliers):
            level = nn.Module()
            level.block = nn.ModuleList()
            for _ in range(blocks):
                level.block.append(ResnetBlock(channels, base * multiplier))
                channels = base * multiplier
            if index != len(multipliers) - 1:
                level.downsample = Downsample(channels)
            self.down.append(level)
        self.mid = middle(channels)
        self.norm_out = norm(channels)
        self.conv_out = conv3(channels, 2 * LATENT_CHANNELS)

    def forward(self, x):
        h = self.conv_in(x)
        for level in self.down:
            for block in level.block:
                h = block(h)
            if hasattr(level, "downsample"):
                h = level.downsample(h)
        return self.conv_out(F.silu(self.norm_out(run_middle(self.mid, h))))


class Decoder(nn.Module):
    """up[0] is the highest resolution, so the levels run from the last to the first."""

    def __init__(self, base: int, multipliers, blocks: int):
        super().__init__()
        channels = base * multipliers[-1]
        self.conv_in = conv3(LATENT_CHANNELS, channels)
        self.mid = middle(channels)
        levels = []
        for index in reversed(range(len(multipliers))):
            level = nn.Module()
            level.block = nn.ModuleList()
            for _ in range(blocks + 1):
                level.block.append(ResnetBlock(channels, base * multipliers[index]))
                channels = base * multipliers[index]
            if index != 0:
                level.upsample = Upsample(channels)
            levels.insert(0, level)
        self.up = nn.ModuleList(levels)
        self.norm_out = norm(channels)
        self.conv_out = conv3(channels, 3)

    def forward(self, z):
        h = run_middle(self.mid, self.conv_in(z))
        for level in reversed(self.up):
            for block in level.block:
                h = block(h)
            if hasattr(level, "upsample"):
                h = level.upsample(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class AutoencoderKL(nn.Module):
    def __init__(self, base=VAE_CHANNELS, multipliers=VAE_MULTIPLIERS, blocks=VAE_RES_BLOCKS):
        super().__init__()
        self.encoder = Encoder(base, multipliers, blocks)
        self.decoder = Decoder(base, multipliers, blocks)
        self.quant_conv = nn.Conv2d(2 * LATENT_CHANNELS, 2 * LATENT_CHANNELS, 1)
        self.post_quant_conv = nn.Conv2d(LATENT_CHANNELS, LATENT_CHANNELS, 1)

    def moments(self, x):
        """Mean and log variance of the latent, (B, 4, H/8, W/8) each, unscaled."""
        mean, log_variance = self.quant_conv(self.encoder(x)).chunk(2, 1)
        return mean, log_variance.clamp(-30, 20)

    def encode(self, x):
        return self.moments(x)[0]

    def decode(self, z):
        return self.decoder(self.post_quant_conv(z))

    @torch.no_grad()
    def rescale_latents(self, factor: float):
        """Multiply the latent by `factor` in place; what decode(encode(x)) gives stays the same."""
        mean_rows = slice(0, LATENT_CHANNELS)
        self.quant_conv.weight[mean_rows] *= factor
        self.quant_conv.bias[mean_rows] *= factor
        self.quant_conv.bias[LATENT_CHANNELS:] += 2 * torch.log(torch.tensor(factor))
        self.post_quant_conv.weight /= factor
