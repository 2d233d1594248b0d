"""
From the patches on a ModelPatcher to the `loras` of a request. What comes from one file is one set
with its strength apart, so that a changed strength sends nothing again. A set is named by the
digest of its parts, which is computed once for the same tensors. Sets keep the order in which they
were put on: DoRA, GLoRA, OFT and multiplied weights depend on what is there before them.
"""

import graphlib
import logging
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial

import torch

from .errors import Unsupported
from .layer_parts import parts_of
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


@dataclass(frozen=True)
class Entry:
    """One change of one weight."""

    key: str
    # The daemon's name of the layer, and the weight's shape here.
    layer: str
    shape: torch.Size
    # An adapter, or one of ComfyUI's tuples; None where the weight is only multiplied.
    value: object = None
    multiply: float = 1.0
    is_bypass: bool = False
    # Of a vector that is not simply added to: the whole difference.
    vector: torch.Tensor | None = None

    def tensors(self):
        """The parts under the daemon's names. Raises Unsupported, or ValueError for a misfit."""
        parts = {}
        if self.multiply != 1.0:
            parts["multiply"] = torch.tensor([self.multiply])
        if self.vector is not None:
            parts["bias" if self.key.endswith(".bias") else "gain"] = self.vector
        elif self.value is not None:
            parts.update(parts_of(self.key, self.value, self.shape, self.is_bypass))
        return {f"{self.layer}.{name}": each for name, each in parts.items()}

    def sources(self):
        """The tensors it is made of."""
        weights = getattr(self.value, "weights", None)
        if weights is None:
            weights = (
                self.value[-1] if self.value and isinstance(self.value[-1], tuple) else self.value
            )
        return [each for each in (weights or ()) if isinstance(each, torch.Tensor)]

    def mark(self):
        """Equal for what makes equal parts, as long as `sources` are the same objects."""
        weights = getattr(self.value, "weights", self.value)
        kind = getattr(self.value, "name", None)
        vector = None if self.vector is None else self.vector.numpy().tobytes()
        return self.layer, self.multiply, self.is_bypass, kind, vector, _marks(weights)


def _marks(value):
    if isinstance(value, torch.Tensor):
        # Tensors made in inference mode count no versions; nobody writes into a LoRA's.
        return id(value), 0 if value.is_inference() else value._version
    return tuple(map(_marks, value)) if isinstance(value, (tuple, list)) else value


class AdapterSet:
    """What one file changes on the layers of a net."""

    def __init__(self, entries):
        self._entries = entries
        self._parts = None

    def parts(self):
        """[({digest}, function that makes the tensors)], at most PART_BYTES_MAX each."""
        if self._parts is None:
            self._parts = [
                ({"digest": _digest_of(part)}, partial(_tensors, part))
                for part in _split(self._entries)
            ]
        return self._parts


@dataclass(frozen=True)
class Net:
    """What `resolve` must know of a net: shapes by key, the daemon's name of a key's layer, and a
    way to read one weight's values (of vectors, where a multiplied one has to be known)."""

    shapes: dict
    layer_of: object
    read: object


def resolve(patches, bypass, net):
    """The sets with their strengths. `patches` as ModelPatcher has them, `bypass` a list of (key,
    adapter, strength). Raises Unsupported."""
    groups, order = {}, graphlib.TopologicalSorter()
    for key, entries in patches.items():
        before, seen = None, {}
        for source, strength, entry in _entries_of(key, entries, net):
            number = seen[source, strength] = seen.get((source, strength), 0) + 1
            group = (source, strength, number)
            groups.setdefault(group, []).append(entry)
            order.add(group, *([before] if before else []))
            before = group
    for key, adapter, strength in bypass:
        if strength != 0.0:
            entry = Entry(key, net.layer_of(key), net.shapes[key], adapter, is_bypass=True)
            group = (("bypass", _source(adapter)), strength, 1)
            groups.setdefault(group, []).append(entry)
    found = [
        (AdapterSet(fitting), float(group[1]))
        for group in _sorted(groups, order)
        if (fitting := [entry for entry in groups[group] if _fits(entry)])
    ]
    return found


def _sorted(groups, order):
    try:
        known = [group for group in order.static_order() if group in groups]
    except graphlib.CycleError:
        # Two files of one strength that cannot be told apart, in different orders.
        return list(groups)
    return known + [group for group in groups if group not in set(known)]


def _source(value):
    """All adapters of one file share the set of the keys that were read from it."""
    return id(getattr(value, "loaded_keys", None))


def _entries_of(key, entries, net):
    """(source, strength, Entry) of each patch that changes something."""
    shape, layer = net.shapes[key], net.layer_of(key)
    for _, value, _, offset, function in entries:
        if isinstance(value, list):
            raise Unsupported(f"A merge of models on {key}")
        if offset is not None or function is not None:
            raise Unsupported(f"A patch of a part of {key}")
    is_vector = len(shape) < 2
    if is_vector and any(each[2] != 1.0 or _kind(each[1]) == "set" for each in entries):
        vector = _folded(key, entries, net.read(key).float())
        yield "vector", 1.0, Entry(key, layer, shape, vector=vector)
        return
    for strength, value, multiply, _, _ in entries:
        has_value = _kind(value) == "set" or (strength != 0.0 and _kind(value) != "none")
        entry = Entry(key, layer, shape, value if has_value else None, float(multiply))
        if has_value:
            yield _source(value), 1.0 if _kind(value) == "set" else strength, entry
        elif multiply != 1.0:
            yield "multiply", 1.0, entry


def _kind(value):
    if isinstance(value, tuple):
        if len(value) == 1:
            return "none" if value[0] is None else "diff"
        return value[0]
    return "adapter"


def _folded(key, entries, base):
    """The difference that all patches together make to a vector."""
    now = base.clone()
    for strength, value, multiply, _, _ in entries:
        now *= multiply
        kind = _kind(value)
        if kind == "set":
            now = value[1][0].float().clone()
        elif kind == "diff":
            now += strength * (value[0] if len(value) == 1 else value[1][0]).float()
        elif kind != "none":
            raise Unsupported(f"{kind} on the vector {key}")
    return now - base


def _fits(entry):
    """ComfyUI logs an adapter of a wrong shape and leaves it out; so does this."""
    try:
        return bool(entry.tensors())
    except ValueError as error:
        logging.error("ERROR %s %s", entry.key, error)
        return False


def _split(entries):
    parts, size = [[]], 0
    for entry in entries:
        # In float32 at most; the sets then have the same cut whatever the type.
        count = 4 * sum(each.numel() for each in entry.tensors().values())
        if parts[-1] and size + count > PART_BYTES_MAX:
            parts.append([])
            size = 0
        parts[-1].append(entry)
        size += count
    return parts


def _tensors(entries):
    return {name: each for entry in entries for name, each in entry.tensors().items()}


_digests = OrderedDict()


def _digest_of(entries):
    """Computed once for the same tensors: a LoRA loader that runs again with another strength makes
    new adapters around the tensors it has cached."""
    sources = [each for entry in entries for each in entry.sources()]
    # By address and version; the references make sure that no address was given to another.
    fingerprint = tuple(entry.mark() for entry in entries)
    known = _digests.get(fingerprint)
    if known is not None and all(ref() is each for ref, each in zip(known[1], sources)):
        _digests.move_to_end(fingerprint)
        return known[0]
    found = set_digest({name: digest(tensor) for name, tensor in _tensors(entries).items()})
    _digests[fingerprint] = (found, [weakref.ref(each) for each in sources])
    if len(_digests) > SETS_REMEMBERED:
        _digests.popitem(last=False)
    return found
