"""
What a workflow has put on one weight, as the daemon takes it (docs/protocol.md, section 5): for each
layer some of the parts down, up (low rank), bias, gain, multiply, a1, a2 (GLoRA), dora_row,
dora_column, dora_factor, diff, set, oft, boft, with the strength apart. `weights` of ComfyUI's adapters are
tuples whose places are theirs; o outputs, i inputs, k kernel side, r rank.
"""

import math

import torch

from .errors import Unsupported

# The daemon's limit (src/lora/limits.ts): more than that costs more than the layer itself.
RANK_MAX = 1024


def parts_of(key, value, shape, is_bypass=False):
    """The parts by name. `value` is an adapter, or one of ComfyUI's tuples. Raises Unsupported for
    what the daemon cannot do, ValueError for an adapter that does not fit the weight."""
    if isinstance(value, tuple):
        return _tuple_parts(key, value, shape)
    name = getattr(value, "name", type(value).__name__)
    make = _FORMATS.get(name)
    if make is None or not key.endswith(".weight") or len(shape) < 2:
        raise Unsupported(f"{_LABELS.get(name, name)} on {key}")
    if is_bypass and name not in _SUMS:
        raise Unsupported(f"A bypass {_LABELS[name]} on {key}")
    return make(key, value.weights, shape, is_bypass)


def _tuple_parts(key, value, shape):
    kind, rest = ("diff", value) if len(value) == 1 else value
    tensor = rest[0]
    if kind not in ("diff", "set"):
        raise Unsupported(f"{'A model as LoRA' if kind == 'model_as_lora' else kind} on {key}")
    if tensor is None:
        return {}
    if len(rest) > 1 and rest[1].get("pad_weight"):
        raise Unsupported(f"A difference that changes the shape of {key}")
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{tuple(tensor.shape)} is not {tuple(shape)}")
    if len(shape) > 1:
        return {kind: _f32(tensor)}
    if kind == "set":
        raise Unsupported(f"A replaced vector on {key}")
    return {"bias" if key.endswith(".bias") else "gain": _f32(tensor)}


def _lora(key, weights, shape, is_bypass):
    up, down, alpha, mid, dora, reshape = weights
    if reshape is not None and not is_bypass:
        raise Unsupported(f"LoRA on {key} changes the weight's shape")
    if mid is not None:
        down = torch.einsum("mdhw,di->mihw", _f32(mid), _f32(down).flatten(1))
    pair = _pair(key, up.flatten(1), down.flatten(1), _scale(alpha, down.shape[0]), shape)
    return {**pair, **_magnitude(dora, shape, is_bypass)}


def _loha(key, weights, shape, is_bypass):
    """(a1 b1) * (a2 b2) elementwise is [rows of a1 x a2] [columns of b1 x b2]: rank r1 * r2."""
    w1a, w1b, alpha, w2a, w2b, t1, t2, dora = weights
    a1, b1 = _side(w1a, w1b, t1)
    a2, b2 = _side(w2a, w2b, t2)
    up = torch.einsum("oi,oj->oij", a1, a2).flatten(1)
    down = torch.einsum("in,jn->ijn", b1, b2).flatten(0, 1)
    pair = _pair(key, up, down, _scale(alpha, w1b.shape[0]), shape)
    return {**pair, **_magnitude(dora, shape, is_bypass)}


def _lokr(key, weights, shape, is_bypass):
    """kron(a1 b1, a2 b2) = kron(a1, a2) kron(b1, b2): rank r1 * r2."""
    w1, w2, alpha, w1a, w1b, w2a, w2b, t2, dora = weights
    magnitude = _magnitude(dora, shape, is_bypass)
    if w1 is not None and w2 is not None:
        # ComfyUI's rule: without a factored side alpha says nothing.
        left, right = _f32(w1), _f32(w2)
        if right.ndim == 4:
            left = left[:, :, None, None]
        return {"diff": torch.kron(left.contiguous(), right).reshape(shape), **magnitude}
    # The rank of the second factor where it is factored, else of the first.
    rank = w2b.shape[0] if w2 is None else w1b.shape[0]
    a1, b1 = _full_side(w1) if w1 is not None else _side(w1a, w1b, None)
    a2, b2 = _full_side(w2) if w2 is not None else _side(w2a, w2b, t2)
    pair = _pair(key, torch.kron(a1, a2), torch.kron(b1, b2), _scale(alpha, rank), shape)
    return {**pair, **magnitude}


