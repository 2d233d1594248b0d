import { defineNode, output } from "../node-definition.ts";
import { runSampler } from "../run-sampler.ts";
import { KSAMPLER_INPUTS } from "../stock/samplers.ts";

/** KSampler that also says how long a step took and where it was computed. */
export const lunaKSampler = defineNode({
  name: "LunaKSampler",
  displayName: "Luna KSampler",
  category: "Luna/sampling",
  inputs: KSAMPLER_INPUTS,
  outputs: [output("LATENT")],
  async run({ denoise, ...inputs }, context) {
    const startedAtMs = context.now();
    let steps = 0;
    const counted = {
      ...context,
      progress: (progress: Parameters<typeof context.progress>[0]) => {
        steps = progress.value;
        context.progress(progress);
      },
    };
    const latent = await runSampler(inputs, { denoise }, counted);
    const perStepMs = (context.now() - startedAtMs) / Math.max(steps, 1);
    context.log(
      `[LunaKSampler] ${steps} steps via ${inputs.model.location}, ${perStepMs.toFixed(1)} ms a step`,
    );
    return { outputs: [latent] };
  },
});
