"""LoRAs that a prompt names: `<lora:name>`, `<lora:name:w>`, `<lora:name:w:clip_w>`."""

import math
import re

_TAG = re.compile(r"<lora:([^:<>]+)(?::([^:<>]*))?(?::([^:<>]*))?>")


def extract_lora_tags(prompt):
    """(prompt without them, [(name, weight, clip weight)]). A missing weight is 1, a missing one
    for the text encoder is the model's. What is no number is no tag and stays."""
    loras = []

    def take(match):
        name, model, clip = match.groups()
        weight = _number("1" if model is None else model)
        clip_weight = weight if clip is None else _number(clip)
        if weight is None or clip_weight is None:
            return match.group()
        loras.append((name.strip(), weight, clip_weight))
        return ""

    return _TAG.sub(take, prompt), loras


def _number(text):
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def short_name(name):
    """ "styles/blueprint.safetensors" to "blueprint": how people and log lines name a LoRA."""
    return name.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".safetensors")


def find_lora(name, files):
    """The file that a name means: itself, with the extension, or a part that people write in tags."""
    wanted = name.replace("\\", "/")
    for file in files:
        if file.replace("\\", "/") in (wanted, f"{wanted}.safetensors"):
            return file
    for file in files:
        if short_name(file) == short_name(wanted):
            return file
    return None
