"""Write a .safetensors file whose data begin at a multiple of 64 bytes, so that it can be mapped and used in place."""

import json
import os
import struct

import torch

ALIGNMENT = 64
DTYPES = {torch.float16: "F16", torch.float32: "F32"}


def write_safetensors(path, tensors: dict, metadata: dict):
    """Wide element types first, so that every tensor is aligned to its element size without gaps."""
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, offset = {"__metadata__": metadata}, 0
    for name in names:
        tensor = tensors[name]
        size = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf8")
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".new")
    with open(partial, "wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for name in names:
            file.write(tensors[name].contiguous().numpy().tobytes())
    os.replace(partial, path)
