"""Goldens of guidance with patches: PerturbedAttentionGuidance and control nets around analytic nets.

    COMFYUI_PATH=... python test/reference/sampling_patches.py
writes test/fixtures/goldens/sampling/patches.safetensors; test/support/sampling-cases.ts computes
the same analytic functions. Runs ComfyUI's own ControlNet and ControlNetApply classes: hint sizes,
percent ranges, chains, strengths and what acts on which prompt are theirs.
"""
import sampling  # Sets ComfyUI up.
import comfy.controlnet
import comfy.model_patcher
import comfy.sample
import nodes
import torch
from comfy_extras.nodes_pag import PerturbedAttentionGuidance


class PatchedNet(sampling.AnalyticNet):
    """With perturbed attention the net says 0.8 as much; a control's middle residual is added to x."""

    def forward(self, x, t, context=None, control=None, transformer_options={}, **kwargs):
        middle = control["middle"] if control is not None else []
        residual = middle[-1] if middle else 0
        out = super().forward(x, t, context=context, **kwargs) + residual
        return out * 0.8 if transformer_options.get("patches_replace", {}).get("attn1") else out


class AnalyticControl(torch.nn.Module):
    """The mean of the hint over each latent cell, moved by what the net gets."""
    dtype = torch.float32

    def forward(self, x, hint, timesteps, context, control_type=(), **kwargs):
        cells = torch.nn.functional.avg_pool2d(hint.double(), 8).mean(dim=1, keepdim=True)
        drive = context.double().mean(dim=(1, 2)) + 0.001 * timesteps.double() + sum(control_type)
        out = cells * torch.cos(x.double()[:, :4] + drive[:, None, None, None])
        return {"middle": [out.float()], "output": []}


def control_net(types):
    control = comfy.controlnet.ControlNet(AnalyticControl(), load_device=sampling.CPU)
    control.get_models = lambda: []
    if types:
        control.set_extra_arg("control_type", types)
    return control


def copied(control):
    """ComfyUI's copy wants a model patcher, which an analytic net has none of."""
    copy = control_net(control.extra_args.get("control_type"))
    control.copy_to(copy)
    copy.copy = lambda: copied(copy)
    return copy


def picture(spec):
    return sampling.randn(spec["seed"], *spec["shape"])


def apply_controls(positive, negative, controls):
    for spec in controls:
        control = control_net(spec.get("type"))
        control.copy = lambda control=control: copied(control)
        image = picture(spec["image"])
        if spec["node"] == "simple":
            (positive,) = nodes.ControlNetApply().apply_controlnet(positive, control, image, spec["strength"])
        else:
            only = spec.get("only")
            sides = nodes.ControlNetApplyAdvanced().apply_controlnet(
                [] if only == "negative" else positive, [] if only == "positive" else negative, control, image,
                spec["strength"], spec.get("start", 0.0), spec.get("end", 1.0))
            positive = positive if only == "negative" else sides[0]
            negative = negative if only == "positive" else sides[1]
    return positive, negative


def run_case(spec):
    patcher = sampling.make_patcher(spec)
    patcher.model.diffusion_model = PatchedNet()
    patcher.model.diffusion_model.eval()
    for scale in spec.get("pag", []):
        patcher = PerturbedAttentionGuidance.execute(patcher, scale).result[0]
    positive, negative = apply_controls(
        [sampling.make_cond(c) for c in spec["positive"]], [sampling.make_cond(c) for c in spec["negative"]],
        spec.get("controls", []))
    latent = torch.zeros(spec["shape"])
    noise = comfy.sample.prepare_noise(latent, spec["seed"], None)
    out = comfy.sample.sample(patcher, noise, spec["steps"], spec["cfg"], spec["sampler"], spec["scheduler"],
                              positive, negative, latent, disable_pbar=True, seed=spec["seed"])
    assert torch.isfinite(out).all(), spec
    return out.contiguous()


def cases():
    plain = {**sampling.PLAIN, "shape": [2, 4, 6, 8], "steps": 5}
    a, b, c = {"seed": 41, "tokens": 4}, {"seed": 42, "tokens": 4}, {"seed": 43, "tokens": 6}
    area = {**c, "area": [4, 5, 1, 2], "strength": 1.5}
    one = {"shape": [1, 48, 64, 3], "seed": 71}
    other = {"shape": [1, 40, 90, 3], "seed": 72}
    many = {"shape": [3, 48, 64, 3], "seed": 73}
    both = {"node": "advanced", "image": one, "strength": 0.8}
    return {
        "pag": {**plain, "pag": [3.0]},
        "pag 0": {**plain, "pag": [0.0]},
        "pag cfg 1": {**plain, "pag": [2.5], "cfg": 1.0},
        "pag twice": {**plain, "pag": [1.5, 0.75]},
        "pag area": {**plain, "pag": [2.0], "positive": [a, area]},
        "pag v": {**plain, "pag": [2.0], "prediction": "v"},
        "control": {**plain, "controls": [both]},
        "control resized": {**plain, "controls": [{**both, "image": other}]},
        "control pictures": {**plain, "controls": [{**both, "image": many}]},
        "control range": {**plain, "steps": 8, "controls": [{**both, "start": 0.2, "end": 0.7}]},
        "control positive": {**plain, "controls": [{**both, "only": "positive"}]},
        "control negative": {**plain, "controls": [{**both, "only": "negative"}]},
        "control chain": {**plain, "controls": [both, {**both, "image": other, "strength": 1.5, "start": 0.5}]},
        "control type": {**plain, "controls": [{**both, "type": [3]}]},
        "control combine": {**plain, "positive": [a, {**c, "strength": 0.5}], "controls": [both]},
        "control area": {**plain, "positive": [a, area], "controls": [both]},
        "control cfg 1": {**plain, "cfg": 1.0, "controls": [both]},
        "control pag": {**plain, "pag": [2.0], "controls": [both]},
        "simple": {**plain, "controls": [{**both, "node": "simple"}]},
        "simple combine": {**plain, "positive": [a, c], "negative": [b], "controls": [{**both, "node": "simple"}]},
        "simple area": {**plain, "positive": [area, a], "negative": [b, a], "controls": [{**both, "node": "simple"}]},
        "simple beside negative": {**plain, "controls": [{**both, "only": "negative", "image": other},
                                                         {**both, "node": "simple"}]},
    }


if __name__ == "__main__":
    import json

    with torch.inference_mode():
        found = cases()
        sampling.save("patches", {key: run_case(spec) for key, spec in found.items()},
                      {"cases": json.dumps(found, separators=(",", ":"))})
