"""
A checkpoint's state dict without its weights: every tensor on the meta device, from the header
alone. Small ones are real, because they decide what the model is (v_pred, ztsnr, edm_*, the
statistics of one norm in SD2).
"""

import json
import os

import torch
from safetensors import safe_open

# Headers of full checkpoints have about 0.3 MB.
HEADER_BYTES_MAX = 64 * 2**20
# Root values such as edm_vpred.sigma_max, a norm of 320: tens of tensors, some 100 kB in all.
REAL_BYTES_MAX = 64 * 2**10
# SD2 tells its prediction by the spread of this one norm.
REAL_SUFFIXES = ("output_blocks.11.1.transformer_blocks.0.norm1.bias",)

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip


def read_header(path):
    """Name to {dtype, shape, data_offsets}, or None where the file is no safetensors file."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(HEADER_BYTES_MAX, os.path.getsize(path)):
            return None
        text = file.read(length)
    try:
        header = json.loads(text)
    except ValueError:
        return None
    header.pop("__metadata__", None)
    return header


def meta_state_dict(path):
    """The state dict as `comfy.utils.load_torch_file` would give it, weightless; or None for a
    file that is not safetensors or holds types nobody here knows."""
    header = read_header(path)
    if header is None or any(entry["dtype"] not in _DTYPES for entry in header.values()):
        return None
    real = {name for name, entry in header.items() if _is_real(name, entry)}
    tensors = {
        name: torch.empty(entry["shape"], dtype=_DTYPES[entry["dtype"]], device="meta")
        for name, entry in header.items()
        if name not in real
    }
    if real:
        with safe_open(path, "pt") as file:
            tensors.update((name, file.get_tensor(name)) for name in sorted(real))
    # In the order of the file: detection counts on nothing else, but neither changes it.
    return {name: tensors[name] for name in header}


def _is_real(name, entry):
    begin, end = entry["data_offsets"]
    is_root = "." not in name or name.startswith("edm_vpred.")
    return end - begin <= REAL_BYTES_MAX and (is_root or name.endswith(REAL_SUFFIXES))
