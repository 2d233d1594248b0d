"""
A frame is a safetensors file: 8 bytes of header length, JSON with dtype, shape and place of each
tensor, the bytes. The message is JSON under `__metadata__.luna`. Nothing in it can run; tensors
are views of the frame's bytes in both directions.
"""

import json

import torch

DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
# The data of a frame begins at a multiple of this, so that views are aligned for any type.
ALIGNMENT = 64


def wire(tensor):
    """The tensor as it can be sent: on the CPU, contiguous, in a type of the wire."""
    tensor = tensor.detach()
    if tensor.dtype not in NAMES:
        tensor = tensor.to(torch.float32 if tensor.is_floating_point() else torch.int64)
    return tensor.to("cpu").contiguous()


def raw_bytes(tensor):
    """The bytes of a wire tensor, not copied."""
    if tensor.numel() == 0:
        return memoryview(b"")
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())


def encode(message, tensors=None):
    """The frame as a list of buffers, the header first."""
    # Wide elements first: then every tensor is aligned to its own size.
    ready = sorted(
        ((name, wire(tensor)) for name, tensor in (tensors or {}).items()),
        key=lambda each: -each[1].element_size(),
    )
    header = {"__metadata__": {"luna": json.dumps(message, separators=(",", ":"))}}
    parts, offset = [], 0
    for name, tensor in ready:
        data = raw_bytes(tensor)
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + data.nbytes],
        }
        offset += data.nbytes
        parts.append(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    return [len(text).to_bytes(8, "little") + text, *parts]


def decode(frame):
    """The message, and the tensors as writable views of `frame`, a bytearray."""
    length = int.from_bytes(frame[:8], "little")
    if length > len(frame) - 8:
        raise ValueError(f"a frame of {len(frame)} bytes claims a header of {length}")
    header = json.loads(bytes(frame[8 : 8 + length]))
    message = json.loads(header.pop("__metadata__")["luna"])
    begin = 8 + length
    return message, {name: _view(frame, begin, entry) for name, entry in header.items()}


def _view(frame, begin, entry):
    dtype = DTYPES[entry["dtype"]]
    first, last = entry["data_offsets"]
    count = (last - first) // dtype.itemsize
    if count == 0:
        return torch.empty(entry["shape"], dtype=dtype)
    flat = torch.frombuffer(frame, dtype=dtype, count=count, offset=begin + first)
    return flat.reshape(entry["shape"])
