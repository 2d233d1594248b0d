"""PyTorch's side of `luna bench --torch PYTHON`: a UNet of Stable Diffusion, called step by step.

Needs torch alone. Arguments: a safetensors file in float32 whose names begin with
"model.diffusion_model.", and the number of attention heads. Reads commands from standard input,
one JSON object a line, and answers each with one:

    {"do": "step", "side": 64, "seed": 1}   -> {"ms": 812.3, "sum": -3.1}
    {"do": "adapters", "rank": 16}          -> {"layers": 128, "bytes": 6340608}
    {"do": "switch", "strength": 0.7}       -> {"ms": 95.0}

A switch is what a program does that keeps adapters in the weights: put the saved weights back, then
add strength * up @ down to each of them.
"""

import json
import math
import sys
import time

import torch
import torch.nn.functional as F

PREFIX = "model.diffusion_model."


def load(path: str) -> dict[str, torch.Tensor]:
    """Every tensor in memory of its own, as programs that change weights hold them."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        begin = file.tell()
        weights = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            first, last = entry["data_offsets"]
            file.seek(begin + first)
            data = torch.frombuffer(bytearray(file.read(last - first)), dtype=torch.float32)
            weights[name.removeprefix(PREFIX)] = data.reshape(entry["shape"])
    return weights


class UNet:
    def __init__(self, weights: dict[str, torch.Tensor], heads: int) -> None:
        self.w = weights
        self.heads = heads
        self.width = weights["time_embed.0.weight"].shape[1]

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.w[name + ".weight"], self.w.get(name + ".bias"))

    def conv(self, name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        weight = self.w[name + ".weight"]
        return F.conv2d(x, weight, self.w.get(name + ".bias"), stride, weight.shape[-1] // 2)

    def group_norm(self, name: str, x: torch.Tensor, eps: float) -> torch.Tensor:
        return F.group_norm(x, 32, self.w[name + ".weight"], self.w[name + ".bias"], eps)

    def layer_norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], self.w[name + ".weight"], self.w[name + ".bias"])

    def residual(self, name: str, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        h = F.silu(self.group_norm(name + ".in_layers.0", x, 1e-5))
        h = self.conv(name + ".in_layers.2", h)
        h = h + self.linear(name + ".emb_layers.1", F.silu(emb))[:, :, None, None]
        h = F.silu(self.group_norm(name + ".out_layers.0", h, 1e-5))
        h = self.conv(name + ".out_layers.3", h)
        if name + ".skip_connection.weight" in self.w:
            x = self.conv(name + ".skip_connection", x)
        return x + h

    def attention(self, name: str, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape

        def split(part: str, source: torch.Tensor) -> torch.Tensor:
            y = self.linear(f"{name}.{part}", source)
            return y.view(batch, -1, self.heads, width // self.heads).transpose(1, 2)

        y = F.scaled_dot_product_attention(
            split("to_q", x), split("to_k", context), split("to_v", context)
        )
        return self.linear(name + ".to_out.0", y.transpose(1, 2).reshape(batch, tokens, width))

    def transformer(self, name: str, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        h = self.conv(name + ".proj_in", self.group_norm(name + ".norm", x, 1e-6))
        h = h.flatten(2).transpose(1, 2)
        block = name + ".transformer_blocks.0"
        own = self.layer_norm(block + ".norm1", h)
        h = h + self.attention(block + ".attn1", own, own)
        h = h + self.attention(block + ".attn2", self.layer_norm(block + ".norm2", h), context)
        gate = self.linear(block + ".ff.net.0.proj", self.layer_norm(block + ".norm3", h))
        value, gate = gate.chunk(2, dim=-1)
        h = h + self.linear(block + ".ff.net.2", value * F.gelu(gate))
        h = h.transpose(1, 2).reshape(batch, channels, height, width)
        return x + self.conv(name + ".proj_out", h)

    def block(
        self, name: str, h: torch.Tensor, emb: torch.Tensor, context: torch.Tensor
    ) -> torch.Tensor:
        for part in range(3):
            own = f"{name}.{part}"
            if own + ".in_layers.0.weight" in self.w:
                h = self.residual(own, h, emb)
            elif own + ".proj_in.weight" in self.w:
                h = self.transformer(own, h, context)
            elif own + ".op.weight" in self.w:
                h = self.conv(own + ".op", h, 2)
            elif own + ".conv.weight" in self.w:
                h = self.conv(own + ".conv", F.interpolate(h, scale_factor=2.0, mode="nearest"))
            elif own + ".weight" in self.w:
                h = self.conv(own, h)
        return h

    def names(self, kind: str) -> list[str]:
        count = 1 + max(int(n.split(".")[1]) for n in self.w if n.startswith(kind + "."))
        return [f"{kind}.{index}" for index in range(count)]

    def forward(
        self, x: torch.Tensor, timestep: float, context: torch.Tensor
    ) -> torch.Tensor:
        half = self.width // 2
        angle = timestep * torch.exp(-math.log(10000) * torch.arange(half) / half)
        emb = torch.cat([angle.cos(), angle.sin()]).expand(x.shape[0], -1)
        emb = self.linear("time_embed.2", F.silu(self.linear("time_embed.0", emb)))
        skips = []
        h = x
        for name in self.names("input_blocks"):
            h = self.block(name, h, emb, context)
            skips.append(h)
        h = self.block("middle_block", h, emb, context)
        for name in self.names("output_blocks"):
            h = self.block(name, torch.cat([h, skips.pop()], dim=1), emb, context)
        return self.conv("out.2", F.silu(self.group_norm("out.0", h, 1e-5)))


class Adapters:
    """One low-rank pair for each linear layer of the transformers, and the weights without them."""

    def __init__(self, weights: dict[str, torch.Tensor], rank: int) -> None:
        self.weights = weights
        self.saved: dict[str, torch.Tensor] = {}
        self.pairs = {
            name: (torch.randn(rank, w.shape[1]) * 0.01, torch.randn(w.shape[0], rank) * 0.01)
            for name, w in weights.items()
            if "transformer_blocks" in name and w.dim() == 2
        }

    def switch(self, strength: float) -> None:
        for name, (down, up) in self.pairs.items():
            weight = self.weights[name]
            if name in self.saved:
                weight.copy_(self.saved[name])
            else:
                self.saved[name] = weight.clone()
            weight += strength * (up @ down)


def serve(path: str, heads: int) -> None:
    unet = UNet(load(path), heads)
    adapters: Adapters | None = None
    print(json.dumps({"ready": True, "torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        answer: dict[str, object] = {}
        if command["do"] == "threads":
            torch.set_num_threads(command["count"])
        elif command["do"] == "adapters":
            adapters = Adapters(unet.w, command["rank"])
            sizes = [a.numel() + b.numel() for a, b in adapters.pairs.values()]
            answer = {"layers": len(sizes), "bytes": 4 * sum(sizes)}
        elif command["do"] == "switch" and adapters is not None:
            begin = time.perf_counter()
            adapters.switch(command["strength"])
            answer = {"ms": 1000 * (time.perf_counter() - begin)}
        elif command["do"] == "step":
            side = command["side"]
            x = torch.tensor(command["x"], dtype=torch.float32).reshape(-1, 4, side, side)
            context = torch.tensor(command["context"], dtype=torch.float32)
            begin = time.perf_counter()
            out = unet.forward(x, 500.0, context.reshape(x.shape[0], 77, -1))
            answer = {"ms": 1000 * (time.perf_counter() - begin)}
            if command.get("result"):
                answer["out"] = out.flatten().tolist()
        print(json.dumps(answer), flush=True)


with torch.inference_mode():
    serve(sys.argv[1], int(sys.argv[2]))
