"""Goldens of src/workflow: what ComfyUI's own validate_prompt says of faulty prompts.

Run: COMFYUI_PATH=... python test/reference/workflow.py   (not part of npm test)
Tracebacks and input_config (which carries ComfyUI's tooltips) are left out.
"""
import asyncio
import json
import logging
import os
import sys
from pathlib import Path

sys.path.insert(0, os.environ["COMFYUI_PATH"])
sys.argv = ["x", "--cpu"]
import comfy.options

comfy.options.enable_args_parsing()
import execution

logging.disable(logging.CRITICAL)
GOLDENS = Path(__file__).parent.parent / "fixtures" / "goldens"


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def empty(**changes):
    return node("EmptyImage", **{"width": 64, "height": 32, "batch_size": 1, "color": 0, **changes})


def scale(image, **changes):
    return node("ImageScale", **{"image": image, "upscale_method": "area", "width": 8, "height": 8, "crop": "disabled", **changes})


def save(images, **changes):
    return node("SaveImage", **{"images": images, "filename_prefix": "x", **changes})


def without(prompt_node, name):
    prompt_node["inputs"].pop(name)
    return prompt_node


def values(**changes):
    return {"1": empty(**changes), "2": save(["1", 0])}


PROMPTS = {
    "good": values(),
    "converted": {"1": empty(width="65", height=32.9, batch_size=True, color=" 1_0 "), "2": save(["1", 0], filename_prefix=12)},
    "missing": {"1": without(empty(), "width"), "2": save(["1", 0])},
    "missing on output": {"1": empty(), "2": without(save(["1", 0]), "images")},
    "two missing": {"1": without(without(empty(), "width"), "color"), "2": save(["1", 0]), "3": save(["1", 0])},
    "one good": {"1": empty(), "2": save(["1", 0]), "3": without(save(["1", 0]), "images")},
    "small": values(width=0),
    "big": values(width=16385),
    "text": values(width="abc"),
    "empty text": values(width=""),
    "null": values(width=None),
    "object": values(width={"a": 1}),
    "wrapped": values(width={"__value__": 7}),
    "infinite": values(width="1.5"),
    "combo": {"1": empty(), "3": scale(["1", 0], crop="zzz", upscale_method=3), "2": save(["3", 0])},
    "quote": {"1": empty(), "3": scale(["1", 0], crop="it's"), "2": save(["3", 0])},
    "float": {"1": empty(), "3": node("ImageScaleBy", image=["1", 0], upscale_method="area", scale_by=9), "2": save(["3", 0])},
    "float small": {"1": empty(), "3": node("ImageScaleBy", image=["1", 0], upscale_method="area", scale_by="1e-5"), "2": save(["3", 0])},
    "float text": {"1": empty(), "3": node("ImageScaleBy", image=["1", 0], upscale_method="area", scale_by="x"), "2": save(["3", 0])},
    "float null": {"1": empty(), "3": node("ImageScaleBy", image=["1", 0], upscale_method="area", scale_by=None), "2": save(["3", 0])},
    "type": {"1": node("EmptyLatentImage", width=64, height=64, batch_size=1), "2": save(["1", 0])},
    "inner type": {"1": node("EmptyLatentImage", width=64, height=64, batch_size=1), "3": scale(["1", 0]), "2": save(["3", 0])},
    "length": {"1": empty(), "2": save(["1", 0, 1])},
    "lonely": {"2": save(["99", 0])},
    "lonely inside": {"3": scale(["99", 0]), "2": save(["3", 0])},
    "integer id": {"1": empty(), "2": save([1, 0])},
    "slot": {"1": empty(), "2": save(["1", 1])},
    "slot inside": {"1": empty(), "3": scale(["1", 7]), "2": save(["3", 0])},
    "picture": {"1": node("LoadImage", image="nope.png"), "2": save(["1", 0])},
    "cycle": {"1": scale(["3", 0]), "3": scale(["1", 0]), "2": save(["1", 0])},
    "unknown": {"1": node("Nope"), "2": save(["1", 0])},
    "no class": {"1": {"inputs": {}}, "2": save(["1", 0])},
    "titles": {"1": {**node("Nope"), "_meta": {"title": "My node"}}},
    "no class, title": {"1": {"inputs": {}, "_meta": {"title": "My node"}}},
    "no output": {"1": empty()},
    "nothing": {},
    "extra inputs": {"1": empty(other=3), "2": save(["1", 0], more=["x"])},
    "bad but not asked": {"1": empty(), "2": save(["1", 0]), "3": empty(width=0)},
}
DROPPED = ("traceback", "input_config")


def cleaned(value):
    if isinstance(value, dict):
        return {k: cleaned(v) for k, v in value.items() if k not in DROPPED}
    return [cleaned(v) for v in value] if isinstance(value, (list, tuple)) else value


def ordered(node_errors):
    """ComfyUI walks sets: errors and outputs come in any order."""
    for entry in node_errors.values():
        entry["errors"].sort(key=lambda e: (e["type"], e["details"]))
        entry["dependent_outputs"].sort()
    return node_errors


async def main():
    cases = []
    for name, prompt in PROMPTS.items():
        sent = json.dumps(prompt)
        valid, error, outputs, node_errors = await execution.validate_prompt("id", prompt, None)
        cases.append({"name": name, "prompt": sent, "after": json.dumps(prompt), "valid": valid, "error": cleaned(error),
                      "outputs": sorted(outputs), "nodeErrors": ordered(cleaned(node_errors))})
    body = json.dumps(cases, separators=(",", ":")).replace("},{\"name\"", "},\n{\"name\"")
    (GOLDENS / "workflow.json").write_text(body + "\n")
    print(len(cases), len(body))


if __name__ == "__main__":
    asyncio.run(main())
