"""
What a step costs beside the engine's time, from entering the UNet in ComfyUI's process to its output:
a real daemon, ComfyUI's sampler, a 64x64 latent with CFG, over the Unix socket and over TCP.
Usage: overhead.py [CHECKPOINT] [STEPS] [KIND]   (kind narrow or full, of the models to write first)
"""

import os
import statistics
import sys
import time

NAME = sys.argv[1] if len(sys.argv) > 1 else "sd1"
STEPS = int(sys.argv[2]) if len(sys.argv) > 2 else 40
KIND = sys.argv[3] if len(sys.argv) > 3 else "narrow"
# The first steps load the model and send the context.
WARM_UP = 3

import comfy_process as p  # noqa: E402
from harness import Daemon, Folder, make_models  # noqa: E402
from luna_daemon import connection, loaders  # noqa: E402
from luna_daemon.daemon import Daemon as Client  # noqa: E402
from results import figures, keep_figures  # noqa: E402


def measure(url):
    client = Client(url)
    path = p.path_of(NAME)
    served = loaders.register(client, path, f"{NAME}.safetensors", "force_daemon")
    model = loaders.model_from_checkpoint(path, served)
    remote, spans = model.model.luna, []

    def forward(*args, **kwargs):
        began = time.perf_counter()
        out = remote(*args, **kwargs)
        spans.append((time.perf_counter() - began) * 1000)
        return out

    model.model.diffusion_model._forward = forward
    p.sample(model, steps=STEPS + WARM_UP, side=64)
    client.connection.close()
    steps = [(span, *step) for span, step in zip(spans, client.steps)][WARM_UP:]
    over = sorted(span - engine for span, _, engine, _ in steps)
    p50, p95 = over[len(over) // 2], over[int(len(over) * 0.95)]
    pack = statistics.median(span - total for span, total, _, _ in steps)
    engine = statistics.median(engine for _, _, engine, _ in steps)
    text = f"p50 {p50:.2f} ms (the pack {pack:.2f}), p95 {p95:.2f} ms of {len(over)} steps"
    text = f"{text}, engine {engine:.0f} ms"
    # Of that the engine itself makes two on two cores.
    return f"{text}, load average {os.getloadavg()[0]:.1f}"


def main():
    make_models(KIND)
    found = figures().get("overhead", {})
    with Folder() as folder:
        daemon = Daemon(folder)
        try:
            for way, path_of in (("Unix socket", connection.unix_path), ("TCP", lambda url: None)):
                connection.unix_path = path_of
                text = found[f"{way}, {NAME}"] = measure(daemon.url)
                print(f"{way}: {text}", flush=True)
            keep_figures("overhead", found)
        finally:
            daemon.stop()


if __name__ == "__main__":
    main()
