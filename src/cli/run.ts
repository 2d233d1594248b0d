import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join, resolve } from "node:path";
import type { LoraRef, StepTiming } from "../client/index.ts";
import { InstanceServices, ModelClients } from "../instance/index.ts";
import { LunaError } from "../kernel/index.ts";
import { modelFoldersOf } from "../model-paths.ts";
import { NODE_DEFINITIONS } from "../nodes/index.ts";
import { packagedTokenizer } from "../packaged-tokenizer.ts";
import { ModelFiles } from "../registry/index.ts";
import {
  createWorkflowRunner,
  invalidWorkflow,
  type Prompt,
  parsePrompt,
  type RunResult,
  setInput,
  type WorkflowEvent,
} from "../workflow/index.ts";
import { type Command, type Invocation, JSON_OPTION } from "./command.ts";
import { clientOptions, daemonUrl } from "./daemon-client.ts";
import { processMemory } from "./process-memory.ts";
import { ProgressBars } from "./progress-bars.ts";
import { promptTexts } from "./prompt-texts.ts";
import type { RunEvent, RunReport } from "./run-report.ts";
import { quantile } from "./table.ts";

type Say = (event: RunEvent) => void;

async function readWorkflow({ positionals, values }: Invocation): Promise<[string, Prompt]> {
  const [path, ...rest] = positionals;
  if (path === undefined || rest.length > 0) {
    throw new LunaError(
      "CONFIG_INVALID",
      "Name one workflow file (ComfyUI: Workflow > Export (API)).",
    );
  }
  const text = await readFile(path, "utf8").catch((cause: unknown) => {
    throw new LunaError("FILE_UNREADABLE", `${path} cannot be read.`, { cause });
  });
  const assignments = (values["set"] ?? []) as readonly string[]; // A multiple string option.
  const set = (prompt: Prompt, assignment: string) =>
    setInput(prompt, assignment, NODE_DEFINITIONS);
  return [path, assignments.reduce(set, parsePrompt(text))];
}

/** Turns events of the run into progress of the whole: each node counts one, a sampler by its steps. */
function progressTeller(prompt: Prompt, say: Say): (event: WorkflowEvent) => void {
  let done = 0;
  let part = 0;
  let text = "";
  const tell = () => say({ type: "progress", value: done + part, max: prompt.size, text });
  return (event) => {
    if (event.type === "executing") text = event.classType;
    else if (event.type === "progress") {
      part = event.value / Math.max(1, event.max);
      text = `${prompt.get(event.node)?.classType ?? ""} ${event.value}/${event.max}`;
    } else if (event.type === "cached") done += event.nodes.length;
    else if (event.type === "finished") {
      done++;
      part = 0;
    } else return;
    tell();
  };
}

function distinctLoras(steps: readonly StepTiming[]): LoraRef[] {
  const found = new Map<string, LoraRef>();
  for (const step of steps) for (const lora of step.loras) found.set(JSON.stringify(lora), lora);
  return [...found.values()];
}

function savedPaths({ outputs }: RunResult, folders: { output: string; temp: string }): string[] {
  return [...outputs.values()].flatMap((ui) =>
    (ui["images"] ?? []).flatMap((image) => {
      const { filename, subfolder, type } = image as Record<string, string>;
      if (filename === undefined || type !== "output") return [];
      return [join(folders.output, subfolder ?? "", filename)];
    }),
  );
}

async function localEngineBytes(clients: ModelClients): Promise<number> {
  for (const client of await clients.opened()) {
    if (client.isDaemon) continue;
    return processMemory((await client.status()).engine.pid)?.rssBytes ?? 0;
  }
  return 0;
}

