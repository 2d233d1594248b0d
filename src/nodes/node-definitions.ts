import { lunaConfigGateway } from "./luna/luna-config-gateway.ts";
import { lunaDaemonStatus } from "./luna/luna-daemon-status.ts";
import { lunaKSampler } from "./luna/luna-k-sampler.ts";
import { lunaLoraStack } from "./luna/luna-lora-stack.ts";
import { lunaModelRouter } from "./luna/luna-model-router.ts";
import type { NodeDefinition } from "./node-definition.ts";
import { CONDITIONING_NODES } from "./stock/conditioning.ts";
import { CONTROL_NODES } from "./stock/control.ts";
import { CUSTOM_SAMPLING_NODES } from "./stock/custom-sampling.ts";
import { IMAGE_TOOL_NODES } from "./stock/image-tools.ts";
import { IMAGE_NODES } from "./stock/images.ts";
import { INPAINT_NODES } from "./stock/inpaint.ts";
import { LATENT_TOOL_NODES } from "./stock/latent-tools.ts";
import { LATENT_NODES } from "./stock/latents.ts";
import { LOADERS } from "./stock/loaders.ts";
import { LORA_NODES } from "./stock/loras.ts";
import { MASK_NODES } from "./stock/masks.ts";
import { MODEL_PATCH_NODES } from "./stock/model-patches.ts";
import { PRIMITIVE_NODES } from "./stock/primitives.ts";
import { SAMPLER_NODES } from "./stock/samplers.ts";
import { SIGMA_NODES } from "./stock/sigmas.ts";
import { TEXT_NODES } from "./stock/text.ts";
import { VAE_NODES } from "./stock/vae.ts";

/** Every node an instance knows, by class name. */
export const NODE_DEFINITIONS: ReadonlyMap<string, NodeDefinition> = new Map(
  [
    ...LOADERS,
    ...LORA_NODES,
    ...TEXT_NODES,
    ...CONDITIONING_NODES,
    ...CONTROL_NODES,
    ...LATENT_NODES,
    ...VAE_NODES,
    ...INPAINT_NODES,
    ...IMAGE_NODES,
    ...SAMPLER_NODES,
    ...CUSTOM_SAMPLING_NODES,
    ...MODEL_PATCH_NODES,
    ...SIGMA_NODES,
    ...IMAGE_TOOL_NODES,
    ...MASK_NODES,
    ...LATENT_TOOL_NODES,
    ...PRIMITIVE_NODES,
    lunaModelRouter,
    lunaConfigGateway,
    lunaLoraStack,
    lunaKSampler,
    lunaDaemonStatus,
  ].map((definition) => [definition.name, definition]),
);
