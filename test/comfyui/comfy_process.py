"""ComfyUI inside the test's own process: imported, on the CPU, with a base folder of its own."""

import os
import sys
import tempfile

from harness import COMFYUI, MODELS, ROOT, make_models

make_models("narrow")
BASE = tempfile.mkdtemp(prefix="luna-comfyui-")
os.symlink(MODELS, os.path.join(BASE, "models"))
_arguments = sys.argv
sys.argv = ["tests", "--cpu", "--base-directory", BASE]
sys.path.insert(0, COMFYUI)

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import torch  # noqa: E402

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

import comfy.sample  # noqa: E402
import comfy.sd  # noqa: E402
import nodes  # noqa: E402, F401

sys.argv = _arguments
sys.path.insert(0, str(ROOT / "comfyui"))

from luna_daemon.connection import Reply  # noqa: E402
from luna_daemon.loaders import model_from_checkpoint  # noqa: E402
from luna_daemon.remote_net import Served  # noqa: E402

INFO = {
    "id": "checkpoints/x", "dtype": "F32", "bytes": 1, "family": "sd1",
    "textEncoders": [{"kind": "clip-l"}], "vae": {"kind": "kl", "downscale": 8},
}  # fmt: skip


class FakeDaemon:
    """Answers out = 0.1 x (or what `answer` gives) and remembers what it was asked."""

    url = "fake"

    def __init__(self):
        self.runs = []
        self.connection = self.memory = self
        self.answer = lambda run: run.own["x"] * 0.1

    def open(self):
        pass

    def clear(self):
        pass

    def run(self, run):
        for lora, _ in run.loras:
            lora.parts()
        self.runs.append(run)
        return Reply({}, {"out": self.answer(run)})

    def strengths(self):
        """Of each run, the strengths of its adapters."""
        return [[round(strength, 3) for _, strength in run.loras] for run in self.runs]


def path_of(name):
    return str(MODELS / "checkpoints" / f"{name}.safetensors")


def fake_model(mode="force_daemon", name="sd1"):
    """A DaemonModel of a checkpoint, and the fake daemon behind it."""
    daemon = FakeDaemon()
    return model_from_checkpoint(path_of(name), Served(daemon, INFO, mode)), daemon


def cond(tokens=77, width=768, **extra):
    return [[torch.zeros(1, tokens, width), extra]]


def sample(model, steps=2, positive=None, negative=None, sampler="euler", side=8, cfg=7.0, **more):
    latent = torch.zeros(1, 4, side, side)
    noise = comfy.sample.prepare_noise(latent, 1)
    with torch.inference_mode():
        return comfy.sample.sample(
            model, noise, steps, cfg, sampler, "karras", positive or cond(), negative or cond(), latent,
            seed=1, disable_pbar=True, **more,
        )  # fmt: skip


LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


def small_lora(seed=1, rank=4, name=LAYER):
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{name}.lora_up.weight": torch.randn(320, rank, generator=generator),
        f"{name}.lora_down.weight": torch.randn(rank, 320, generator=generator),
        f"{name}.alpha": torch.tensor(2.0),
    }


def with_lora(model, lora, strength):
    return comfy.sd.load_lora_for_models(model, None, lora, strength, 0)[0]
