"""Data: fetch the packages, choose the names, draw the pictures and their styled copies.

Writes to WORK/data: flat.npy (all, 128, 128, 3), <style>.npy (chosen, 128, 128, 3) and names.json, whose
entries are {"name", "keywords", "row"}: `row` is the picture's row in flat.npy.
"""

import io
import json
import re
import shutil
import subprocess

import numpy as np
from PIL import Image

from . import styles
from .config import HERE, PICTURE, WORK

DATA = WORK / "data"
GROUPS = ("Animals & Nature", "Food & Drink", "Travel & Places", "Activities", "Objects")
SKIN_TONE = re.compile(r"-(light|medium-light|medium|medium-dark|dark)(-|$)")
# Pictures that differ in a hand's angle or a letter only: nothing a small net should spend its size on.
LEFT_OUT = re.compile(r"o-clock|-thirty$|^(one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)-")
# Distinct pictures from the other groups.
ADDED = """alien alien-monster angry-face-with-horns beating-heart black-heart blue-heart bomb broken-heart brown-heart
cat-with-tears-of-joy clown-face collision crying-cat dashing-away footprints ghost goblin green-heart
grinning-face grinning-cat heart-with-arrow hear-no-evil-monkey hundred-points kissing-cat love-letter moai ogre
orange-heart pile-of-poo pouting-cat purple-heart red-heart robot see-no-evil-monkey skull skull-and-crossbones
smiling-face-with-sunglasses smiling-cat-with-heart-eyes speak-no-evil-monkey sweat-droplets two-hearts
weary-cat white-heart yellow-heart zzz brain anatomical-heart eyes tooth bone mechanical-arm
recycling-symbol radioactive biohazard yin-yang chequered-flag pirate-flag rainbow-flag
triangular-flag crossed-flags warning no-entry stop-sign trident-emblem musical-note musical-notes""".split()
RENAMED = {"piata": "pinata"}
SUPERSAMPLE = 4


def fetch_packages():
    """npm ci in a folder of its own; nothing is added to the repository."""
    folder = WORK / "npm"
    if (folder / "node_modules" / "unicode-emoji-json").exists():
        return folder / "node_modules"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, folder / name)
    subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder, check=True)
    return folder / "node_modules"


def read_json(path):
    return json.loads(path.read_text("utf8"))


def draw(icons: dict, key: str, size: int) -> Image.Image:
    """One drawing on white, (size, size) RGB."""
    import cairosvg

    icon = icons["icons"][key]
    width, height = icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}" color="#000">{icon["body"]}</svg>'
    )
    png = cairosvg.svg2png(svg.encode(), output_width=size, output_height=size)
    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    white.alpha_composite(picture)
    return white.convert("RGB")


def emoji_by_key(characters: dict) -> dict:
    """Icon key -> emoji characters it stands for."""
    table = {}
    for code, key in characters.items():
        table.setdefault(key, []).append("".join(chr(int(part, 16)) for part in code.split("-")))
    return table


def describe(key: str, emojis, unicode_data: dict, keyword_data: dict):
    """Group and keywords of one icon; the variation selector may or may not be written."""
    group, words = None, []
    name = key.replace("-", " ")
    for emoji in emojis:
        for form in (emoji, emoji + "\ufe0f", emoji.replace("\ufe0f", "")):
            if form in unicode_data:
                group = group or unicode_data[form]["group"]
                words.append(unicode_data[form]["name"])
            words += keyword_data.get(form, [])
    clean = []
    for word in words:
        word = word.lower().replace("_", " ").replace("-", " ").strip()
        if re.fullmatch(r"[a-z][a-z ]{2,29}", word) and word != name and word not in clean:
            clean.append(word)
    return group, clean


def chosen_entries(keys, characters, unicode_data, keyword_data):
    """The captioned part of the pictures; a keyword that more than five names share says too little and goes."""
    emojis = emoji_by_key(characters)
    entries = []
    for row, key in enumerate(keys):
        group, words = describe(key, emojis.get(key, []), unicode_data, keyword_data)
        if key in ADDED or (group in GROUPS and not LEFT_OUT.search(key)):
            name = RENAMED.get(key, key.replace("-", " "))
            entries.append({"name": name, "keywords": words, "row": row, "key": key})
    uses = {}
    for entry in entries:
        for word in entry["keywords"]:
            uses[word] = uses.get(word, 0) + 1
    names = {entry["name"] for entry in entries}
    for entry in entries:
        entry["keywords"] = [word for word in entry["keywords"] if uses[word] <= 5 and word not in names][:6]
    return entries


def prepare():
    if (DATA / "names.json").exists():
        print("data: present")
        return
    modules = fetch_packages()
    DATA.mkdir(parents=True, exist_ok=True)
    flat = read_json(modules / "@iconify-json/fluent-emoji-flat/icons.json")
    contrast = read_json(modules / "@iconify-json/fluent-emoji-high-contrast/icons.json")
    keys = sorted(key for key in flat["icons"] if not SKIN_TONE.search(key))
    pictures, drawings, kept = [], {}, []
    for key in keys:
        try:
            large = draw(flat, key, PICTURE * SUPERSAMPLE)
        except Exception as error:  # cairosvg cannot draw one or two of them
            print(f"data: left out {key}: {error}")
            continue
        kept.append(key)
        drawings[key] = large
        pictures.append(np.asarray(large.resize((PICTURE, PICTURE), Image.Resampling.BOX)))
    entries = chosen_entries(
        kept,
        read_json(modules / "@iconify-json/fluent-emoji-flat/chars.json"),
        read_json(modules / "unicode-emoji-json/data-by-emoji.json"),
        read_json(modules / "emojilib/dist/emoji-en-US.json"),
    )
    np.save(DATA / "flat.npy", np.stack(pictures))
    chosen = [drawings[entry["key"]] for entry in entries]
    np.save(DATA / "blueprint.npy", np.stack([styles.blueprint(drawing) for drawing in chosen]))
    np.save(DATA / "pixel.npy", np.stack([styles.pixel(drawing) for drawing in chosen]))
    high = []
    for entry, drawing in zip(entries, chosen):
        own = entry["key"] in contrast["icons"]
        high.append(np.asarray(draw(contrast, entry["key"], PICTURE)) if own else styles.high_contrast(drawing))
    np.save(DATA / "high-contrast.npy", np.stack(high))
    (DATA / "names.json").write_text(json.dumps(entries, indent=1))
    print(f"data: {len(kept)} pictures, {len(entries)} of them with names")


def load_entries():
    return read_json(DATA / "names.json")
