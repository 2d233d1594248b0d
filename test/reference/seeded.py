"""Numbers both sides of a reference test can compute; the formula is in test/support/seeded.ts."""
import math

import numpy
import torch


def fnv1a(text):
    value = 0x811C9DC5
    for byte in text.encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value


def values(name, shape, scale=1.0, offset=0.0):
    count = math.prod(shape)
    with numpy.errstate(over="ignore"):
        bits = numpy.arange(count, dtype=numpy.uint32) * numpy.uint32(2654435761)
        bits += numpy.uint32(fnv1a(name))
        bits = (bits ^ (bits >> numpy.uint32(16))) * numpy.uint32(0x85EBCA6B)
        bits = (bits ^ (bits >> numpy.uint32(13))) * numpy.uint32(0xC2B2AE35)
        bits ^= bits >> numpy.uint32(16)
    numbers = (bits.astype(numpy.float64) / 2**31 - 1) * scale + offset
    return torch.from_numpy(numbers.astype(numpy.float32)).reshape(shape)


def weight(name, shape):
    if len(shape) > 1:
        return values(name, shape, math.sqrt(3 * shape[0] / math.prod(shape)))
    return values(name, shape, 0.1, 1.0 if name.endswith(".weight") else 0.0)
