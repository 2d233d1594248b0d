"""
What repeats from step to step travels once and is then named by its digest. ComfyUI makes new
tensors of equal content each step (it joins the conds again), so content is compared, not identity:
that costs some 0.05 ms where hashing costs 1.
"""

import hashlib
from collections import OrderedDict

import torch

from . import frame

# Below this a tensor travels inside each request: naming it saves nothing.
SHARED_BYTES_MIN = 4096
# Tensors remembered for one slot: regional prompts and hooks take turns within a step.
TENSORS_PER_SLOT = 16
# Digests remembered of one daemon, some 100 bytes each.
DIGESTS_MAX = 10_000
# Values that tell tensors apart without keeping one that never comes again.
SAMPLE_VALUES = 64


def digest(tensor):
    """`sha256:` and SHA-256 over "F32[2,3]" and the bytes (docs/protocol.md, section 5)."""
    tensor = frame.wire(tensor)
    shape = ",".join(map(str, tensor.shape))
    hasher = hashlib.sha256(f"{frame.NAMES[tensor.dtype]}[{shape}]".encode())
    hasher.update(frame.raw_bytes(tensor))
    return f"sha256:{hasher.hexdigest()}"


def set_digest(digests):
    """The digest of LoRA factors: over the lines "<name> <digest>", sorted by name."""
    lines = "".join(f"{name} {each}\n" for name, each in sorted(digests.items()))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


class Known:
    """The digests one daemon process has been given, as far as this session knows."""

    def __init__(self):
        self._era = None
        self._digests = set()

    def begin(self, era):
        """What another process was given counts for nothing."""
        if era != self._era or len(self._digests) > DIGESTS_MAX:
            self._digests.clear()
            self._era = era

    def add(self, each):
        """True where it was new."""
        is_new = each not in self._digests
        self._digests.add(each)
        return is_new

    def forget(self, digests):
        self._digests.difference_update(digests)


class SlotMemory:
    """The tensors lately seen in each slot, and their digests."""

    def __init__(self):
        self._slots = {}

    def digest_of(self, slot, tensor):
        """Of a tensor that is likely to come again (context, y): hashed when first seen."""
        if tensor.nbytes < SHARED_BYTES_MIN:
            return None
        seen = self._slots.setdefault(slot, OrderedDict())
        for each, kept in seen.items():
            if _equal(kept, tensor):
                seen.move_to_end(each)
                return each
        found = digest(tensor)
        self._keep(seen, found, tensor)
        return found

    def digest_if_repeated(self, slot, tensor):
        """Of a tensor that may be another each step (control): hashed when it comes again. A
        ControlNet's residuals always differ, a T2I-Adapter's are the same in all steps."""
        if tensor.nbytes < SHARED_BYTES_MIN:
            return None
        seen = self._slots.setdefault(slot, OrderedDict())
        sample = _sample(tensor)
        if sample not in seen:
            self._keep(seen, sample, None)
            return None
        seen.move_to_end(sample)
        kept = seen[sample]
        if kept is None or not _equal(kept[1], tensor):
            kept = seen[sample] = (digest(tensor), tensor)
        return kept[0]

    @staticmethod
    def _keep(seen, key, value):
        seen[key] = value
        if len(seen) > TENSORS_PER_SLOT:
            seen.popitem(last=False)

    def clear(self):
        self._slots.clear()


def _equal(one, other):
    return (
        one.shape == other.shape
        and one.dtype == other.dtype
        and one.device == other.device
        and torch.equal(one, other)
    )


def _sample(tensor):
    flat = tensor.detach().reshape(-1)
    values = flat[:: max(1, flat.numel() // SAMPLE_VALUES)].float().cpu().numpy().tobytes()
    return (tuple(tensor.shape), tensor.dtype, values)
