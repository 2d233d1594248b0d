"""Goldens of src/sampling: ComfyUI's own samplers around an analytic "UNet" without weights.

Run:  COMFYUI_PATH=/path/to/ComfyUI python test/reference/sampling.py
Needs torch, numpy, scipy, torchsde and safetensors; made with ComfyUI 0.18.1 on CPU (x86, AVX2).
Each golden file holds its cases as JSON in the metadata entry "cases"; src/sampling/test-support.ts
builds the same inputs from the same JSON, and computes the same analytic net.
"""
import json
import logging
import os
import struct
import sys

sys.path.insert(0, os.environ["COMFYUI_PATH"])
sys.argv = ["sampling", "--cpu"]
import comfy.options

comfy.options.enable_args_parsing()
import torch
import torchsde
import comfy.k_diffusion.sampling
import comfy.model_base
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.supported_models
import safetensors.torch

logging.getLogger().setLevel(logging.ERROR)
torch.set_num_threads(1)
OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures", "goldens", "sampling")
CPU = torch.device("cpu")

SAMPLERS = ["euler", "euler_ancestral", "heun", "dpm_2", "dpm_2_ancestral", "lms", "dpmpp_2s_ancestral", "dpmpp_sde",
            "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m_sde", "ddim", "ddpm", "lcm", "uni_pc", "uni_pc_bh2", "res_multistep"]
SCHEDULERS = ["normal", "karras", "exponential", "sgm_uniform", "simple", "ddim_uniform", "beta", "kl_optimal"]
LATENT_SCALE = 0.18215


class AnalyticNet(torch.nn.Module):
    """A smooth function of everything a UNet is given, evaluated in float64."""
    dtype = torch.float32

    def forward(self, x, t, context=None, control=None, transformer_options={}, y=None, **kwargs):
        x, t = x.double(), t.double()
        drive = context.double().mean(dim=(1, 2)) + 0.002 * t
        if y is not None:
            drive = drive + y.double().mean(dim=1)
        drive = drive[:, None, None, None]
        latent = x[:, :4]
        out = 0.9 * latent + 0.1 * torch.sin(3 * latent + drive) + 0.05 * drive * torch.roll(latent, 1, dims=-1)
        if x.shape[1] > 4:
            out = out + 0.05 * x[:, 4:].mean(dim=1, keepdim=True)
        return out.float()


def make_patcher(spec):
    config = comfy.supported_models.SD15({"disable_unet_model_creation": True})
    config.sampling_settings = dict(spec.get("settings", {}))
    kind = {"eps": "EPS", "v": "V_PREDICTION", "edm": "EDM"}[spec.get("prediction", "eps")]
    base = comfy.model_base.SD15_instructpix2pix if spec.get("concat") == "pix2pix" else comfy.model_base.BaseModel
    model = base(config, model_type=comfy.model_base.ModelType[kind], device=CPU)
    model.diffusion_model = AnalyticNet()
    model.encode_adm = lambda **kwargs: kwargs.get("vector")
    if spec.get("concat") == "inpaint":
        model.set_inpaint()
    return comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)


def randn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_mask(spec):
    """Ones (or `value`) in the half-open box [top, left, bottom, right]; row n is shifted n right."""
    mask = torch.zeros(spec.get("batch", 1), spec["height"], spec["width"])
    top, left, bottom, right = spec["box"]
    for n in range(mask.shape[0]):
        mask[n, top:bottom, left + n:right + n] = spec.get("value", 1.0)
    return mask


def make_cond(spec):
    extra = {}
    if "ySeed" in spec:
        extra["vector"] = randn(spec["ySeed"], 1, 5)
    if "area" in spec:
        extra["area"] = tuple(spec["area"])
    if "fraction" in spec:
        extra["area"] = ("percentage", *spec["fraction"])
    for ours, theirs in (("strength", "strength"), ("startPercent", "start_percent"), ("endPercent", "end_percent"),
                         ("maskStrength", "mask_strength"), ("isAreaMaskBounds", "set_area_to_bounds")):
        if ours in spec:
            extra[theirs] = spec[ours]
    if "mask" in spec:
        extra["mask"] = make_mask(spec["mask"])
    if "concatLatentSeed" in spec:
        extra["concat_latent_image"] = randn(spec["concatLatentSeed"], *spec["concatShape"])
    if "concatMask" in spec:
        extra["concat_mask"] = make_mask(spec["concatMask"])
    return [randn(spec["seed"], 1, spec["tokens"], 6), extra]


