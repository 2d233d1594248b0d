import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import type { LunaClient } from "../client/index.ts";
import { openModels } from "../client/index.ts";
import { LunaError } from "../kernel/index.ts";
import type { DaemonStatus } from "../protocol/index.ts";
import {
  engineFlags,
  type LunaProcess,
  modelFlags,
  startAndAwait,
  startLuna,
} from "./child-process.ts";
import { type Command, type Invocation, JSON_OPTION } from "./command.ts";
import { contactSheet } from "./contact-sheet.ts";
import { clientOptions } from "./daemon-client.ts";
import { processMemory } from "./process-memory.ts";
import { ProgressBars } from "./progress-bars.ts";
import type { RunEvent, RunReport } from "./run-report.ts";
import { formatBytes, textTable } from "./table.ts";

const SHEET = "sheet.png";
const EXAMPLES = fileURLToPath(new URL("../../examples/demo/", import.meta.url));

export type DemoReport = Readonly<{
  elapsedMs: number;
  daemon: Readonly<{
    pid: number;
    rssBytes: number;
    enginePid: number;
    engineRssBytes: number;
    models: readonly Readonly<{ name: string; copies: number; bytes: number }>[];
  }>;
  instances: readonly RunReport[];
  /** Engine runs by how many clients, and by how many rows, shared them. */
  batches: DaemonStatus["batches"];
  stepsPerSecond: number;
  sheet: string;
}>;

/** "[LunaServer] WebSocket server running on localhost:19283" -> its URL. */
export function serverUrl(line: string): string | undefined {
  const port = /WebSocket server running on [^:]+:(\d+)/.exec(line)?.[1];
  return port === undefined ? undefined : `ws://127.0.0.1:${port}`;
}

/** One instance: a process of its own that runs one workflow. */
async function runInstance(
  workflow: string,
  options: {
    url: string;
    out: string;
    bars: ProgressBars;
    started: (process: LunaProcess) => void;
  },
): Promise<RunReport> {
  const name = basename(workflow, ".json");
  let report: RunReport | undefined;
  const args = [
    "run",
    workflow,
    "--daemon",
    options.url,
    "--out",
    join(options.out, name),
    "--events",
  ];
  const luna = startLuna(args, (line) => {
    const event = JSON.parse(line) as RunEvent;
    if (event.type === "progress") options.bars.update(name, event.value, event.max, event.text);
    if (event.type === "report") report = event.report;
  });
  options.started(luna);
  const code = await luna.exited;
  if (code === 0 && report !== undefined) return report;
  throw new LunaError(
    "INTERNAL",
    `The instance "${name}" ended with code ${code}.\n${luna.errors()}`,
  );
}

async function writeSheet(out: string, reports: readonly RunReport[]): Promise<string> {
  const rows = reports.map((report) =>
    Promise.all(
      report.pictures.map(async (path) => {
        const loras = report.loras.map(({ name, strengthModel }) => `${name} ${strengthModel}`);
        const caption = [
          `"${report.prompts[0] ?? ""}"`,
          loras.length > 0 ? `LoRA ${loras.join(" + ")}` : "no LoRA",
          `instance ${report.workflow}, pid ${report.pid}`,
        ];
        return { png: await readFile(path), caption };
      }),
    ),
  );
  const path = join(out, SHEET);
  await writeFile(path, contactSheet(await Promise.all(rows)));
  return path;
}

export function demoTable(report: DemoReport): string {
  const { daemon, instances, batches } = report;
  const rows = instances.map((instance) => [
    instance.workflow,
    formatBytes(instance.rssBytes),
    instance.loras
      .map(({ name, strengthModel }) => `${name.replace(".safetensors", "")}:${strengthModel}`)
      .join(" ") || "-",
    String(instance.steps),
    instance.stepMs.p50.toFixed(1),
    instance.overheadMs.p50.toFixed(2),
    instance.overheadMs.p95.toFixed(2),
  ]);
  const shared = Object.entries(batches.clients).map(
    ([clients, runs]) => `${runs} with ${clients}`,
  );
  return [
    textTable(
      ["instance", "memory", "LoRAs", "steps", "step p50 ms", "overhead p50 ms", "p95 ms"],
      rows,
    ),
    "",
    `daemon  ${formatBytes(daemon.rssBytes)}   engine ${formatBytes(daemon.engineRssBytes)}`,
    ...daemon.models.map(
      ({ name, copies, bytes }) =>
        `model   ${name}: ${formatBytes(bytes)}, copies in memory: ${copies}`,
    ),
    `batches ${batches.total} (clients in a batch: ${shared.join(", ")})`,
    `speed   ${report.stepsPerSecond.toFixed(1)} steps/s in all, ${(report.elapsedMs / 1000).toFixed(1)} s from start to end`,
    `sheet   ${report.sheet}`,
  ].join("\n");
}

