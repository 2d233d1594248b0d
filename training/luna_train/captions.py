"""What the text encoder reads in training: names, names in a sentence, keywords, nothing, and strange words.

Only some 2,000 of CLIP's 49,408 tokens occur. They are trained as a compact table; row 0 stands for all the
others and is met as a "strange word" now and then, so that a word the model does not know does little harm.
"""

import random

import torch

from .config import VOCABULARY
from .tokenizer import BEGIN, END, encode, padded

SENTENCES = (
    "a {}", "an {}", "the {}", "a picture of a {}", "picture of {}", "an emoji of a {}", "{} emoji", "emoji of {}",
    "an icon of a {}", "{} icon", "flat icon of a {}", "a drawing of a {}", "photo of a {}", "a photo of a {}",
    "an image of a {}", "{} on a white background", "{}, flat, simple", "{}, white background", "one {}", "{} ,",
    "{} .", "draw a {}", "cute {}", "an illustration of a {}", "a painting of a {}", "a small {}", "my {}",
)  # fmt: skip
STRANGE = -1


class Captions:
    """Token rows for picture numbers, in the compact numbering."""

    def __init__(self, entries):
        self.entries = entries
        texts = [text for entry in entries for text in (entry["name"], *entry["keywords"])]
        used = {BEGIN, END} | {token for text in (*texts, *SENTENCES, ", ") for token in encode(text)}
        self.used = sorted(used)
        self.compact = {token: index + 1 for index, token in enumerate(self.used)}
        self.compact[STRANGE] = 0

    @property
    def size(self) -> int:
        return len(self.used) + 1

    def row(self, ids) -> list:
        return [self.compact.get(token, 0) for token in padded(ids)]

    def named(self, numbers) -> torch.Tensor:
        """The plain names, (B, 77)."""
        return torch.tensor([self.row(encode(self.entries[number]["name"])) for number in numbers])

    def empty(self, count: int) -> torch.Tensor:
        return torch.tensor([self.row([])] * count)

    def drawn(self, numbers, chance: random.Random) -> torch.Tensor:
        """A random caption for each picture, (B, 77)."""
        return torch.tensor([self.row(self.draw(self.entries[number], chance)) for number in numbers])

    def draw(self, entry, chance: random.Random) -> list:
        kind = chance.random()
        if kind < 0.10:
            return []
        text = entry["name"]
        words = entry["keywords"]
        if kind < 0.25:
            text = chance.choice(SENTENCES).format(text)
        elif kind < 0.38 and words:
            parts = [text, *chance.sample(words, min(len(words), chance.randint(1, 2)))]
            chance.shuffle(parts)
            text = chance.choice((" ", ", ")).join(parts)
        elif kind < 0.50 and words:
            text = " ".join(chance.sample(words, min(len(words), chance.randint(1, 2))))
        ids = encode(text)
        if chance.random() < 0.08:
            for _ in range(chance.randint(1, 4)):
                ids.insert(chance.randint(0, len(ids)), STRANGE)
        return ids

    def full_table(self, compact: torch.Tensor) -> torch.Tensor:
        """(size, C) trained rows -> (49408, C) rows of the checkpoint."""
        table = compact[0].repeat(VOCABULARY, 1)
        table[self.used] = compact[1:]
        return table