def run_case(spec):
    patcher = make_patcher(spec)
    shape = spec["shape"]
    latent = randn(spec["latentSeed"], *shape) if "latentSeed" in spec else torch.zeros(shape)
    if spec.get("disableNoise"):
        noise = torch.zeros(shape)
    else:
        noise = comfy.sample.prepare_noise(latent, spec["seed"], spec.get("batchIndices"))
    mask = make_mask(spec["noiseMask"])[:, None] if "noiseMask" in spec else None
    out = comfy.sample.sample(
        patcher, noise, spec["steps"], spec["cfg"], spec["sampler"], spec["scheduler"],
        [make_cond(c) for c in spec["positive"]], [make_cond(c) for c in spec["negative"]], latent,
        denoise=spec.get("denoise", 1.0), disable_noise=spec.get("disableNoise", False),
        start_step=spec.get("startStep"), last_step=spec.get("lastStep"),
        force_full_denoise=spec.get("forceFullDenoise", False), noise_mask=mask, disable_pbar=True, seed=spec["seed"])
    assert torch.isfinite(out).all(), spec
    return out.contiguous()


PLAIN = {"shape": [1, 4, 6, 6], "seed": 1234, "steps": 8, "cfg": 5.0, "sampler": "euler", "scheduler": "normal",
         "positive": [{"seed": 21, "tokens": 4}], "negative": [{"seed": 22, "tokens": 4}]}
IMAGE = {**PLAIN, "latentSeed": 31}


def grid_cases():
    return {f"{sampler}/{scheduler}": {**PLAIN, "sampler": sampler, "scheduler": scheduler}
            for sampler in SAMPLERS for scheduler in SCHEDULERS}


def option_cases():
    cases = {}
    for sampler in SAMPLERS:
        cases[f"{sampler} denoise 0.6"] = {**IMAGE, "sampler": sampler, "scheduler": "karras", "denoise": 0.6}
        cases[f"{sampler} first half"] = {**PLAIN, "sampler": sampler, "lastStep": 4}
        cases[f"{sampler} second half"] = {**IMAGE, "sampler": sampler, "startStep": 4, "disableNoise": True}
        cases[f"{sampler} inpaint"] = {**IMAGE, "sampler": sampler, "steps": 5,
                                       "noiseMask": {"height": 48, "width": 48, "box": [8, 16, 40, 40]}}
        cases[f"{sampler} v zsnr"] = {**PLAIN, "sampler": sampler, "prediction": "v", "settings": {"zsnr": True}}
        cases[f"{sampler} edm"] = {**PLAIN, "sampler": sampler, "prediction": "edm", "scheduler": "karras",
                                   "settings": {"sigma_data": 0.5, "sigma_max": 80.0, "sigma_min": 0.002}}
        for steps in (1, 2, 3):
            cases[f"{sampler} {steps} steps"] = {**PLAIN, "sampler": sampler, "scheduler": "simple", "steps": steps}
    for steps in (7, 19, 25):  # Timesteps that fall exactly between two table entries.
        cases[f"ties {steps}"] = {**PLAIN, "sampler": "dpmpp_2m", "steps": steps}
    return cases


