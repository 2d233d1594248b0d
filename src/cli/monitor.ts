import { setTimeout as wait } from "node:timers/promises";
import type { DaemonStatus } from "../protocol/index.ts";
import type { Command } from "./command.ts";
import { withDaemon } from "./daemon-client.ts";
import { processMemory } from "./process-memory.ts";
import { statusText } from "./status.ts";
import { formatBytes } from "./table.ts";

type Sample = Readonly<{
  atMs: number;
  status: DaemonStatus;
  daemonRssBytes: number;
  stepsPerSecond: number;
}>;

const INTERVAL_MS = 1_000;
const totalSteps = (status: DaemonStatus): number =>
  status.sessions.reduce((sum, session) => sum + session.steps, 0);

function sample(status: DaemonStatus, before: Sample | undefined): Sample {
  const atMs = performance.now();
  const seconds = before ? (atMs - before.atMs) / 1000 : 0;
  const steps = before ? Math.max(0, totalSteps(status) - totalSteps(before.status)) : 0;
  return {
    atMs,
    status,
    daemonRssBytes: processMemory(status.daemon.pid)?.rssBytes ?? 0,
    stepsPerSecond: seconds > 0 ? steps / seconds : 0,
  };
}

export const monitor: Command = {
  summary: "Watches memory, clients and steps per second of the running daemon until Ctrl-C.",
  usage: "[--once] [--json]",
  settings: ["daemonUrl", "port", "token", "tokenFile"],
  options: {
    once: { type: "boolean", doc: "Print one sample and end." },
    json: { type: "boolean", doc: "Print one JSON object a sample." },
  },
  async run({ values, config, print, signal }) {
    await withDaemon(config, async (client) => {
      let before: Sample | undefined;
      while (!signal.aborted) {
        const now = sample(await client.status(), before);
        if (values["json"]) print(JSON.stringify(now));
        else {
          const clear = process.stdout.isTTY ? "\u001b[2J\u001b[H" : "";
          print(`${clear}${statusText(now.status)}\n`);
          print(
            `Daemon process ${formatBytes(now.daemonRssBytes)} resident; ${now.stepsPerSecond.toFixed(1)} steps/s`,
          );
        }
        if (values["once"]) return;
        before = now;
        await wait(INTERVAL_MS, undefined, { signal }).catch(() => undefined);
      }
    });
    return 0;
  },
};
