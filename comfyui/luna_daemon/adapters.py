"""
From the patches on a ModelPatcher to the `loras` of a request. What comes from one file is one set
with its strength apart, so that a changed strength sends nothing again. A set is named by the
digest of its factors; that is computed once for the same tensors.
"""

import logging
import weakref
from collections import OrderedDict
from functools import partial

import torch

from .errors import Unsupported
from .low_rank import low_rank, scaled_up
from .tensors import digest, set_digest

# Bytes of one put: a frame holds 512 MiB, and SDXL at rank 128 in float32 has 1.4 GB.
PART_BYTES_MAX = 128 * 2**20
# Digests of sets remembered: people switch between some tens of LoRAs.
SETS_REMEMBERED = 64


class NamedLora:
    """A file the daemon has in its own LoRA folders."""

    def __init__(self, name):
        self.name = name

    def parts(self):
        return [({"name": self.name}, None)]


class AdapterSet:
    """Adapters of one file on the layers of one or more nets: entries (layer, key, adapter, shape,
    is_bypass)."""

    def __init__(self, entries):
        self._entries = entries
        self._parts = None

    def parts(self):
        """[({digest}, function that makes the tensors)], at most PART_BYTES_MAX each."""
        if self._parts is None:
            self._parts = [
                ({"digest": _digest_of(part)}, partial(_factors, part))
                for part in _split(self._entries)
            ]
        return self._parts


def resolve(patches, bypass, shapes, layer_of):
    """The sets with their strengths. `patches` as ModelPatcher has them, `bypass` a list of (key,
    adapter, strength), `shapes` key to shape, `layer_of` key to the daemon's name of the layer.
    Raises Unsupported."""
    groups = OrderedDict()
    for key, entries in patches.items():
        for strength, value, strength_model, offset, function in entries:
            if not _is_adapter(key, value, strength, (strength_model, offset, function)):
                continue
            group = (id(getattr(value, "loaded_keys", None)), strength)
            entry = (layer_of(key), key, value, shapes[key], False)
            groups.setdefault(group, []).append(entry)
    for key, adapter, strength in bypass:
        if strength != 0.0:
            group = (id(getattr(adapter, "loaded_keys", None)), strength)
            entry = (layer_of(key), key, adapter, shapes[key], True)
            groups.setdefault(group, []).append(entry)
    sets = []
    for (_, strength), entries in groups.items():
        fitting = [entry for entry in entries if _fits(entry)]
        # One layer twice in a group (no file to tell them apart): names must be unique.
        for lane in _lanes(fitting):
            sets.append((AdapterSet(lane), float(strength)))
    return sets


def _is_adapter(key, value, strength, rest):
    """True for an adapter to send, False for what changes nothing. Raises Unsupported."""
    strength_model, offset, function = rest
    if offset is not None or function is not None:
        raise Unsupported(f"A patch of a part of {key}")
    if strength_model != 1.0:
        raise Unsupported(f"A multiplied weight (attention multiply or a merge) on {key}")
    if hasattr(value, "weights") and hasattr(value, "calculate_weight"):
        if not key.endswith(".weight"):
            raise Unsupported(f"An adapter on {key}")
        return strength != 0.0
    if isinstance(value, list):
        raise Unsupported(f"A merge of models on {key}")
    if len(value) == 2 and value[0] != "diff":
        kind = {"set": "A replaced weight", "model_as_lora": "A model as LoRA"}.get(value[0], value[0])
        raise Unsupported(f"{kind} on {key}")
    if value[0] is None or strength == 0.0:
        return False
    raise Unsupported(f"A full difference (diff) on {key}")


def _fits(entry):
    """ComfyUI logs an adapter of a wrong shape and leaves it out; so does this."""
    _, key, adapter, shape, is_bypass = entry
    found = low_rank(key, adapter, is_bypass)
    wanted = (shape[0], shape[1:].numel())
    if (found.up.shape[0], found.down.shape[1]) == wanted and found.up.shape[1] == found.down.shape[0]:
        return True
    logging.error(
        "ERROR %s %s: %s and %s do not make a weight of %s",
        adapter.name, key, tuple(found.up.shape), tuple(found.down.shape), tuple(shape),
    )  # fmt: skip
    return False


def _lanes(entries):
    lanes = []
    for entry in entries:
        for lane, layers in lanes:
            if entry[0] not in layers:
                lane.append(entry)
                layers.add(entry[0])
                break
        else:
            lanes.append(([entry], {entry[0]}))
    return [lane for lane, _ in lanes]


def _split(entries):
    parts, size = [[]], 0
    for entry in entries:
        found = low_rank(entry[1], entry[2], entry[4])
        # In float32 at most; the sets then have the same cut whatever the type.
        count = 4 * (found.up.numel() + found.down.numel())
        if parts[-1] and size + count > PART_BYTES_MAX:
            parts.append([])
            size = 0
        parts[-1].append(entry)
        size += count
    return parts


def _factors(entries):
    tensors = {}
    for layer, key, adapter, _, is_bypass in entries:
        found = low_rank(key, adapter, is_bypass)
        tensors[f"{layer}.up"] = scaled_up(found)
        tensors[f"{layer}.down"] = found.down.contiguous()
    return tensors


_digests = OrderedDict()


def _digest_of(entries):
    """Computed once for the same tensors: a LoRA loader that runs again with another strength makes
    new adapters around the tensors it has cached."""
    sources = [
        each
        for entry in entries
        for each in entry[2].weights
        if isinstance(each, torch.Tensor)
    ]
    # By address and version; the references make sure that no address was given to another.
    fingerprint = tuple(
        (entry[0], entry[4], entry[2].name, *map(_mark, entry[2].weights)) for entry in entries
    )
    known = _digests.get(fingerprint)
    if known is not None and all(ref() is each for ref, each in zip(known[1], sources)):
        _digests.move_to_end(fingerprint)
        return known[0]
    found = set_digest({name: digest(tensor) for name, tensor in _factors(entries).items()})
    _digests[fingerprint] = (found, [weakref.ref(each) for each in sources])
    if len(_digests) > SETS_REMEMBERED:
        _digests.popitem(last=False)
    return found


def _mark(each):
    if not isinstance(each, torch.Tensor):
        return each
    # Tensors made in inference mode count no versions; nobody writes into a LoRA's.
    return id(each), 0 if each.is_inference() else each._version
