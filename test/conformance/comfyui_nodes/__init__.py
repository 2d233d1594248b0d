"""A loader of the embedded model for a real ComfyUI, which by itself knows Stable Diffusion's own sizes alone.

The modules are ComfyUI's; only widths and depths are given to them (assets/README.md).
"""

import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import comfy.utils
import folder_paths
import torch

UNET = "model.diffusion_model."
TEXT = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 512}
VAE = {
    "double_z": True, "z_channels": 4, "resolution": 128, "in_channels": 3, "out_ch": 3, "ch": 32,
    "ch_mult": [1, 1, 2, 2], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip


class LoadEmbeddedModel:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"ckpt_name": (folder_paths.get_filename_list("checkpoints"),)}}

    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    FUNCTION = "load"
    CATEGORY = "Luna/test"

    def load(self, ckpt_name):
        weights = comfy.utils.load_torch_file(folder_paths.get_full_path("checkpoints", ckpt_name))
        config = comfy.supported_models.SD15(comfy.model_detection.detect_unet_config(weights, UNET))
        config.set_inference_dtype(torch.float32, None)
        vae = {k.removeprefix("first_stage_model."): v for k, v in weights.items() if k.startswith("first_stage_model.")}
        text = config.process_clip_state_dict(dict(weights))
        model = config.get_model(weights, UNET, device="cpu")
        model.load_model_weights(weights, UNET)
        cpu = torch.device("cpu")
        patcher = comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)
        clip = comfy.sd.CLIP(config.clip_target(text), model_options={"clip_l_model_config": TEXT})
        missing, _ = clip.load_sd(text, full_model=True)
        assert not [k for k in missing if "text_model" in k], missing
        return patcher, clip, comfy.sd.VAE(sd=vae, config={"params": {"ddconfig": VAE, "embed_dim": 4}})


NODE_CLASS_MAPPINGS = {"LoadEmbeddedModel": LoadEmbeddedModel}
