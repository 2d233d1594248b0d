#!/usr/bin/env node
import { setFlagsFromString } from "node:v8";
import { VERSION } from "../version.ts";
import { type Command, runCommand } from "./command.ts";

/*
 * Daemon and instances handle few small objects and large buffers, which lie outside V8's heap. Its
 * young generation stays at the 1 MB it begins with instead of growing to 16: some 20 MB less for an
 * instance, 40 for the daemon, at no measurable cost. It must be said before there is anything in it.
 */
setFlagsFromString("--semi-space-growth-factor=1");

/** Loaded on demand: `luna run` must stay a light process. */
const COMMANDS: Readonly<Record<string, [summary: string, load: () => Promise<Command>]>> = {
  serve: ["Start the daemon.", async () => (await import("./serve.ts")).serve],
  run: ["Run a workflow (API-format JSON).", async () => (await import("./run.ts")).run],
  instance: [
    "Answer ComfyUI's API, with the daemon's models.",
    async () => (await import("./instance.ts")).instance,
  ],
  demo: [
    "Four instances, one model: pictures and a table.",
    async () => (await import("./demo.ts")).demo,
  ],
  status: ["What the daemon holds and does.", async () => (await import("./status.ts")).status],
  models: ["Models on disk and in memory.", async () => (await import("./models.ts")).models],
  loras: ["LoRAs on disk.", async () => (await import("./models.ts")).loras],
  preload: ["Load a model now.", async () => (await import("./models.ts")).preload],
  unload: ["Give a model's memory back.", async () => (await import("./models.ts")).unload],
  comfyui: ["Put Luna's nodes into a ComfyUI.", async () => (await import("./comfyui.ts")).comfyui],
  monitor: ["Watch memory and speed.", async () => (await import("./monitor.ts")).monitor],
  doctor: [
    "Check this machine and say what to do.",
    async () => (await import("./doctor.ts")).doctor,
  ],
  bench: ["Measure this machine.", async () => (await import("./bench.ts")).bench],
  acceptance: [
    "The eight acceptance tests.",
    async () => (await import("./acceptance.ts")).acceptance,
  ],
};

function overview(): string {
  const lines = Object.entries(COMMANDS).map(
    ([name, [summary]]) => `  ${name.padEnd(11)} ${summary}`,
  );
  return ["Usage: luna COMMAND [options]   (luna COMMAND --help)", "", ...lines].join("\n");
}

const [name = "--help", ...args] = process.argv.slice(2);
const entry = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
if (entry !== undefined) {
  process.exitCode = await runCommand(name, await entry[1](), args);
} else if (name === "--version" || name === "-v") {
  process.stdout.write(`${VERSION}\n`);
} else {
  const isHelp = name === "--help" || name === "-h" || name === "help";
  const text = isHelp ? overview() : `luna: there is no command "${name}".\n\n${overview()}`;
  (isHelp ? process.stdout : process.stderr).write(`${text}\n`);
  process.exitCode = isHelp ? 0 : 1;
}
