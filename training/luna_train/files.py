"""Saving so that a stopped run never leaves half a file, and the one log of all stages."""

import os
import time

import torch

from .config import WORK

LOG = WORK / "training-log.txt"


def save_atomically(path, state):
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(path.suffix + ".new")
    torch.save(state, partial)
    os.replace(partial, path)


def append_log(line: str):
    print(line, flush=True)
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with open(LOG, "a", encoding="utf8") as log:
        log.write(f"{time.strftime('%H:%M:%S')} {line}\n")
