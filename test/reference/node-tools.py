"""Goldens of the schedule, mask, picture and latent nodes and of model patches, from ComfyUI's own nodes.

Run: COMFYUI_PATH=... python test/reference/node-tools.py   (needs torch, scipy; not part of npm test)
Inputs are closed formulas that the test repeats.
"""
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, os.environ["COMFYUI_PATH"])
sys.argv = ["x", "--cpu"]
import comfy.options

comfy.options.enable_args_parsing()
import utils.install_util  # Before a module of this name is found elsewhere.
import numpy as np
import torch
import comfy.model_sampling
import nodes
from comfy_extras import nodes_custom_sampler as custom
from comfy_extras import nodes_post_processing  # First: it and nodes_latent import each other.
from comfy_extras import nodes_images, nodes_latent, nodes_mask, nodes_model_advanced, nodes_rebatch

GOLDENS = Path(__file__).parent.parent / "fixtures" / "goldens"


def wave(*shape, scale=1.0, offset=0.0):
    i = torch.arange(int(np.prod(shape)), dtype=torch.float64)
    return (torch.sin(i * 0.7 + 0.01 * i * i) * scale + offset).float().reshape(shape)


def numbers(tensor, digits=6):
    return [round(v, digits) for v in tensor.flatten().tolist()]


class Model:
    def __init__(self, sampling):
        self.sampling = sampling

    def get_model_object(self, _name):
        return self.sampling