def _glora(key, weights, shape, is_bypass):
    """W a1 a2 + b1 b2. Files of the first version have the two of each pair the other way round."""
    a1, a2, b1, b2 = (_f32(each).flatten(1) for each in weights[:4])
    alpha, dora = weights[4:]
    v = [each.shape for each in weights[:4]]
    # ComfyUI's rule; where both readings fit, a square weight means the first version.
    is_first = v[3][1] == v[2][0] == v[0][0] == v[1][1]
    is_second = v[3][0] == v[2][1] == v[0][1] == v[1][0]
    is_square = v[1][0] == shape[0] == shape[1]
    rank = v[1][0]
    if is_first and (not is_second or is_square):
        rank, a1, a2, b1, b2 = v[0][0], a2, a1, b2, b1
    scale = _scale(alpha, rank)
    if a1.shape[0] != shape[1]:
        raise ValueError(f"{tuple(a1.shape)} does not fit {tuple(shape)}")
    return {
        **_pair(key, b1, b2, scale, shape),
        "a1": (a1 * scale).contiguous(),
        "a2": a2.contiguous(),
        **_magnitude(dora, shape, is_bypass),
    }


def _oft(key, weights, shape, is_bypass):
    """Orthogonal blocks; ComfyUI leaves `rescale` of OFT out, and its limit on the blocks' skew part
    is applied here."""
    blocks, _, alpha, dora = weights
    return _orthogonal("oft", blocks, alpha or 0, _magnitude(dora, shape, is_bypass))


def _boft(key, weights, shape, is_bypass):
    blocks, rescale, alpha, dora = weights
    if alpha is None:
        # ComfyUI compares it with 0, fails and leaves the weight as it is.
        raise ValueError("BOFT without alpha")
    if rescale is not None:
        raise Unsupported(f"BOFT with rescale on {key}")
    stages, _, size, _ = blocks.shape
    if shape[0] % (2**stages * (size // 2)):
        raise ValueError(f"{stages} stages of blocks of {size} do not fit {tuple(shape)}")
    return _orthogonal("boft", blocks, alpha, _magnitude(dora, shape, is_bypass))


def _limited(blocks, limit):
    skew = blocks - blocks.transpose(-1, -2)
    norm = torch.norm(skew).item() + 1e-8
    return (blocks * (limit / norm) if 0 < limit < norm else blocks).contiguous()


def _magnitude(dora, shape, is_bypass):
    """DoRA's norms, of rows where there is one for each output; a bypass hook leaves them out."""
    if dora is None or is_bypass:
        return {}
    axis = "dora_row" if dora.shape[0] == shape[0] else "dora_column"
    return {axis: _f32(dora).reshape(-1)}


def _orthogonal(name, blocks, limit, magnitude):
    """ComfyUI multiplies DoRA's delta by the limit too: without one only the norms are left."""
    if magnitude and limit == 0:
        return magnitude
    factor = {"dora_factor": torch.tensor([float(limit)])} if magnitude else {}
    return {name: _limited(_f32(blocks), limit), **magnitude, **factor}


def _pair(key, up, down, scale, shape):
    wanted = (shape[0], shape[1:].numel())
    if (up.shape[0], down.shape[1]) != wanted or up.shape[1] != down.shape[0]:
        raise ValueError(f"{tuple(up.shape)} {tuple(down.shape)} do not make {tuple(shape)}")
    if up.shape[1] > RANK_MAX:
        raise Unsupported(f"An adapter of rank {up.shape[1]} on {key}, limit {RANK_MAX}")
    return {"up": _scaled(up.transpose(0, 1), scale), "down": down.contiguous()}


def _scaled(tensor, scale):
    """Kept in its type where the product is exact: a half of a normal number is."""
    if scale == 1.0:
        return tensor.contiguous()
    is_power_of_two = scale > 0 and math.frexp(scale)[0] == 0.5
    if tensor.dtype != torch.float32 and not is_power_of_two:
        tensor = tensor.float()
    return (tensor * scale).contiguous()


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


def _scale(alpha, rank):
    return alpha / rank if alpha is not None else 1.0


def _f32(tensor):
    return tensor.to(device="cpu", dtype=torch.float32)


_FORMATS = {
    "lora": _lora,
    "loha": _loha,
    "lokr": _lokr,
    "glora": _glora,
    "oft": _oft,
    "boft": _boft,
}
_LABELS = {
    "lora": "LoRA",
    "loha": "LoHa",
    "lokr": "LoKr",
    "glora": "GLoRA",
    "oft": "OFT",
    "boft": "BOFT",
}
# Those whose bypass hook adds to the output what their change of the weight would.
_SUMS = ("lora", "loha", "lokr")
