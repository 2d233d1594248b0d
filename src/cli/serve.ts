import { existsSync } from "node:fs";
import { setFlagsFromString } from "node:v8";
import { startDaemon } from "../daemon.ts";
import { createLogger, SETTINGS, type SettingName } from "../kernel/index.ts";
import type { Command } from "./command.ts";
import { seedLine } from "./seed-lines.ts";
import { supervise } from "./supervise.ts";

const CLIENT_SETTINGS: readonly string[] = ["daemonUrl"];

/**
 * V8 optimizes what runs often, but a daemon's code runs once a step: as it comes, it is interpreted for
 * some 4,000 steps, and slow beside an engine that empties the caches. So it is compiled at its first
 * call and optimized after a seventh of the usual work (docs/performance.md has both measured). A
 * program that starts for one picture would pay 0.2 s and 5 MB for it.
 */
const EAGER_COMPILER = ["--always-sparkplug", "--interrupt-budget=10000"];

export const serve: Command = {
  summary: "Starts the daemon and serves models until Ctrl-C.",
  usage: "[--models DIR]... [--device auto|cpu|cuda|webgpu] [--supervise]",
  options: {
    supervise: { type: "boolean", doc: "Start the daemon again whenever it dies." },
  },
  // Object.keys of the table are its names.
  settings: (Object.keys(SETTINGS) as SettingName[]).filter(
    (name) => !CLIENT_SETTINGS.includes(name),
  ),
  async run({ values, config, print, note, signal }) {
    if (values["supervise"]) {
      const own = process.argv.slice(process.argv.indexOf("serve") + 1);
      return await supervise(
        own.filter((flag) => flag !== "--supervise"),
        { signal, print },
      );
    }
    for (const flag of EAGER_COMPILER) setFlagsFromString(flag);
    const logger = createLogger(note, config.logLevel as Parameters<typeof createLogger>[1]);
    const told = {
      ...logger,
      info: (event: string, fields?: Readonly<Record<string, unknown>>) => {
        const line = seedLine(event, fields);
        if (line !== undefined) print(line);
        logger.info(event, fields);
      },
    };
    for (const folder of config.models) {
      if (existsSync(folder)) continue;
      print(`[LunaServer] Warning: the model folder ${folder} does not exist.`);
    }
    const daemon = await startDaemon(config, told);
    const { host, port, socketPath } = daemon.listening;
    const address = `${host === "127.0.0.1" ? "localhost" : host}:${port}`;
    print(`[LunaServer] WebSocket server running on ${address}`);
    print(`[LunaServer] Dashboard http://${address}/`);
    if (socketPath !== undefined) print(`[LunaServer] Unix socket ${socketPath}`);
    await new Promise<void>((resolve) => {
      if (signal.aborted) resolve();
      signal.addEventListener("abort", () => resolve(), { once: true });
    });
    await daemon.close();
    return 0;
  },
};
