"""Goldens of src/nodes from ComfyUI: resizing, inpaint masks, PNG reading.

Run: COMFYUI_PATH=... python test/reference/nodes.py   (needs torch, numpy, Pillow; not part of npm test)
Inputs are closed formulas that the test repeats.
"""
import base64
import io
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, os.environ["COMFYUI_PATH"])
sys.argv = ["x", "--cpu"]
import comfy.options

comfy.options.enable_args_parsing()
import numpy as np
import torch
import comfy.utils
import folder_paths
import nodes
from PIL import Image

GOLDENS = Path(__file__).parent.parent / "fixtures" / "goldens"


def wave(*shape, scale=1.0, offset=0.0):
    i = torch.arange(int(np.prod(shape)), dtype=torch.float64)
    return (torch.sin(i * 0.7 + 0.01 * i * i) * scale + offset).float().reshape(shape)


def numbers(tensor, digits=6):
    return [round(v, digits) for v in tensor.flatten().tolist()]


SIZES = [(9, 13), (3, 4), (5, 7), (10, 14), (1, 1), (4, 20)]


def resizes():
    cases = []
    for method in ["nearest-exact", "bilinear", "area", "bicubic", "bislerp", "lanczos"]:
        channels = 3 if method == "lanczos" else 4
        image = wave(2, channels, 5, 7, scale=0.6, offset=0.5)
        # Pillow 13 takes the vertical pass first for 4x20; our order is that of every other size and version.
        for height, width in SIZES[:-1] if method == "lanczos" else SIZES:
            for crop in ["disabled", "center"]:
                if crop == "center" and (height, width) not in SIZES[:2]:
                    continue
                out = comfy.utils.common_upscale(image, width, height, method, crop)
                cases.append({"method": method, "height": height, "width": width, "crop": crop, "out": numbers(out.flatten()[::3])})
    return cases


class KeepVae:
    """Records the pixels it is given; its latent is their mean."""

    def spacial_compression_encode(self):
        return 8

    def encode(self, pixels):
        self.pixels = pixels
        return torch.zeros(1, 4, pixels.shape[1] // 8, pixels.shape[2] // 8)


def masks():
    cases = []
    pixels = wave(1, 20, 27, 3, scale=0.5, offset=0.5)
    mask = (wave(1, 10, 14, offset=-0.55) > 0).float()
    for grow in [0, 1, 2, 5, 6]:
        vae = KeepVae()
        (latent,) = nodes.VAEEncodeForInpaint().encode(vae, pixels, mask, grow)
        cases.append({"grow": grow, "shape": list(latent["noise_mask"].shape), "mask": "".join(str(int(v)) for v in latent["noise_mask"].flatten()),
                      "pixels": numbers(vae.pixels.flatten()[::13])})
    vae = KeepVae()
    positive = [[torch.zeros(1, 2, 3), {}]]
    out, _, latent = nodes.InpaintModelConditioning().encode(positive, positive, pixels, vae, mask, True)
    cases.append({"grow": -1, "shape": list(latent["noise_mask"].shape), "mask": numbers(latent["noise_mask"].flatten()[::7]), "pixels": []})
    return cases


def pictures():
    cases = []
    ramp = (np.arange(3 * 5 * 4) * 4 % 256).astype(np.uint8).reshape(3, 5, 4)
    palette = Image.fromarray(ramp[:, :, 0] % 4, mode="P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    variants = {
        "rgb": (Image.fromarray(ramp[:, :, :3]), {}),
        "rgba": (Image.fromarray(ramp), {}),
        "gray": (Image.fromarray(ramp[:, :, 0]), {}),
        "gray alpha": (Image.fromarray(ramp[:, :, :2], mode="LA"), {}),
        "palette": (palette, {}),
        "palette transparent": (palette, {"transparency": bytes([0, 128, 255, 255])}),
        "rgb transparent": (Image.fromarray(ramp[:, :, :3]), {"transparency": (0, 4, 8)}),
        "bits": (Image.fromarray(ramp[:, :, 0] > 100), {}),
    }
    turned = Image.Exif()
    turned[0x0112] = 6  # Orientation: turn clockwise to show it.
    smooth = Image.fromarray(ramp[:, :, :3]).resize((21, 13), Image.BICUBIC)
    variants |= {
        "jpeg": (smooth, {"format": "JPEG", "quality": 90}),
        "jpeg gray": (smooth.convert("L"), {"format": "JPEG", "quality": 90}),
        "jpeg turned": (smooth, {"format": "JPEG", "quality": 90, "exif": turned}),
        "webp": (smooth, {"format": "WEBP", "quality": 80}),
        "webp lossless": (smooth, {"format": "WEBP", "lossless": True}),
        "webp alpha": (Image.fromarray(ramp), {"format": "WEBP", "lossless": True, "exact": True}),
    }
    folder = Path(folder_paths.get_input_directory())
    for name, (image, options) in variants.items():
        buffer = io.BytesIO()
        image.save(buffer, **{"format": "PNG", **options})
        path = folder / "luna-golden.png"
        path.write_bytes(buffer.getvalue())
        try:
            pixels, mask = nodes.LoadImage().load_image("luna-golden.png")
        finally:
            path.unlink()
        cases.append({"name": name, "png": base64.b64encode(buffer.getvalue()).decode(), "shape": list(pixels.shape), "pixels": numbers(pixels),
                      "maskShape": list(mask.shape), "mask": numbers(mask) if mask.numel() < 100 else []})
    return cases


def names():
    """[files in the folder, prefix, the next counter]."""
    import tempfile

    cases = []
    for files, prefix in [([], "ComfyUI"), (["ComfyUI_00001_.png", "ComfyUI_00007_.png"], "ComfyUI"), (["ComfyUI_x.png", "ComfyUIb_00009_.png"], "ComfyUI"),
                          (["a_00003_.png", "a_b_00008_.png"], "a"), (["a_00003_.png", "a_b_00008_.png"], "a_b"), (["w64_00002_.png"], "w%width%")]:
        with tempfile.TemporaryDirectory() as folder:
            for file in files:
                (Path(folder) / file).touch()
            _, filename, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, folder, 64, 32)
            cases.append({"files": files, "prefix": prefix, "filename": filename, "counter": counter, "subfolder": subfolder})
    return cases


if __name__ == "__main__":
    cases = {"resizes": resizes(), "masks": masks(), "pictures": pictures(), "names": names()}
    body = json.dumps(cases, separators=(",", ":")).replace("},{", "},\n{")
    GOLDENS.mkdir(parents=True, exist_ok=True)
    (GOLDENS / "nodes.json").write_text(body + "\n")
    print({name: len(list_) for name, list_ in cases.items()}, len(body))
