"""
Adapters as what the daemon takes: W' = W + strength * scale * up @ down, exactly. `weights` of
ComfyUI's adapters are tuples whose places are theirs; shapes: o outputs, i inputs, k kernel side,
r rank. Everything else is said to be unsupported, never skipped.
"""

import math
from dataclasses import dataclass

import torch

from .errors import Unsupported

# The daemon's limit (src/lora/limits.ts): more than that costs more than the layer itself.
RANK_MAX = 1024


@dataclass(frozen=True)
class LowRank:
    up: torch.Tensor  # [o, r]
    down: torch.Tensor  # [r, i * k * k]
    scale: float


def low_rank(key, adapter, is_bypass=False):
    """The factors of one of ComfyUI's weight adapters; a bypass hook ignores DoRA and reshape."""
    name = getattr(adapter, "name", type(adapter).__name__)
    make = _FORMATS.get(name)
    if make is None:
        raise Unsupported(f"{_LABELS.get(name, name)} on {key} needs a dense change of the weight")
    found = make(key, adapter.weights, is_bypass)
    if found.up.shape[1] > RANK_MAX:
        raise Unsupported(f"{_LABELS[name]} on {key} has rank {found.up.shape[1]}, limit {RANK_MAX}")
    return found


def _refuse_dora(key, dora, is_bypass):
    if dora is not None and not is_bypass:
        raise Unsupported(f"DoRA on {key} scales rows or columns of the weight")


def _lora(key, weights, is_bypass):
    up, down, alpha, mid, dora, reshape = weights
    _refuse_dora(key, dora, is_bypass)
    if reshape is not None and not is_bypass:
        raise Unsupported(f"LoRA on {key} changes the weight's shape")
    scale = alpha / down.shape[0] if alpha is not None else 1.0
    if mid is not None:
        down = torch.einsum("mdhw,di->mihw", _f32(mid), _f32(down).flatten(1))
    return LowRank(up.flatten(1), down.flatten(1), scale)


def _loha(key, weights, is_bypass):
    """(a1 b1) * (a2 b2) elementwise is [rows of a1 x a2] [columns of b1 x b2]: rank r1 * r2."""
    w1a, w1b, alpha, w2a, w2b, t1, t2, dora = weights
    _refuse_dora(key, dora, is_bypass)
    scale = alpha / w1b.shape[0] if alpha is not None else 1.0
    a1, b1 = _side(w1a, w1b, t1)
    a2, b2 = _side(w2a, w2b, t2)
    up = torch.einsum("oi,oj->oij", a1, a2).flatten(1)
    down = torch.einsum("in,jn->ijn", b1, b2).flatten(0, 1)
    return LowRank(up, down, scale)


def _lokr(key, weights, is_bypass):
    """kron(a1 b1, a2 b2) = kron(a1, a2) kron(b1, b2): rank r1 * r2."""
    w1, w2, alpha, w1a, w1b, w2a, w2b, t2, dora = weights
    _refuse_dora(key, dora, is_bypass)
    if w1 is not None and w2 is not None:
        raise Unsupported(f"LoKr with two full factors on {key} is a dense change of the weight")
    # ComfyUI's rule: the rank of the second factor where it is factored, else of the first.
    rank = w2b.shape[0] if w2 is None else w1b.shape[0]
    a1, b1 = _full_side(w1) if w1 is not None else _side(w1a, w1b, None)
    a2, b2 = _full_side(w2) if w2 is not None else _side(w2a, w2b, t2)
    scale = alpha / rank if alpha is not None else 1.0
    return LowRank(torch.kron(a1, a2), torch.kron(b1, b2), scale)


def _side(a, b, tucker):
    """One factor as a product of two matrices; with a Tucker core [r, r, k, k] a is [r, o]."""
    if tucker is None:
        return _f32(a).contiguous(), _f32(b).flatten(1).contiguous()
    core = torch.einsum("ijkl,jn->inkl", _f32(tucker), _f32(b))
    return _f32(a).transpose(0, 1).contiguous(), core.flatten(1).contiguous()


def _full_side(w):
    flat = _f32(w).flatten(1).contiguous()
    outputs, inputs = flat.shape
    if outputs <= inputs:
        return torch.eye(outputs), flat
    return flat, torch.eye(inputs)


def _f32(tensor):
    return tensor.to(device="cpu", dtype=torch.float32)


_FORMATS = {"lora": _lora, "loha": _loha, "lokr": _lokr}
_LABELS = {"lora": "LoRA", "loha": "LoHa", "lokr": "LoKr", "glora": "GLoRA", "oft": "OFT", "boft": "BOFT"}  # fmt: skip


def scaled_up(found):
    """up^T with the scale folded in, [r, o]. Kept in its type where the product is exact."""
    up = found.up.transpose(0, 1)
    if found.scale == 1.0:
        return up.contiguous()
    is_power_of_two = found.scale > 0 and math.frexp(found.scale)[0] == 0.5
    # A half of a normal number is exact, of a subnormal one it is not.
    if up.dtype != torch.float32 and not is_power_of_two:
        up = up.float()
    return (up * found.scale).contiguous()