def guidance_cases():
    wide = {**PLAIN, "shape": [2, 4, 16, 12], "sampler": "dpmpp_2m", "steps": 4}
    image = {**wide, "latentSeed": 33}
    a, b, c = {"seed": 41, "tokens": 4}, {"seed": 42, "tokens": 4}, {"seed": 43, "tokens": 6}
    mask = {"height": 64, "width": 48, "box": [10, 4, 60, 30], "value": 0.8}
    plain_mask = {"height": 16, "width": 12, "box": [2, 3, 9, 8]}
    return {
        "cfg 1": {**wide, "cfg": 1.0},
        "v": {**wide, "prediction": "v"},
        "huge seed": {**wide, "seed": 0xFFFFFFFFFFFFFFF0, "sampler": "dpmpp_2m_sde"},
        "batch indices": {**wide, "shape": [3, 4, 6, 6], "batchIndices": [4, 1, 4], "sampler": "euler_ancestral"},
        "y": {**wide, "positive": [{**a, "ySeed": 51}], "negative": [{**b, "ySeed": 52}]},
        "context lengths": {**wide, "positive": [a], "negative": [c]},
        "context too long": {**wide, "positive": [{"seed": 44, "tokens": 30}], "negative": [a]},
        "combine": {**wide, "positive": [a, {**c, "strength": 0.5}], "negative": [b]},
        "area": {**wide, "positive": [a, {**c, "area": [8, 6, 4, 3], "strength": 1.5}], "negative": [b]},
        "area at the edges": {**wide, "positive": [a, {**c, "area": [10, 12, 6, 0]}, {**b, "area": [9, 5, 0, 7]}],
                              "negative": [b]},
        "area beyond": {**wide, "positive": [a, {**c, "area": [64, 64, 10, 5]}], "negative": [b]},
        "area alone": {**wide, "positive": [{**c, "area": [10, 12, 0, 0]}], "negative": [b, {**a, "area": [12, 12, 0, 0]}]},
        "area fraction": {**wide, "positive": [a, {**c, "fraction": [0.5, 0.3, 0.25, 0.6]}], "negative": [b]},
        "mask": {**wide, "positive": [{**a, "mask": mask, "maskStrength": 0.7}, b], "negative": [b]},
        "mask bounds": {**wide, "positive": [a, {**c, "mask": plain_mask, "isAreaMaskBounds": True, "maskStrength": 1.3}],
                        "negative": [b]},
        "mask rows": {**wide, "positive": [a, {**c, "mask": {**plain_mask, "batch": 2}}], "negative": [b]},
        "mask empty": {**wide, "positive": [a, {**c, "mask": {**plain_mask, "box": [0, 0, 0, 0]},
                                                "isAreaMaskBounds": True}], "negative": [b]},
        "timestep range": {**wide, "positive": [{**a, "startPercent": 0.0, "endPercent": 0.4},
                                                {**c, "startPercent": 0.4, "endPercent": 1.0}], "negative": [b]},
        "inpaint model": {**image, "concat": "inpaint", "noiseMask": {**mask, "value": 1.0}},
        "inpaint model, own latent": {
            **image, "concat": "inpaint",
            "positive": [{**a, "concatLatentSeed": 61, "concatShape": [1, 4, 16, 12], "concatMask": mask}],
            "negative": [{**b, "concatLatentSeed": 61, "concatShape": [1, 4, 16, 12], "concatMask": mask}]},
        "inpaint model, no mask": {**image, "concat": "inpaint"},
        "inpaint model, area": {**image, "concat": "inpaint", "noiseMask": {**mask, "value": 1.0},
                                "positive": [a, {**c, "area": [8, 6, 4, 3]}]},
        "pix2pix": {**wide, "concat": "pix2pix", "positive": [{**a, "concatLatentSeed": 62, "concatShape": [1, 4, 16, 12]}],
                    "negative": [{**b, "concatLatentSeed": 62, "concatShape": [1, 4, 16, 12]}]},
        "pix2pix, other size": {
            **wide, "concat": "pix2pix", "positive": [{**a, "concatLatentSeed": 62, "concatShape": [1, 4, 20, 10]}],
            "negative": [b]},
        "soft inpaint": {**image, "noiseMask": {"height": 20, "width": 18, "box": [3, 2, 15, 11], "value": 0.6}},
        "soft inpaint ddim": {**image, "sampler": "ddim",
                              "noiseMask": {"height": 20, "width": 18, "box": [3, 2, 15, 11], "value": 0.6, "batch": 2}},
        "force full denoise": {**wide, "lastStep": 3, "forceFullDenoise": True},
        "start beyond": {**image, "startStep": 9},
        "denoise 0": {**image, "denoise": 0.0},
    }


def save_cases(name, cases):
    tensors = {key: run_case(spec) for key, spec in cases.items()}
    save(name, tensors, {"cases": json.dumps(cases, separators=(",", ":"))})


