import { randomUUID } from "node:crypto";
import { defineNode, output } from "../node-definition.ts";

const BYTES_PER_MB = 2 ** 20;

/** What the daemon holds right now; asked anew in every run. */
export const lunaDaemonStatus = defineNode({
  name: "LunaDaemonStatus",
  displayName: "Luna Daemon Status",
  category: "Luna/daemon",
  isOutput: true,
  inputs: {},
  outputs: [output("STRING", "status")],
  changeKey: async () => randomUUID(),
  async run(_inputs, { daemonStatus }) {
    const { isRunning, address, models, loras } = await daemonStatus();
    const lines = isRunning
      ? [
          `Daemon is running at ${address}`,
          ...models.map(({ name, bytes }) => `${name}: ${(bytes / BYTES_PER_MB).toFixed(1)} MB`),
          `${loras.length} LoRAs`,
        ]
      : [`Daemon is not running at ${address}. Start it with: npx luna serve`];
    const status = lines.join("\n");
    return { outputs: [status], ui: { text: [status] } };
  },
});
