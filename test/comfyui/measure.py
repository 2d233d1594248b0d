"""
Figures of docs/comfyui.md on this machine: full-width SD1.5 in float32, random weights, one workflow in
ComfyUI on the daemon (takeover) and in ComfyUI alone. Usage: measure.py daemon|local [SIDE] [STEPS]
(pixels). Two runs, because each keeps a whole small machine busy for minutes.
"""

import asyncio
import json
import os
import statistics
import sys
import time

import aiohttp
from graph import Graph
from harness import Comfy, Daemon, Folder, make_models, rss_bytes
from results import keep_figures

SIDE = int(sys.argv[2]) if len(sys.argv) > 2 else 512
STEPS = int(sys.argv[3]) if len(sys.argv) > 3 else 2


def workflow(lora=None, seed=1, has_picture=False):
    graph = Graph()
    model, clip, vae = graph.checkpoint("full-sd1")
    conds = graph.prompts(clip)
    if lora is not None:
        model = graph.loras(model, ("full", lora))
    latent = graph.sample(model, conds, graph.empty(SIDE, SIDE), steps=STEPS, seed=seed)
    if has_picture:
        graph.picture(graph.VAEDecode(samples=latent, vae=vae))
    else:
        graph.save(latent)
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


def run(comfy, **options):
    steps, whole = asyncio.run(timed(comfy, workflow(**options)))
    between = [after - before for before, after in zip(steps, steps[1:])]
    return {
        "first_step_s": steps[0],
        "step_s": statistics.median(between) if between else None,
        "whole_s": whole,
    }


def series(comfy):
    """Cold with a picture, again, with a LoRA, with another strength of it."""
    found = {"rss_start": rss_bytes(comfy.pid)}
    found["cold"] = run(comfy, has_picture=True)
    found["warm"] = run(comfy, seed=2)
    found["lora"] = run(comfy, lora=0.8, seed=3)
    found["lora_strength"] = run(comfy, lora=0.5, seed=4)
    found["rss"] = rss_bytes(comfy.pid)
    found["rss_private"] = rss_bytes(comfy.pid, "RssAnon")
    found["rss_highest"] = rss_bytes(comfy.pid, "VmHWM")
    return found


def on_daemon(folder):
    daemon = Daemon(folder)
    environment = {"LUNA_DAEMON_URL": daemon.url, "LUNA_TAKEOVER": "1"}
    remote = Comfy(folder, "remote", environment)
    try:
        found = series(remote)
        found["daemon_process"] = rss_bytes(daemon.pid)
        found["engine_process"] = daemon.status()["engine"]["rssBytes"]
        graph = Graph()
        graph.LunaDaemonStatus()
        found["status"] = remote.run(graph.nodes)["1"]["text"][0].splitlines()
        remote.stop()
        # Another ComfyUI: the daemon has the model already.
        remote = Comfy(folder, "warm", environment)
        found["warm_daemon_new_process"] = run(remote, seed=5)
    finally:
        remote.stop()
        daemon.stop()
    return found


def alone(folder):
    local = Comfy(folder, "local", with_pack=False)
    try:
        return series(local)
    finally:
        local.stop()


def main():
    make_models("full")
    load, _, _ = os.getloadavg()
    with Folder() as folder:
        found = {"daemon": on_daemon, "local": alone}[sys.argv[1]](folder)
    keep_figures(sys.argv[1], {"side": SIDE, "steps": STEPS, "load": load, **found})
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
