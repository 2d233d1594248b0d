/** `luna` as people start it: processes of their own, their output, exit codes, and what they leave. */
import { readFileSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { type LunaProcess, startAndAwait, startLuna } from "../../src/cli/child-process.ts";
import { serverUrl } from "../../src/cli/demo.ts";
import { tinyModels } from "../support/real-daemon.ts";

const EXAMPLE = join(import.meta.dirname, "../../examples/acceptance.json");
const COMMANDS =
  "serve run instance demo status models loras preload unload comfyui monitor doctor bench acceptance";
const SLOW = ["--device", "cpu", "--threads", "1", "--socket", "off"];

/** A program run from its sources starts slowly on a machine that is busy. */
const START_MS_MAX = 180_000;

let folder: string;
let models: string;
let daemon: LunaProcess;
let url: string;
const daemonLines: string[] = [];

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "luna-cli-"));
  models = await tinyModels();
  const missing = ["--models", join(folder, "missing")];
  const started = await startAndAwait(
    ["serve", "--port", "0", "--models", models, ...missing, ...SLOW, "--log-level", "info"],
    serverUrl,
    {
      onLine: (line) => void daemonLines.push(line),
      onStart: (process) => {
        daemon = process;
      },
    },
  );
  url = started.value;
}, START_MS_MAX);
afterAll(async () => {
  await daemon.stop();
  for (const path of [folder, models]) await rm(path, { recursive: true, force: true });
});

async function luna(...args: string[]) {
  const lines: string[] = [];
  const child = startLuna(args, (line) => void lines.push(line));
  const code = await child.exited;
  return { code, output: lines.join("\n"), errors: child.errors() };
}
const ask = (...args: string[]) => luna(...args, "--daemon", url);
async function json(...args: string[]) {
  const { code, output, errors } = await ask(...args, "--json");
  expect([code, code === 0 ? "" : errors]).toEqual([0, ""]);
  return JSON.parse(output);
}

test("serve says where it listens, and names a model folder that is not there", async () => {
  expect(daemonLines).toContainEqual(
    expect.stringMatching(/^\[LunaServer\] WebSocket server running on localhost:\d+$/),
  );
  const page = await vi.waitFor(() => {
    const found = /Dashboard (\S+)/.exec(daemonLines.join("\n"))?.[1];
    if (found === undefined) throw new Error("The line follows the one that was waited for.");
    return found;
  });
  expect((await fetch(page)).status).toBe(200);
  expect(daemonLines.join("\n")).toContain(`${join(folder, "missing")} does not exist`);
});

test("the overview names every command, each explains itself, and nothing else is taken", async () => {
  const { output } = await luna();
  for (const name of COMMANDS.split(" ")) expect(output).toContain(`  ${name} `);
  const help = await luna("preload", "--help");
  expect([help.code, help.output]).toEqual([0, expect.stringContaining("--pin")]);
  expect(await luna("bogus")).toMatchObject({ code: 1 });
  expect(await luna("status", "--bogus")).toMatchObject({ code: 2 });
  const words = await luna("status", "now");
  expect([words.code, words.errors]).toEqual([2, expect.stringContaining('"now" means nothing')]);
});

test("models, preload, status, unload and loras tell the same as JSON", async () => {
  const id = "checkpoints/tiny.safetensors";
  expect(await json("models")).toContainEqual(expect.objectContaining({ id, isLoaded: false }));
  expect(await json("preload", "tiny")).toMatchObject({ id, family: "sd1" });
  const copies = async () => {
    const { models } = (await json("status")) as { models: { id: string; copies: number }[] };
    return models.find((model) => model.id === id)?.copies;
  };
  expect(await copies()).toBe(1);
  expect(await json("unload", "tiny")).toEqual({ unloaded: "tiny" });
  expect(await copies()).toBe(0);
  await writeFile(join(models, "loras", "mine.safetensors"), "");
  expect(await json("loras")).toContain("mine.safetensors");
  expect(await ask("preload", "none")).toMatchObject({ code: 1 });
});

