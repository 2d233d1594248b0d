import { LunaError } from "../kernel/index.ts";

const SUPPORTED =
  "Supported: Stable Diffusion 1.x, 2.x, SDXL base and refiner, whole or as a single UNet, CLIP " +
  "text encoder, VAE, TAESD, ControlNet (Union too) or T2I-Adapter, in LDM or diffusers naming, " +
  "with F32, F16, BF16 or F8 weights.";

/** `found` completes "This file holds ...". */
export function unsupported(found: string): LunaError {
  return new LunaError("CHECKPOINT_UNSUPPORTED", `This file holds ${found}. ${SUPPORTED}`);
}

type Foreign = readonly (readonly [pattern: RegExp, found: string])[];

/** Control nets of other kinds; some have keys of a ControlNet too, so they are looked for first. */
const FOREIGN_CONTROLS: Foreign = [
  [/^lora_controlnet$/, "a Control-LoRA"],
  [/^difference$/, "a ControlNet stored as its difference from a model"],
  [/^lllite_/, "a ControlNet-LLLite"],
  [/^style_embedding$/, "a T2I style adapter"],
  [/^after_proj_list\./, "a ControlNet for Hunyuan-DiT"],
  [
    /^(controlnet_(blocks|single_blocks|x_embedder)|control_blocks|single_controlnet_blocks)\b/,
    "a ControlNet for Flux, Stable Diffusion 3, Qwen or another later model",
  ],
  [/^backbone\.\d+\./, "a ControlNet for Stable Cascade"],
];

/** What other well-known files are, by a key that only they have. The first match names the file. */
const FOREIGN: Foreign = [
  [
    /(\.lora_(up|down|A|B|linear_layer)\b|\.hada_w1_a$|\.lokr_w[12]|\.oft_(blocks|diag)$)/,
    "a LoRA",
  ],
  [/(^|\.)(scaled_fp8|scale_weight|weight_scale|scale_input|comfy_quant)$/, "scaled fp8 weights"],
  [/\.(absmax|quant_map|SCB|qweight|qzeros)$/, "quantized weights (bitsandbytes, GPTQ or AWQ)"],
  [/(^|\.)double_blocks\.0\.img_attn\./, "a Flux or HunyuanVideo model"],
  [/(^|\.)joint_blocks\.0\./, "a Stable Diffusion 3 model"],
  [/(^|\.)joint_transformer_blocks\.0\./, "an AuraFlow model"],
  [/(^|\.)single_transformer_blocks\.0\./, "a Flux model in diffusers naming"],
  [/^transformer_blocks\.0\.attn\.add_q_proj\./, "a Stable Diffusion 3 model in diffusers naming"],
  [/(^|\.)(down_blocks|effnet_mapper)\.0\.\d+\.channelwise\./, "a Stable Cascade model"],
  [/(^|\.)clip_txt_pooled_mapper\./, "a Stable Cascade model"],
  [/(^|\.)blocks\.0\.cross_attn\.norm_k\./, "a Wan video model"],
  [/(^|\.)(adaln_single|t_block\.1)\./, "a PixArt or LTX model"],
  [/(^|\.)cap_embedder\./, "a Lumina model"],
  [/\.(time_stack|time_mix_blocks|time_mixer)\./, "a video model (Stable Video Diffusion)"],
  [/\.(temporal_transformer|motion_modules)\./, "an AnimateDiff motion module"],
  [
    /(^|\.)(controlnet_cond_embedding|zero_convs|input_hint_block)\./,
    "a ControlNet of unknown layout",
  ],
  [/(^|\.)position_net\./, "a GLIGEN model"],
  [/^(image_proj|ip_adapter)\./, "an IP-Adapter"],
  [/^(adapter\.)?body\.0\.(resnets\.0\.)?block1\./, "a T2I-Adapter of unknown layout"],
  [/(^|\.)encoder\.block\.0\.layer\.0\.SelfAttention\./, "a T5 text encoder"],
  [/^(model\.)?layers\.0\.self_attn\.q_proj\.weight$/, "a language model"],
  [/^(emb_params|string_to_param|clip_[lgh])$/, "a textual inversion embedding"],
  [/^(model\.0\.weight|conv_first\.weight|params_ema\.)/, "an upscaling model"],
];

/** Throws CHECKPOINT_UNSUPPORTED where a key shows that the file is something else. */
export function refuseForeign(names: Iterable<string>): void {
  refuse(FOREIGN, [...names]);
}

/** As `refuseForeign`, for control nets alone. */
export function refuseForeignControl(names: Iterable<string>): void {
  refuse(FOREIGN_CONTROLS, [...names]);
}

function refuse(foreign: Foreign, names: readonly string[]): void {
  for (const [pattern, found] of foreign) {
    const name = names.find((each) => pattern.test(each));
    if (name !== undefined) throw unsupported(`${found} ("${name}")`);
  }
}