async function measure(
  client: LunaClient,
  facts: { instances: RunReport[]; elapsedMs: number; runMs: number; sheet: string },
): Promise<DemoReport> {
  const status = await client.status();
  const models = status.models
    .filter(({ copies }) => copies > 0)
    .map(({ id, copies, bytes }) => ({ name: id, copies, bytes }));
  const steps = facts.instances.reduce((sum, { steps: own }) => sum + own, 0);
  return {
    elapsedMs: facts.elapsedMs,
    daemon: {
      pid: status.daemon.pid,
      rssBytes: processMemory(status.daemon.pid)?.rssBytes ?? 0,
      enginePid: status.engine.pid,
      engineRssBytes: processMemory(status.engine.pid)?.rssBytes ?? status.engine.rssBytes,
      models,
    },
    instances: facts.instances,
    batches: status.batches,
    stepsPerSecond: steps / (facts.runMs / 1000),
    sheet: facts.sheet,
  };
}

async function runDemo(invocation: Invocation, processes: LunaProcess[]): Promise<DemoReport> {
  const startedAtMs = performance.now();
  const out = resolve(String(invocation.values["out"] ?? "out/demo"));
  await mkdir(out, { recursive: true });
  const workflows = (await readdir(EXAMPLES)).filter((name) => name.endsWith(".json")).sort();
  // Only what an earlier demo has left: the folder may be one of the user's own.
  for (const name of [SHEET, ...workflows.map((workflow) => basename(workflow, ".json"))]) {
    await rm(join(out, name), { recursive: true, force: true });
  }
  invocation.signal.throwIfAborted();
  const { process: daemon, value: url } = await startAndAwait(
    [
      "serve",
      "--port",
      "0",
      "--socket",
      "off",
      "--log-level",
      "warn",
      ...engineFlags(invocation.config),
      ...modelFlags(invocation.config),
    ],
    serverUrl,
    { onStart: (started) => void processes.push(started) },
  );
  invocation.note(
    `Daemon is up at ${url} (pid ${daemon.child.pid}); starting ${workflows.length} instances.`,
  );
  const bars = new ProgressBars(workflows.map((name) => basename(name, ".json")));
  const runAtMs = performance.now();
  const started = (luna: LunaProcess) => void processes.push(luna);
  const instances = await Promise.all(
    workflows.map((name) => runInstance(join(EXAMPLES, name), { url, out, bars, started })),
  );
  bars.close();
  const runMs = performance.now() - runAtMs;
  const sheet = await writeSheet(out, instances);
  const client = await openModels({
    mode: "force_daemon",
    ...clientOptions(invocation.config, "luna demo"),
    url,
  });
  try {
    const elapsedMs = performance.now() - startedAtMs;
    return await measure(client, { instances, elapsedMs, runMs, sheet });
  } finally {
    await client.close();
  }
}

export const demo: Command = {
  summary:
    "Starts a daemon with the embedded model and four instances that share it, each with its own workflow and LoRAs.",
  usage: "[--out DIR] [--json]",
  settings: ["device", "threads", "models"],
  options: {
    out: {
      type: "string",
      value: "DIR",
      doc: "Folder for pictures and sheet.png (default out/demo).",
    },
    json: JSON_OPTION,
  },
  async run(invocation) {
    const processes: LunaProcess[] = [];
    const stopped = new Promise<never>((_, reject) => {
      invocation.signal.addEventListener("abort", () => reject(invocation.signal.reason), {
        once: true,
      });
    });
    try {
      const report = await Promise.race([runDemo(invocation, processes), stopped]);
      invocation.print(
        invocation.values["json"] ? JSON.stringify(report, null, 2) : `\n${demoTable(report)}`,
      );
      return 0;
    } finally {
      // Instances first: a daemon that goes before them would only make them wait for it.
      for (const luna of processes.reverse()) await luna.stop();
    }
  },
};
