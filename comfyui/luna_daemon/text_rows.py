"""ComfyUI's token rows, ids mixed with vectors of textual inversion, as the daemon takes them."""

import logging
import numbers

import torch

from .errors import Unsupported

# Stands under a vector; any id but end-of-text, where the encoder reads its pooled output.
PLACEHOLDER = 0


def text_tensors(rows, width, pad):
    """`tokens` [n, 77] and, where there are vectors, `embeddings` [m, width] with their
    `embedding_positions` [m, 2]. A vector of another width is dropped and the row padded at its end,
    with ComfyUI's warning."""
    tokens, vectors, positions = [], [], []
    for row in rows:
        ids, dropped = [], 0
        for each in row:
            if isinstance(each, numbers.Integral):
                ids.append(int(each))
                continue
            block = _vectors(each)
            if block.shape[-1] != width:
                logging.warning(
                    "WARNING: shape mismatch when trying to apply embedding, embedding will be"
                    " ignored %d != %d", block.shape[-1], width,
                )  # fmt: skip
                dropped += block.shape[0]
                continue
            for vector in block:
                positions.append([len(tokens), len(ids)])
                vectors.append(vector)
                ids.append(PLACEHOLDER)
        tokens.append(ids + [pad] * dropped)
    lengths = {len(ids) for ids in tokens}
    if lengths != {77}:
        raise Unsupported(f"Rows of {sorted(lengths)} tokens, not 77")
    found = {"tokens": torch.tensor(tokens, dtype=torch.int64)}
    if vectors:
        found["embeddings"] = torch.stack(vectors)
        found["embedding_positions"] = torch.tensor(positions, dtype=torch.int64)
    return found


def _vectors(each):
    """[count, width] of one entry of a row."""
    if isinstance(each, dict):
        if each.get("type") != "embedding":
            raise Unsupported(f"A token of the type {each.get('type')}")
        each = each["data"]
    return each.reshape(-1, each.shape[-1]).to(device="cpu", dtype=torch.float32)
