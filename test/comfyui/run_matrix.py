"""Runs the matrix and keeps its numbers in report/matrix.json (results.py).
Usage: run_matrix.py [--full] [--missing] [PART OF A NAME]...   (--missing: only cases without a number)
"""

import hashlib
import json
import sys
import time

import torch
from cases import CASES, FULL_CASES
from harness import Comfy, Daemon, Folder, PromptFailed, make_models, models_version
from results import REPORT, keep, kept, line
from safetensors.torch import load_file, save_file

# Of the latent's largest value, after ten steps in float32.
TOLERANCE = 1e-4


def local_result(comfy, case):
    """What ComfyUI by itself gives; kept, because it does not change with the pack."""
    versions = [models_version(kind) for kind in ("narrow", "full")]
    text = json.dumps([versions, case.workflow], sort_keys=True)
    kept = REPORT / "local" / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.safetensors"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_file(result(comfy(), case), kept)
    return load_file(kept)


def result(comfy, case):
    comfy.run(case.workflow)
    found = {"latent": comfy.latents("latents/case")}
    if case.has_picture:
        found["picture"] = torch.from_numpy(comfy.pixels("case").copy())
    return found


def compare(case, local, remote):
    scale = local["latent"].abs().max().item()
    row = {
        "case": case.name,
        "expects": case.expects,
        "difference": (remote["latent"] - local["latent"]).abs().max().item() / scale,
        "scale": scale,
    }
    if case.has_picture:
        row["pixels"] = (remote["picture"].int() - local["picture"].int()).abs().max().item()
    return row


def forced(workflow):
    """The same with LunaModelRouter and force_daemon in place of the checkpoint loader."""
    changed = {"daemon_mode": "force_daemon"}
    return {
        number: {"class_type": "LunaModelRouter", "inputs": {**node["inputs"], **changed}}
        if node["class_type"] == "CheckpointLoaderSimple"
        else node
        for number, node in workflow.items()
    }


def refusal(comfy, case):
    """What is wrong with force_daemon's answer to what goes local in auto, or an empty text."""
    try:
        comfy.run(forced(case.workflow))
    except PromptFailed as error:
        text = str(error)
        is_named = case.named in text and "use force_local for this branch" in text
        return "" if is_named else f"force_daemon does not name {case.named}: {text}"
    return "force_daemon made a picture"


def judge(row, log):
    """What is wrong with a row, or an empty text."""
    if not row["difference"] <= TOLERANCE:
        return f"differs by {row['difference']:.1e}"
    if row.get("pixels", 0) > 1:
        return f"a pixel differs by {row['pixels']}"
    went_local = "Going on locally" in log
    if went_local != (row["expects"] == "local"):
        return "went local" if went_local else "did not say that it goes local"
    if ("is ignored" in log) != (row["expects"] == "ignored"):
        return "ignored something" if "is ignored" in log else "did not say what it ignores"
    return ""


def run(cases):
    make_models("narrow")
    if any(case in FULL_CASES for case in cases):
        make_models("full")
    rows = []
    with Folder() as folder:
        plain = []

        def stock():
            if not plain:
                plain.append(Comfy(folder, "stock", with_pack=False))
            return plain[0]

        daemon = Daemon(folder)
        taken = Comfy(folder, "takeover", {"LUNA_TAKEOVER": "1", "LUNA_DAEMON_URL": daemon.url})
        try:
            for case in cases:
                seen = len(taken.output())
                began = time.monotonic()
                try:
                    row = compare(case, local_result(stock, case), result(taken, case))
                    row["problem"] = judge(row, taken.output()[seen:])
                    if case.expects == "local" and not row["problem"]:
                        row["problem"] = refusal(taken, case)
                except PromptFailed as error:
                    row = {"case": case.name, "expects": case.expects, "problem": str(error)}
                row["seconds"] = time.monotonic() - began
                rows.append(row)
                keep("matrix", [row])
                print(line(row), flush=True)
        finally:
            for each in (*plain, taken, daemon):
                each.stop()
            (REPORT / "takeover.log").write_text(taken.output())
    return rows


if __name__ == "__main__":
    REPORT.mkdir(exist_ok=True)
    parts = [each for each in sys.argv[1:] if not each.startswith("--")]
    tier = FULL_CASES if "--full" in sys.argv else CASES
    known = {row["case"] for row in kept("matrix")} if "--missing" in sys.argv else set()
    chosen = [
        each
        for each in tier
        if each.name not in known and (not parts or any(part in each.name for part in parts))
    ]
    found = run(chosen)
    bad = [row for row in found if row["problem"]]
    print(f"{len(found) - len(bad)} of {len(found)} cases agree")
    sys.exit(1 if bad else 0)