async function execute(
  invocation: Invocation,
  workflow: { path: string; prompt: Prompt },
  say: Say,
): Promise<RunReport> {
  const startedAtMs = performance.now();
  const { config, signal, values } = invocation;
  const log = (line: string) => say({ type: "log", line });
  const temp = await mkdtemp(join(tmpdir(), "luna-run-"));
  const folders = {
    input: resolve(String(values["input"] ?? "input")),
    output: resolve(String(values["out"] ?? "output")),
    temp,
  };
  const options = clientOptions(config, basename(workflow.path, ".json"));
  const clients = new ModelClients({
    ...options,
    // The engine's room is loaded only when there is no daemon: it is most of a process's memory.
    local: async () => (await import("../daemon.ts")).openLocalPeer(config, options.client),
    say: log,
  });
  try {
    const services = new InstanceServices({
      clients,
      files: new ModelFiles(modelFoldersOf(config), () => performance.now()),
      folders,
      tokenizer: packagedTokenizer(),
      address: daemonUrl(config),
      log,
    });
    const runner = createWorkflowRunner({ definitions: NODE_DEFINITIONS, services });
    const validation = await runner.validate(workflow.prompt);
    if (validation.error !== undefined) throw invalidWorkflow(validation);
    const result = await runner.execute(validation, {
      signal,
      onEvent: progressTeller(workflow.prompt, say),
    });
    const steps = (await clients.opened()).flatMap((client) => client.steps.steps);
    const quantiles = (pick: (step: StepTiming) => number) => ({
      p50: quantile(steps.map(pick), 0.5),
      p95: quantile(steps.map(pick), 0.95),
    });
    return {
      pid: process.pid,
      rssBytes: processMemory(process.pid)?.rssBytes ?? process.memoryUsage().rss,
      engineRssBytes: await localEngineBytes(clients),
      workflow: basename(workflow.path, ".json"),
      pictures: savedPaths(result, folders),
      loras: distinctLoras(steps),
      prompts: promptTexts(workflow.prompt),
      steps: steps.length,
      elapsedMs: performance.now() - startedAtMs,
      stepMs: quantiles(({ totalMs }) => totalMs),
      overheadMs: quantiles(({ overheadMs }) => overheadMs),
    };
  } finally {
    await clients.close();
    await rm(temp, { recursive: true, force: true });
  }
}

function reportText(report: RunReport): string {
  const loras = report.loras.map(
    ({ name, strengthModel, strengthClip }) => `${name} ${strengthModel}/${strengthClip}`,
  );
  return [
    ...report.pictures,
    `${report.steps} steps in ${(report.elapsedMs / 1000).toFixed(1)} s, step p50 ${report.stepMs.p50.toFixed(1)} ms, overhead p50 ${report.overheadMs.p50.toFixed(2)} ms`,
    ...(loras.length > 0 ? [`LoRAs ${loras.join(", ")}`] : []),
  ].join("\n");
}

export const run: Command = {
  summary: "Runs a workflow in ComfyUI's API format and saves its pictures.",
  usage: "WORKFLOW.json [--set NODE.INPUT=VALUE]... [--out DIR] [--json]",
  hasOperands: true,
  settings: [
    "daemonUrl",
    "port",
    "token",
    "tokenFile",
    "models",
    "extraModelPaths",
    "device",
    "threads",
    "memoryMiB",
    "loraCacheMiB",
  ],
  options: {
    set: {
      type: "string",
      multiple: true,
      value: "NODE.INPUT=VALUE",
      doc: "Change an input before the run.",
    },
    out: { type: "string", value: "DIR", doc: "Folder for pictures (default output)." },
    input: {
      type: "string",
      value: "DIR",
      doc: "Folder that LoadImage reads from (default input).",
    },
    events: { type: "boolean", doc: "Print progress and report as lines of JSON." },
    json: JSON_OPTION,
  },
  async run(invocation) {
    const { values, print, note } = invocation;
    const [path, prompt] = await readWorkflow(invocation);
    if (values["events"]) {
      const say: Say = (event) => print(JSON.stringify(event));
      say({ type: "report", report: await execute(invocation, { path, prompt }, say) });
      return 0;
    }
    const bars = new ProgressBars([basename(path, ".json")]);
    const report = await execute(invocation, { path, prompt }, (event) => {
      if (event.type === "log") note(event.line);
      if (event.type === "progress")
        bars.update(basename(path, ".json"), event.value, event.max, event.text);
    });
    bars.close();
    print(values["json"] ? JSON.stringify(report, null, 2) : reportText(report));
    return 0;
  },
};
