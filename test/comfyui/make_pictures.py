"""The nodes in ComfyUI's real frontend: docs/images/comfyui-nodes.png, and a stock workflow as the
frontend exports it: workflows/exported.json. Needs Chromium."""

import json
import subprocess
import sys
from pathlib import Path

from graph import Graph
from harness import HERE, ROOT, Comfy, Folder, make_models


def luna_nodes():
    graph = Graph()
    model, clip, vae = graph.router("auto")
    made = graph.LunaConfigGateway(
        model=model, clip=clip, positive_prompt="a red house by the sea <lora:a:0.8>",
        negative_prompt="blurry", clip_skip=-2, clip_skip_timing="after_lora", seed=7, steps=20,
        cfg=5.0, sampler_name="euler", scheduler="normal", denoise=1.0,
    )  # fmt: skip
    latent = graph.LunaKSampler(
        model=made, positive=made.out(2), negative=made.out(3), latent_image=graph.empty(512, 512),
        seed=7, steps=20, cfg=5.0, sampler_name="euler", scheduler="normal", denoise=1.0,
    )  # fmt: skip
    graph.picture(graph.VAEDecode(samples=latent, vae=vae), "luna")
    graph.LunaDaemonStatus()
    return graph.nodes


def stock():
    graph = Graph()
    model, clip, vae = graph.checkpoint()
    loaded = graph.LoraLoader(
        model=model, clip=clip, lora_name="text.safetensors", strength_model=0.5, strength_clip=0.9
    )
    conds = graph.prompts(loaded.out(1))
    latent = graph.sample(loaded, conds)
    graph.save(latent)
    return graph.picture(graph.VAEDecode(samples=latent, vae=vae)).nodes


# Without the dialogs of a first start.
SETTINGS = {
    "Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False, "Comfy.Graph.CanvasInfo": False,
    "Comfy.InstalledVersion": "99.0.0",
}  # fmt: skip


def main():
    make_models("narrow")
    (HERE / "workflows").mkdir(exist_ok=True)
    (ROOT / "docs/images").mkdir(exist_ok=True)
    with Folder() as folder:
        user = folder / "frontend" / "user" / "default"
        user.mkdir(parents=True)
        (user / "comfy.settings.json").write_text(json.dumps(SETTINGS))
        comfy = Comfy(folder, "frontend")
        try:
            for name, nodes, exported, picture in (
                (
                    "luna",
                    luna_nodes(),
                    folder / "luna.json",
                    ROOT / "docs/images/comfyui-nodes.png",
                ),
                ("stock", stock(), HERE / "workflows/exported.json", folder / "stock.png"),
            ):
                given = Path(folder / f"{name}-in.json")
                given.write_text(json.dumps(nodes))
                script = ["node", str(HERE / "frontend.mjs"), f"http://127.0.0.1:{comfy.port}"]
                subprocess.run([*script, str(given), str(exported), str(picture)], check=True)
        finally:
            comfy.stop()


if __name__ == "__main__":
    sys.exit(main())
