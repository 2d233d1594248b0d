"""A sampling run with a ControlNet and a T2I-Adapter on tiny real nets, all by ComfyUI's classes and nodes.

    COMFYUI_PATH=... python test/reference/control_workflow.py
writes test/fixtures/goldens/control-workflow.safetensors; test/e2e/control-workflow.test.ts runs the same workflow on an
instance and a daemon, over files with the same weights (test/support/tiny-control.ts has the configs).
"""
import control_nets  # Sets ComfyUI up.
import sampling
import unet
import comfy.controlnet
import comfy.sample
import nodes
import seeded
import torch
from safetensors.torch import save_file

GOLDEN = unet.HERE.parent / "fixtures/goldens/control-workflow.safetensors"
DOWN = ([1, 1, 2, 2], [2] * 4, [0, 1, 0, 0, 0, 0, 0, 0], 1)
NET = unet.config(32, *DOWN, [0] * 9 + [1, 0, 0], 8, **unet.SD1)
CONTROL = control_nets.control(control_nets.encoder(32, *DOWN, 8, **unet.SD1))
ADAPTER = control_nets.adapter(8, [32, 32, 64, 64], hint=1)


def alone(control):
    """No model patchers: everything is in memory."""
    control.get_models = lambda: []
    copy = type(control).copy

    def copied():
        return alone(copy(control))

    control.copy = copied
    return control


@torch.inference_mode()
def main():
    patcher = sampling.make_patcher({})
    patcher.model.diffusion_model = control_nets.seed(unet.build(NET))
    control = alone(comfy.controlnet.ControlNet(control_nets.seed(control_nets.build(CONTROL)), load_device=sampling.CPU))
    adapter = control_nets.seed(control_nets.build_adapter(ADAPTER))
    adapter = alone(comfy.controlnet.T2IAdapter(adapter, 1, 8, "nearest-exact", sampling.CPU))
    image = seeded.values("picture", [1, 40, 100, 3], 0.5, 0.5)
    prompt = lambda name: [[seeded.values(name, [1, 7, 8], 2), {}]]
    positive, negative = nodes.ControlNetApplyAdvanced().apply_controlnet(
        prompt("positive"), prompt("negative"), control, image, 0.9, 0.0, 0.6)
    (positive,) = nodes.ControlNetApply().apply_controlnet(positive, adapter, image, 0.7)
    latent = torch.zeros([2, 4, 6, 9])
    noise = comfy.sample.prepare_noise(latent, 5, None)
    run = lambda first, second: comfy.sample.sample(
        patcher, noise, 4, 4.0, "dpmpp_2m", "karras", first, second, latent, disable_pbar=True, seed=5)
    out, bare = run(positive, negative), run(prompt("positive"), prompt("negative"))
    assert (out - bare).norm() / bare.norm() > 1e-2
    save_file({"out": out.contiguous(), "bare": bare.contiguous()}, GOLDEN)
    print(float((out - bare).norm() / bare.norm()))


if __name__ == "__main__":
    main()
