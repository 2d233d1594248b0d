"""UNetModel in LDM's SD1 layout: module names are the checkpoint's keys after `model.diffusion_model.`.

Shapes: x (B, 4, H, W), timesteps (B,), context (B, T, C) -> predicted noise (B, 4, H, W).
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from .config import CONTEXT, UNET_ATTENTION_LEVELS, UNET_CHANNELS, UNET_MULTIPLIERS, UNET_RES_BLOCKS

HEADS = 8  # SD1's number; it cannot be read from the weights


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-5)


def timestep_embedding(timesteps, channels: int):
    """Cosines, then sines, periods up to 10000: (B,) -> (B, channels)."""
    half = channels // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], 1)


class ResBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, time_width: int):
        super().__init__()
        self.in_layers = nn.Sequential(norm(inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time_width, outputs))
        self.out_layers = nn.Sequential(
            norm(outputs), nn.SiLU(), nn.Identity(), nn.Conv2d(outputs, outputs, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x, time):
        h = self.in_layers(x) + self.emb_layers(time)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class CrossAttention(nn.Module):
    def __init__(self, width: int, context_width: int):
        super().__init__()
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width, width, bias=False)
        self.to_v = nn.Linear(context_width, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Identity())

    def forward(self, x, context):
        def heads(rows):  # (B, T, C) -> (B, heads, T, C / heads)
            return rows.unflatten(-1, (HEADS, -1)).transpose(1, 2)

        keys, values = heads(self.to_k(context)), heads(self.to_v(context))
        if len(context) < len(x):  # in training one context serves several rows of x
            copies = (len(x) // len(context), 1, 1, 1)
            keys, values = keys.repeat(copies), values.repeat(copies)
        mixed = F.scaled_dot_product_attention(heads(self.to_q(x)), keys, values)
        return self.to_out(mixed.transpose(1, 2).flatten(2))


class GEGLU(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x):
        value, gate = self.proj(x).chunk(2, -1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Sequential(GEGLU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x):
        return self.net(x)


class BasicTransformerBlock(nn.Module):
    def __init__(self, width: int, context_width: int):
        super().__init__()
        self.attn1 = CrossAttention(width, width)
        self.ff = FeedForward(width)
        self.attn2 = CrossAttention(width, context_width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, x, context):
        own = self.norm1(x)
        x = x + self.attn1(own, own)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    def __init__(self, channels: int, context_width: int):
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([BasicTransformerBlock(channels, context_width)])
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x, context):
        height, width = x.shape[-2:]
        rows = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)  # (B, HW, C)
        for block in self.transformer_blocks:
            rows = block(rows, context)
        return x + self.proj_out(rows.transpose(1, 2).unflatten(2, (height, width)))


class Downsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x):
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Block(nn.Sequential):
    """TimestepEmbedSequential: hands time and context to the parts that take them."""

    def forward(self, x, time, context):
        for part in self:
            if isinstance(part, ResBlock):
                x = part(x, time)
            elif isinstance(part, SpatialTransformer):
                x = part(x, context)
            else:
                x = part(x)
        return x


class UNet(nn.Module):
    def __init__(
        self,
        base=UNET_CHANNELS,
        multipliers=UNET_MULTIPLIERS,
        attention_levels=UNET_ATTENTION_LEVELS,
        res_blocks=UNET_RES_BLOCKS,
        context_width=CONTEXT,
    ):
        super().__init__()
        self.base = base
        time_width = 4 * base
        self.time_embed = nn.Sequential(
            nn.Linear(base, time_width), nn.SiLU(), nn.Linear(time_width, time_width)
        )

        def attention(level, channels):
            return [SpatialTransformer(channels, context_width)] if level in attention_levels else []

        self.input_blocks = nn.ModuleList([Block(nn.Conv2d(4, base, 3, padding=1))])
        channels, skips = base, [base]
        for level, multiplier in enumerate(multipliers):
            for _ in range(res_blocks):
                block = ResBlock(channels, base * multiplier, time_width)
                channels = base * multiplier
                self.input_blocks.append(Block(block, *attention(level, channels)))
                skips.append(channels)
            if level != len(multipliers) - 1:
                self.input_blocks.append(Block(Downsample(channels)))
                skips.append(channels)
        self.middle_block = Block(
            ResBlock(channels, channels, time_width),
            SpatialTransformer(channels, context_width),
            ResBlock(channels, channels, time_width),
        )
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(multipliers))):
            for index in range(res_blocks + 1):
                block = ResBlock(channels + skips.pop(), base * multipliers[level], time_width)
                channels = base * multipliers[level]
                parts = [block, *attention(level, channels)]
                if level and index == res_blocks:
                    parts.append(Upsample(channels))
                self.output_blocks.append(Block(*parts))
        self.out = nn.Sequential(norm(channels), nn.SiLU(), nn.Conv2d(channels, 4, 3, padding=1))
        self.zero_outputs()

    def zero_outputs(self):
        """LDM starts every residual branch at zero."""
        for module in self.modules():
            last = None
            if isinstance(module, ResBlock):
                last = module.out_layers[3]
            elif isinstance(module, SpatialTransformer):
                last = module.proj_out
            if last is not None:
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
        nn.init.zeros_(self.out[2].weight)
        nn.init.zeros_(self.out[2].bias)

    def forward(self, x, timesteps, context):
        time = self.time_embed(timestep_embedding(timesteps, self.base))
        skips = []
        for block in self.input_blocks:
            x = block(x, time, context)
            skips.append(x)
        x = self.middle_block(x, time, context)
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], 1), time, context)
        return self.out(x)
