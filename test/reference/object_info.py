"""Golden of the stock nodes' descriptions, from a running ComfyUI.

Run: python test/reference/object_info.py http://127.0.0.1:8188   (start ComfyUI with --cpu first; not part of npm test)
Only facts that clients and the editor act on: types, order, defaults, ranges, outputs. No texts.
"""
import json
import re
import sys
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parent.parent
STOCK = ROOT.parent / "src" / "nodes" / "stock"
GOLDEN = ROOT / "fixtures" / "goldens" / "object-info.json"
OPTIONS = ["default", "min", "max", "step", "round", "multiline", "control_after_generate", "advanced", "lazy", "image_upload"]
# Combos that list this machine's files.
FILES = re.compile(r"(_name\d?|^image)$")
NOT_FILES = ["sampler_name"]


def plain_input(name, spec):
    kind, options = spec[0], spec[1] if len(spec) > 1 else {}
    if kind == "COMBO":
        kind = options["options"]
    if isinstance(kind, list) and FILES.search(name) and name not in NOT_FILES:
        kind = "FILES"
    kept = {key: options[key] for key in OPTIONS if options.get(key) is not None}
    return [kind, kept]


def plain(node):
    return {
        "inputs": {group: {name: plain_input(name, spec) for name, spec in node["input"].get(group, {}).items()} for group in ["required", "optional"]},
        "outputs": list(zip(node["output"], node["output_name"], node["output_is_list"])),
        "isInputList": node["is_input_list"],
        "isOutput": node["output_node"],
        "displayName": node["display_name"],
        "category": node["category"],
    }


if __name__ == "__main__":
    names = sorted({name for path in STOCK.glob("*.ts") for name in re.findall(r'^  name: "(\w+)",$', path.read_text(), re.M)})
    with urllib.request.urlopen(f"{sys.argv[1]}/object_info") as answer:
        info = json.load(answer)
    missing = [name for name in names if name not in info]
    nodes = {name: plain(info[name]) for name in names if name in info}
    lines = [f"{json.dumps(name)}: {json.dumps(node)}" for name, node in nodes.items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{len(nodes)} nodes, unknown to ComfyUI: {missing}")
