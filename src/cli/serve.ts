import { startDaemon } from "../daemon.ts";
import { createLogger, SETTINGS, type SettingName } from "../kernel/index.ts";
import type { Command } from "./command.ts";
import { seedLine } from "./seed-lines.ts";

const CLIENT_SETTINGS: readonly string[] = ["daemonUrl"];

export const serve: Command = {
  summary: "Starts the daemon and serves models until Ctrl-C.",
  usage: "[--models DIR]... [--device auto|cpu|cuda|webgpu]",
  // Object.keys of the table are its names.
  settings: (Object.keys(SETTINGS) as SettingName[]).filter(
    (name) => !CLIENT_SETTINGS.includes(name),
  ),
  async run({ config, print, note, signal }) {
    const logger = createLogger(note, config.logLevel as Parameters<typeof createLogger>[1]);
    const told = {
      ...logger,
      info: (event: string, fields?: Readonly<Record<string, unknown>>) => {
        const line = seedLine(event, fields);
        if (line !== undefined) print(line);
        logger.info(event, fields);
      },
    };
    const daemon = await startDaemon(config, told);
    const { host, port, socketPath } = daemon.listening;
    print(
      `[LunaServer] WebSocket server running on ${host === "127.0.0.1" ? "localhost" : host}:${port}`,
    );
    if (socketPath !== undefined) print(`[LunaServer] Unix socket ${socketPath}`);
    await new Promise<void>((resolve) => {
      if (signal.aborted) resolve();
      signal.addEventListener("abort", () => resolve(), { once: true });
    });
    await daemon.close();
    return 0;
  },
};