def save(name, tensors, metadata=None):
    os.makedirs(OUT, exist_ok=True)
    path = os.path.join(OUT, name + ".safetensors")
    safetensors.torch.save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata=metadata)
    print(name, os.path.getsize(path))


def hash_floats(values):
    """FNV-1a over the 32-bit patterns, so that a golden of thousands of values is one number."""
    state = 0x811C9DC5
    for word in struct.unpack(f"<{len(values)}I", values.numpy().tobytes()):
        state = ((state ^ word) * 0x01000193) & 0xFFFFFFFF
    return state


def save_noise():
    cases = []
    for seed in (0, 1, 42, 2**32 - 1, 2**32 + 5, 2**63 + 12345, 2**64 - 1):
        for count in (1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 100, 1024, 4101):
            generator = torch.Generator().manual_seed(seed)
            calls = [torch.randn(count, generator=generator) for _ in range(2)]
            cases.append({"seed": str(seed), "count": count, "hashes": [hash_floats(call) for call in calls],
                          "heads": [call[:3].tolist() for call in calls]})
    with open(os.path.join(OUT, "noise.json"), "w") as file:
        json.dump(cases, file, separators=(",", ":"))


MODELS = {"sd": {}, "zsnr": {"prediction": "v", "settings": {"zsnr": True}},
          "edm": {"prediction": "edm", "settings": {"sigma_data": 0.5, "sigma_max": 80.0, "sigma_min": 0.002}}}


def save_schedules():
    tensors = {}
    for model, spec in MODELS.items():
        sampling = make_patcher(spec).get_model_object("model_sampling")
        tensors[f"{model}.sigmas"] = sampling.sigmas[:] if model != "edm" else sampling.sigmas[::50]
        probes = torch.cat([sampling.sigmas[::37], torch.logspace(-2, 1.5, 60)])
        tensors[f"{model}.probes"] = probes
        tensors[f"{model}.timesteps"] = torch.stack([sampling.timestep(p[None])[0].float() for p in probes])
        percents = [-0.1, 0.0, 0.001, 0.1, 0.25, 0.4, 0.5, 0.75, 0.9, 0.999, 1.0, 1.1]
        tensors[f"{model}.percents"] = torch.tensor([sampling.percent_to_sigma(p) for p in percents])
        for scheduler in SCHEDULERS:
            steps = [*range(1, 31), 37, 50, 100] if scheduler == "beta" else [1, 2, 3, 5, 7, 8, 19, 20, 25, 30, 50]
            if scheduler == "kl_optimal":
                steps = steps[1:]  # One step divides 0 by 0 there.
            for count in steps:
                tensors[f"{model}.{scheduler}.{count}"] = comfy.samplers.calculate_sigmas(sampling, scheduler, count)
    save("schedules", tensors)


def save_brownian():
    tensors, cases = {}, {}
    for seed in (7, 2**40 + 3, 2**64 - 1):
        for shape in ([1, 4, 6, 6], [3, 2]):
            sigmas = comfy.k_diffusion.sampling.get_sigmas_karras(6, 0.029167, 14.614642)[:-1]
            x = torch.zeros(shape)
            sampler = comfy.k_diffusion.sampling.BrownianTreeNoiseSampler(x, sigmas.min(), sigmas.max(), seed=seed, cpu=True)
            pairs = list(zip(sigmas[:-1], sigmas[1:])) + [(sigmas[0], sigmas[3]), (sigmas[1], sigmas[1] * 0.9)]
            key = f"{seed}.{len(shape)}"
            tensors[key] = torch.stack([sampler(a, b).flatten() for a, b in pairs])
            cases[key] = {"seed": str(seed), "sigmas": sigmas.tolist(),
                          "pairs": [[a.item(), b.item()] for a, b in pairs]}
    save("brownian", tensors, {"cases": json.dumps(cases, separators=(",", ":"))})


if __name__ == "__main__":
    assert torchsde.__name__ and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    os.makedirs(OUT, exist_ok=True)
    with torch.inference_mode():
        save_noise()
        save_schedules()
        save_brownian()
        save_cases("grid", grid_cases())
        save_cases("options", option_cases())
        save_cases("guidance", guidance_cases())