test("run makes a picture that holds its workflow, and reports it", async () => {
  const sets = ["model.ckpt_name=tiny.safetensors", "clip.ckpt_name=tiny.safetensors"];
  const others = ["sampler.steps=2", "model.daemon_mode=force_daemon"];
  const flags = [...sets, ...others, "gateway.positive_prompt=a red apple, v1.5=best"].flatMap(
    (set) => ["--set", set],
  );
  const out = join(folder, "pictures");
  const run = ["run", EXAMPLE, "--models", models, "--out", out, ...flags];
  const report = await json(...run);
  expect(report).toMatchObject({ workflow: "acceptance", steps: 2, engineRssBytes: 0, loras: [] });
  const picture = await readFile(report.pictures[0]);
  expect(picture.subarray(1, 4).toString()).toBe("PNG");
  expect(picture.toString("latin1")).toContain("LunaConfigGateway");
  const wrong = await ask(...run, "--set", "sampler.steps=many");
  expect([wrong.code, wrong.errors]).toEqual([1, expect.stringContaining("Node sampler")]);
});

test("a daemon that is not there is said with the command that starts it", async () => {
  const { code, errors } = await luna("status", "--daemon", "ws://127.0.0.1:9");
  expect(code).toBe(1);
  expect(errors).toContain("Daemon is not running. Start it with: npx luna serve");
});

test("daemon and instance log lines of JSON to standard error, and nothing of what was asked for", async () => {
  const folders = ["input", "output", "user"].flatMap((name) => [`--${name}`, join(folder, name)]);
  const { process: instance, value } = await startAndAwait(
    ["instance", "--port", "0", "--daemon", url, "--log-level", "info", ...folders],
    (line) => /ComfyUI's API on (\S+)/.exec(line)?.[1],
  );
  const run = async (filename_prefix: string) => {
    const prompt = {
      1: { class_type: "EmptyImage", inputs: { width: 8, height: 8, batch_size: 1, color: 0 } },
      2: { class_type: "SaveImage", inputs: { images: ["1", 0], filename_prefix } },
    };
    const body = JSON.stringify({ prompt, prompt_id: filename_prefix.slice(-4) });
    expect((await fetch(`${value}/prompt`, { method: "POST", body })).status).toBe(200);
  };
  await run("secret-good");
  await run("../secret-evil");
  await vi.waitFor(() => expect(instance.errors().match(/prompt\.done/g)?.length).toBe(2), 20_000);
  await instance.stop();
  const parse = (text: string) => text.split("\n").map((line) => JSON.parse(line));
  const entry = (event: string, fields: Record<string, unknown>) => ({
    ...{ time: expect.stringMatching(/^\d{4}-.*Z$/), level: "info", event },
    ...fields,
  });
  const times = { waitedMs: expect.any(Number), ms: expect.any(Number) };
  expect(parse(instance.errors())).toEqual([
    entry("instance.listening", { url: value, concurrency: 1 }),
    entry("prompt.done", { prompt: "good", status: "success", outputs: 1, ...times }),
    entry("prompt.done", {
      ...{ prompt: "evil", status: "error", outputs: 0, ...times },
      ...{ code: "PATH_REFUSED", node: "SaveImage" },
    }),
  ]);
  expect(instance.errors()).not.toContain("secret");
  const events = parse(daemon.errors()).map(({ event }) => event);
  expect(events).toEqual(expect.arrayContaining(["session.opened", "session.closed"]));
});

/** True while a process has the id; one that is dead and not waited for has it still. */
function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return process.platform !== "linux" || !/\) Z/.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return false;
  }
}

/** Children by /proc; elsewhere none are known. */
function childrenOf(pid: number): number[] {
  if (process.platform !== "linux") return [];
  return readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ").map(Number);
}

test("Ctrl-C in the demo leaves no process, and what the user had in the folder", async () => {
  const own = join(folder, "notes.txt");
  await writeFile(own, "mine");
  const demo = startLuna(["demo", "--out", folder, "--device", "cpu"], () => undefined);
  while (!/starting 4 instances/.test(demo.errors())) await wait(50);
  const daemonPid = Number(/pid (\d+)/.exec(demo.errors())?.[1]);
  const pids = [daemonPid, ...childrenOf(daemonPid), ...childrenOf(demo.child.pid ?? 0)].filter(
    (pid) => pid > 0,
  );
  expect(pids.every(isAlive)).toBe(true);
  demo.child.kill("SIGINT");
  expect(await demo.exited).toBe(130);
  expect(pids.filter(isAlive)).toEqual([]);
  expect(await readFile(own, "utf8")).toBe("mine");
});
