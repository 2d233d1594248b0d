"""
What a step costs beside the engine's time, seen from Python: a real daemon, SD1.5's shapes (64x64
latent with CFG), over the Unix socket and over TCP. Usage: overhead.py [CHECKPOINT] [STEPS]
"""

import statistics
import sys

import torch
from harness import ROOT, Daemon, Folder, make_models

sys.path.insert(0, str(ROOT / "comfyui"))

from luna_daemon import connection  # noqa: E402
from luna_daemon.daemon import Daemon as Client  # noqa: E402
from luna_daemon.daemon import Run  # noqa: E402


def measure(url, name, steps):
    client = Client(url)
    model = client.call("register_model_by_path", name=name)["model"]
    generator = torch.Generator().manual_seed(1)
    context = torch.randn(2, 77, model["unet"]["contextDim"], generator=generator)
    for _ in range(steps):
        own = {
            "x": torch.randn(2, 4, 64, 64, generator=generator),
            "timesteps": torch.tensor([500.0, 500.0]),
        }
        # A new tensor of equal content each step, as ComfyUI makes it.
        run = Run("model_forward", {"model": model["id"]}, own, {"context": context.clone()})
        client.run(run)
    client.connection.close()
    over = sorted(total - engine for total, engine, _ in list(client.steps)[3:])
    engine = statistics.median(engine for _, engine, _ in client.steps)
    return f"p50 {over[len(over) // 2]:.2f} ms, p95 {over[int(len(over) * 0.95)]:.2f} ms beside {engine:.0f} ms"


def main():
    name = sys.argv[1] if len(sys.argv) > 1 else "sd1.safetensors"
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 40
    make_models("narrow")
    with Folder() as folder:
        daemon = Daemon(folder)
        try:
            for way in ("Unix socket", "TCP", "Unix socket", "TCP"):
                if way == "TCP":
                    connection.unix_path, kept = lambda url: None, connection.unix_path
                print(f"{way}: {measure(daemon.url, name, steps)}", flush=True)
                if way == "TCP":
                    connection.unix_path = kept
        finally:
            daemon.stop()


if __name__ == "__main__":
    main()
