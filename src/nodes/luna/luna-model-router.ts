import { shortName } from "../apply-lora.ts";
import type { DaemonMode } from "../node-context.ts";
import { defineNode, output } from "../node-definition.ts";
import { checkpointOutputs } from "../stock/loaders.ts";

const MODES = ["auto", "force_daemon", "force_local"] as const satisfies readonly DaemonMode[];
const BYTES_PER_MB = 2 ** 20;

/** A checkpoint from the shared daemon, or from this instance's own engine, as the mode says. */
export const lunaModelRouter = defineNode({
  name: "LunaModelRouter",
  displayName: "Luna Model Router",
  category: "Luna/loaders",
  description:
    "auto uses the daemon where one runs; force_daemon fails without one; force_local never asks.",
  inputs: {
    ckpt_name: { type: "COMBO", choices: "checkpoints" },
    daemon_mode: { type: "COMBO", choices: MODES, default: "auto" },
  },
  outputs: [
    output("MODEL"),
    output("CLIP"),
    output("VAE"),
    output("STRING", "model_name"),
    output("STRING", "status"),
  ],
  async run({ ckpt_name, daemon_mode }, context) {
    const opened = await context.openCheckpoint(
      {
        kind: "checkpoints",
        name: ckpt_name,
        // Validation has checked the choice.
        mode: daemon_mode as DaemonMode,
        parts: ["model", "clip", "vae"],
      },
      context.signal,
    );
    const name = shortName(ckpt_name);
    if (opened.location === "daemon") {
      const bytes = (opened.model ?? opened.clip ?? opened.vae)?.info.bytes ?? 0;
      const megabytes = (bytes / BYTES_PER_MB).toFixed(1);
      context.log(`[LunaModelRouter] ✓ Model registered with daemon: ${name} (${megabytes} MB)`);
      context.log("[LunaModelRouter] ✓ Using DaemonModel proxy - inference routes through daemon");
    } else {
      context.log("[LunaModelRouter] Using the local engine - inference stays in this instance");
    }
    return { outputs: [...checkpointOutputs(opened), name, opened.status] };
  },
});
