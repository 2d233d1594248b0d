"""
The figures of docs/comfyui.md on this machine: full-width SD1.5 in float32, random weights, ComfyUI
alone and on the daemon, the same workflow. Usage: measure.py [SIDE] [STEPS]   (pixels)
"""

import asyncio
import json
import statistics
import sys
import time

import aiohttp
from graph import Graph
from harness import HERE, Comfy, Daemon, Folder, make_models, rss_bytes

SIDE = int(sys.argv[1]) if len(sys.argv) > 1 else 512
STEPS = int(sys.argv[2]) if len(sys.argv) > 2 else 4


def workflow(loader, lora=None, seed=1):
    graph = Graph()
    if loader == "daemon":
        model, clip, vae = graph.router("force_daemon", "full-sd1")
    else:
        model, clip, vae = graph.checkpoint("full-sd1")
    conds = graph.prompts(clip)
    if lora is not None:
        model = graph.loras(model, ("full", lora))
    latent = graph.sample(model, conds, graph.empty(SIDE, SIDE), steps=STEPS, seed=seed)
    graph.picture(graph.VAEDecode(samples=latent, vae=vae))
    return graph.nodes


async def timed(comfy, nodes):
    """Seconds from queueing to each step's end, and to the end of the prompt."""
    address = f"http://127.0.0.1:{comfy.port}"
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{address}/ws?clientId=m") as socket,
    ):
        began = time.perf_counter()
        body = {"prompt": nodes, "client_id": "m"}
        async with http.post(f"{address}/prompt", json=body) as answer:
            prompt = (await answer.json())["prompt_id"]
        steps = []
        async for message in socket:
            if message.type != aiohttp.WSMsgType.TEXT:
                continue
            event = json.loads(message.data)
            kind, data = event["type"], event["data"]
            if kind == "execution_error":
                raise RuntimeError(data["exception_message"])
            if kind == "progress" and data["max"] == STEPS:
                steps.append(time.perf_counter() - began)
            if kind == "executing" and data["node"] is None and data["prompt_id"] == prompt:
                return steps, time.perf_counter() - began


def run(comfy, loader, **options):
    steps, whole = asyncio.run(timed(comfy, workflow(loader, **options)))
    between = [after - before for before, after in zip(steps, steps[1:])]
    return {
        "first_step_s": steps[0],
        "step_s": statistics.median(between) if between else None,
        "whole_s": whole,
    }


def series(comfy, loader):
    """Cold, again, with a LoRA, with another strength of it."""
    found = {"rss_start": rss_bytes(comfy.pid)}
    found["cold"] = run(comfy, loader)
    found["warm"] = run(comfy, loader, seed=2)
    found["lora"] = run(comfy, loader, lora=0.8, seed=3)
    found["lora_strength"] = run(comfy, loader, lora=0.5, seed=4)
    found["rss"] = rss_bytes(comfy.pid)
    found["rss_private"] = rss_bytes(comfy.pid, "RssAnon")
    return found


def main():
    make_models("full")
    with Folder() as folder:
        daemon = Daemon(folder)
        remote = Comfy(folder, "remote", {"LUNA_DAEMON_URL": daemon.url})
        try:
            figures = {"side": SIDE, "steps": STEPS, "daemon": series(remote, "daemon")}
            status = daemon.status()
            figures["daemon_process"] = rss_bytes(daemon.pid)
            figures["engine_process"] = status["engine"]["rssBytes"]
            graph = Graph()
            graph.LunaDaemonStatus()
            figures["status"] = remote.run(graph.nodes)["1"]["text"][0].splitlines()
        finally:
            remote.stop()
            # A second ComfyUI on the daemon that has the model already: queue to first step, warm.
            warm = Comfy(folder, "warm", {"LUNA_DAEMON_URL": daemon.url})
            figures["warm_daemon_new_process"] = run(warm, "daemon", seed=5)
            warm.stop()
            daemon.stop()
        local = Comfy(folder, "local", with_pack=False)
        try:
            figures["local"] = series(local, "local")
        finally:
            local.stop()
    (HERE / "report").mkdir(exist_ok=True)
    (HERE / "report" / "figures.json").write_text(json.dumps(figures, indent=1))
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
