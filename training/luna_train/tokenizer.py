"""CLIP's byte-pair encoding, from the vocabulary file that the open_clip_torch package carries."""

import gzip
import importlib.util
from functools import cache
from pathlib import Path

import regex

from .config import TOKENS

BEGIN, END = 49406, 49407
WORD = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE)


def vocabulary_file() -> Path:
    package = importlib.util.find_spec("open_clip")
    return Path(package.origin).parent / "bpe_simple_vocab_16e6.txt.gz"


@cache
def byte_letters() -> dict:
    """A printable letter for every byte, in CLIP's order (which is also the order of the first 256 ids)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    table = {byte: chr(byte) for byte in plain}
    table.update({byte: chr(256 + index) for index, byte in enumerate(others)})
    return table


@cache
def tables():
    """(symbol -> id, pair -> rank)"""
    with gzip.open(vocabulary_file(), "rt", encoding="utf8") as file:
        merges = [tuple(line.split()) for line in file.read().split("\n")[1 : 49152 - 256 - 2 + 1]]
    letters = list(byte_letters().values())
    symbols = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges]
    ids = {symbol: index for index, symbol in enumerate(symbols)}
    return ids, {pair: rank for rank, pair in enumerate(merges)}


@cache
def encode_word(word: str) -> tuple:
    """Ids of one word; merges the pair of lowest rank until none is left."""
    ids, ranks = tables()
    parts = [byte_letters()[byte] for byte in word.encode("utf8")]
    parts[-1] += "</w>"
    while len(parts) > 1:
        pairs = list(zip(parts, parts[1:]))
        best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        merged, index = [], 0
        while index < len(parts):
            if tuple(parts[index : index + 2]) == best:
                merged.append("".join(best))
                index += 2
            else:
                merged.append(parts[index])
                index += 1
        parts = merged
    return tuple(ids[part] for part in parts)


def encode(text: str) -> list:
    return [token for word in WORD.findall(text.lower()) for token in encode_word(word)]


def padded(ids) -> list:
    """[BEGIN] ids [END], filled with END to 77."""
    row = [BEGIN, *ids[: TOKENS - 2], END]
    return row + [END] * (TOKENS - len(row))
