import { appendFile, stat } from "node:fs/promises";
import { setTimeout as wait } from "node:timers/promises";
import { LunaError } from "../kernel/index.ts";
import type { Command } from "./command.ts";
import { daemonUrl, withDaemon } from "./daemon-client.ts";
import { gpuMemory } from "./gpu-memory.ts";
import {
  CSV_HEADER,
  csvLines,
  type Machine,
  type MonitorSample,
  sampleText,
  takeSample,
} from "./monitor-sample.ts";
import { processMemory } from "./process-memory.ts";

const NOT_HERE: Machine = { memory: () => undefined, gpu: undefined };
const INTERVAL_MS = 1_000;
/** Home and clear below: a whole clear would flicker. */
const TO_TOP = "\u001b[H\u001b[J";

/** Appends to the file; the header only where it begins. */
async function openCsv(path: string): Promise<(sample: MonitorSample) => Promise<void>> {
  const write = async (lines: readonly string[]) => {
    await appendFile(path, lines.map((line) => `${line}\n`).join("")).catch((cause) => {
      const message = `Cannot write ${path}: ${String(cause)}.`;
      throw new LunaError("CONFIG_INVALID", message, { cause });
    });
  };
  const isEmpty = await stat(path).then(
    ({ size }) => size === 0,
    () => true,
  );
  if (isEmpty) await write([CSV_HEADER]);
  return (sample) => write(csvLines(sample));
}

export const monitor: Command = {
  summary: "Watches memory, clients and steps per second of daemon and instances until Ctrl-C.",
  usage: "[--csv FILE] [--once] [--json]",
  settings: ["daemonUrl", "port", "token", "tokenFile"],
  options: {
    csv: { type: "string", value: "FILE", doc: "Append a line for each process and second." },
    once: { type: "boolean", doc: "Print one sample, measured over a second, and end." },
    json: { type: "boolean", doc: "Print one JSON object a sample." },
  },
  async run({ values, config, print, signal }) {
    const save = values["csv"] === undefined ? undefined : await openCsv(String(values["csv"]));
    const isHere = /^wss?:\/\/(127\.|localhost|\[::1\])/.test(daemonUrl(config));
    await withDaemon(config, async (client) => {
      const measure = async (before?: MonitorSample) => {
        const [status, gpu] = [await client.status(), await gpuMemory()];
        const { sessions, ...others } = status;
        // This session only watches: it is no instance.
        const facts = { ...others, sessions: sessions.filter(({ pid }) => pid !== process.pid) };
        // Numbers of processes mean nothing on another machine.
        const machine = isHere ? { memory: processMemory, gpu } : NOT_HERE;
        return takeSample({ atMs: Date.now(), status: facts }, before, machine);
      };
      const pause = () => wait(INTERVAL_MS, undefined, { signal }).catch(() => undefined);
      let before = await measure();
      await pause();
      while (!signal.aborted) {
        const sample = await measure(before);
        await save?.(sample);
        if (values["json"]) print(JSON.stringify(sample));
        else print(`${process.stdout.isTTY ? TO_TOP : ""}${sampleText(sample)}\n`);
        if (values["once"]) return;
        before = sample;
        await pause();
      }
    });
    return 0;
  },
};