class Discrete(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
    pass


class Distilled(nodes_model_advanced.ModelSamplingDiscreteDistilled, nodes_model_advanced.LCM):
    pass


def case(node, inputs, *outputs):
    return {"node": node, "inputs": inputs, "outputs": [numbers(o) for o in outputs]}


def schedules():
    model = Model(Discrete())
    sigmas = custom.BasicScheduler.execute(model, "karras", 8, 1.0).args[0]
    found = [
        case("BasicScheduler", {"scheduler": "normal", "steps": 5, "denoise": 0.5}, *custom.BasicScheduler.execute(model, "normal", 5, 0.5).args),
        case("BasicScheduler", {"scheduler": "beta", "steps": 6, "denoise": 1.0}, *custom.BasicScheduler.execute(model, "beta", 6, 1.0).args),
        case("KarrasScheduler", {"steps": 7, "sigma_max": 14.614642, "sigma_min": 0.0291675, "rho": 5.0}, *custom.KarrasScheduler.execute(7, 14.614642, 0.0291675, 5.0).args),
        case("ExponentialScheduler", {"steps": 6, "sigma_max": 10.0, "sigma_min": 0.05}, *custom.ExponentialScheduler.execute(6, 10.0, 0.05).args),
        case("PolyexponentialScheduler", {"steps": 6, "sigma_max": 10.0, "sigma_min": 0.05, "rho": 1.5}, *custom.PolyexponentialScheduler.execute(6, 10.0, 0.05, 1.5).args),
        case("VPScheduler", {"steps": 6, "beta_d": 19.9, "beta_min": 0.1, "eps_s": 0.001}, *custom.VPScheduler.execute(6, 19.9, 0.1, 0.001).args),
        case("BetaSamplingScheduler", {"steps": 9, "alpha": 0.8, "beta": 0.5}, *custom.BetaSamplingScheduler.execute(model, 9, 0.8, 0.5).args),
        case("SDTurboScheduler", {"steps": 3, "denoise": 0.7}, *custom.SDTurboScheduler.execute(model, 3, 0.7).args),
        case("SplitSigmas", {"step": 3}, *custom.SplitSigmas.execute(sigmas, 3).args),
        case("SplitSigmasDenoise", {"denoise": 0.4}, *custom.SplitSigmasDenoise.execute(sigmas, 0.4).args),
        case("SplitSigmasDenoise", {"denoise": 0.0}, *custom.SplitSigmasDenoise.execute(sigmas, 0.0).args),
        case("FlipSigmas", {}, *custom.FlipSigmas.execute(sigmas).args),
        case("SetFirstSigma", {"sigma": 20.0}, *custom.SetFirstSigma.execute(sigmas, 20.0).args),
    ]
    return {"sigmas": numbers(sigmas), "cases": found}


def pictures():
    one, two = wave(2, 5, 7, 3, scale=0.5, offset=0.5), wave(2, 6, 4, 3, scale=0.4, offset=0.45)
    small = wave(2, 5, 7, scale=0.5, offset=0.5)
    found = [case("ImageBatch", {}, *nodes.ImageBatch().batch(one, two)), case("ImageInvert", {}, *nodes.ImageInvert().invert(one))]
    for mode in ["normal", "multiply", "screen", "overlay", "soft_light", "difference"]:
        found.append(case("ImageBlend", {"blend_factor": 0.4, "blend_mode": mode}, *nodes_post_processing.Blend.execute(one, two, 0.4, mode).args))
    found.append(case("ImageCrop", {"width": 4, "height": 9, "x": 2, "y": 1}, *nodes_images.ImageCrop.execute(one, 4, 9, 2, 1).args))
    found.append(case("ImageCrop", {"width": 4, "height": 2, "x": 99, "y": 99}, *nodes_images.ImageCrop.execute(one, 4, 2, 99, 99).args))
    found.append(case("MaskToImage", {}, *nodes_mask.MaskToImage.execute(small).args))
    found.append(case("ImageToMask", {"channel": "green"}, *nodes_mask.ImageToMask.execute(one, "green").args))
    for expand, tapered in [(2, True), (1, False), (-1, True), (-2, False), (0, True)]:
        found.append(case("GrowMask", {"expand": expand, "tapered_corners": tapered}, *nodes_mask.GrowMask.execute(small, expand, tapered).args))
    for left, top, right, bottom, feathering in [(1, 2, 3, 0, 2), (0, 0, 0, 2, 1), (2, 0, 0, 0, 40)]:
        sides = {"left": left, "top": top, "right": right, "bottom": bottom, "feathering": feathering}
        found.append(case("ImagePadForOutpaint", sides, *nodes.ImagePadForOutpaint().expand_image(one, **sides)))
    return found


def rebatched():
    rows = {"samples": wave(3, 4, 2, 3), "batch_index": [4, 5, 9]}
    masked = {"samples": wave(2, 4, 2, 3, scale=0.5), "noise_mask": wave(1, 1, 16, 24, scale=0.5, offset=0.5)}
    other = {"samples": wave(1, 4, 2, 2)}
    batches = nodes_rebatch.LatentRebatch.execute([rows, masked, other], [2]).args[0]
    return [
        {
            "samples": numbers(b["samples"]),
            "batchIndex": b["batch_index"],
            "mask": numbers(b["noise_mask"])[::17] if "noise_mask" in b else [],
        }
        for b in batches
    ]


def latents():
    to, source = {"samples": wave(1, 4, 6, 8)}, {"samples": wave(1, 4, 5, 3, scale=0.7)}
    found = []
    for x, y, feather in [(8, 16, 0), (0, 8, 16), (40, 24, 16), (24, 0, 8)]:
        out = nodes.LatentComposite().composite(to, source, x, y, feather=feather)[0]["samples"]
        found.append(case("LatentComposite", {"x": x, "y": y, "feather": feather}, out))
    joined = nodes_latent.LatentBatch.execute(to, source).args[0]
    found.append(case("LatentBatch", {}, joined["samples"], torch.tensor(joined["batch_index"]).float()))
    return found


def lcm():
    sampling = Distilled()
    x, eps = wave(1, 4, 2, 2, scale=3.0), wave(1, 4, 2, 2, offset=0.1)
    rows = []
    for sigma in [14.6146, 3.0, 0.2]:
        s = torch.tensor([sigma])
        rows.append({"sigma": sigma, "timestep": float(sampling.timestep(s)), "denoised": numbers(sampling.calculate_denoised(s, eps, x))})
    times = [999.0, 519.0, 250.5, 19.0]
    return {"sigmas": numbers(sampling.sigmas), "rows": rows, "times": times, "sigmaOf": numbers(torch.cat([sampling.sigma(torch.tensor([t])) for t in times])), "percent": [sampling.percent_to_sigma(p) for p in [0.25, 0.5]]}


def rescaled():
    kept = SimpleNamespace()
    kept.clone = lambda: kept
    kept.set_model_sampler_cfg_function = lambda f: setattr(kept, "f", f)
    rows = []
    for share in [0.0, 0.7, 1.0]:
        nodes_model_advanced.RescaleCFG().patch(kept, share)
        x, positive, negative = wave(2, 4, 2, 2, scale=3.0), wave(2, 4, 2, 2, offset=0.2), wave(2, 4, 2, 2, scale=0.5)
        sigma = torch.tensor([2.5, 2.5])
        out = x - kept.f({"cond": x - positive, "uncond": x - negative, "cond_scale": 6.0, "sigma": sigma, "input": x})
        rows.append({"share": share, "out": numbers(out)})
    return rows


if __name__ == "__main__":
    cases = {"schedules": schedules(), "pictures": pictures(), "latents": latents(), "rebatched": rebatched(), "lcm": lcm(), "rescaled": rescaled()}
    body = json.dumps(cases, separators=(",", ":")).replace("},{", "},\n{")
    (GOLDENS / "node-tools.json").write_text(body + "\n")
