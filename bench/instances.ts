/**
 * What `luna instance` costs and gives, with the embedded model, on an idle machine:
 * `npm run build && npx tsx bench/instances.ts [--steps 12] [--pictures 16] [--processes 1,8,32]`
 * prints memory of 1, 8 and 32 processes after a picture each, then steps a second of the same
 * number of pictures by one process (one and eight prompts at once) and by eight processes.
 * Daemon and instances run from dist/, as users have them.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { processMemory } from "../src/cli/process-memory.ts";
import { textTable } from "../src/cli/table.ts";

const MAIN = fileURLToPath(new URL("../dist/cli/main.js", import.meta.url));
const MB = 1e6;
const { values: flags } = parseArgs({
  options: {
    steps: { type: "string", default: "12" },
    pictures: { type: "string", default: "16" },
    processes: { type: "string", default: "1,8,32" },
  },
});
const [steps, pictures] = [Number(flags.steps), Number(flags.pictures)];

const root = await mkdtemp(join(tmpdir(), "luna-instances-"));
const children: ChildProcess[] = [];
let seeds = 0;

type Luna = Readonly<{ pid: number; url: string; stop: () => Promise<void> }>;

/** Starts a command and waits for the line that has its address. */
function start(args: readonly string[], address: RegExp): Promise<Luna> {
  const child = spawn(process.execPath, [MAIN, ...args], { stdio: ["ignore", "pipe", "inherit"] });
  children.push(child);
  const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  const stop = async () => {
    child.kill("SIGTERM");
    await ended;
  };
  return new Promise((resolve, reject) => {
    createInterface({ input: child.stdout }).on("line", (line) => {
      const url = address.exec(line)?.[1];
      if (url !== undefined) resolve({ pid: child.pid ?? 0, url, stop });
    });
    void ended.then(() => reject(new Error(`luna ${args[0]} ended.`)));
  });
}

function startInstance(daemon: string, concurrency: number): Promise<Luna> {
  const own = join(root, String(children.length));
  const folders = ["input", "output", "user"].flatMap((name) => [`--${name}`, join(own, name)]);
  const flags = ["--port", "0", "--daemon", daemon, "--concurrency", String(concurrency)];
  return start(["instance", ...flags, ...folders], /ComfyUI's API on (\S+)/);
}

/** Text to picture, as ComfyUI's default graph, another seed each. */
function workflow() {
  const text = (words: string) => ({
    class_type: "CLIPTextEncode",
    inputs: { text: words, clip: ["1", 1] },
  });
  const sampling = { steps, cfg: 3, sampler_name: "dpmpp_2m", scheduler: "karras", denoise: 1 };
  const links = { model: ["1", 0], positive: ["2", 0], negative: ["3", 0], latent_image: ["4", 0] };
  const size = { width: 128, height: 128, batch_size: 1 };
  return {
    1: { class_type: "CheckpointLoaderSimple", inputs: { ckpt_name: "luna-emoji-v1.safetensors" } },
    2: text("rocket"),
    3: text(""),
    4: { class_type: "EmptyLatentImage", inputs: size },
    5: { class_type: "KSampler", inputs: { ...sampling, ...links, seed: ++seeds } },
    6: { class_type: "VAEDecode", inputs: { samples: ["5", 0], vae: ["1", 2] } },
    7: { class_type: "SaveImage", inputs: { images: ["6", 0], filename_prefix: "bench" } },
  };
}

/** Queues that many pictures and waits for them. */
async function paint({ url }: Luna, count: number): Promise<void> {
  for (let n = 0; n < count; n++) {
    const body = JSON.stringify({ prompt: workflow() });
    const response = await fetch(`${url}/prompt`, { method: "POST", body });
    if (!response.ok) throw new Error(await response.text());
  }
  for (;;) {
    const status = (await (await fetch(`${url}/prompt`)).json()) as {
      exec_info: { queue_remaining: number };
    };
    if (status.exec_info.queue_remaining === 0) break;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const history = (await (await fetch(`${url}/history`)).json()) as Record<
    string,
    { status: { completed: boolean } }
  >;
  const failed = Object.values(history).filter(({ status }) => !status.completed).length;
  if (failed > 0) throw new Error(`${failed} pictures failed.`);
}

function memoryOf(lunas: readonly Luna[]): string[] {
  const all = lunas.flatMap(({ pid }) => processMemory(pid) ?? []);
  const mean = (values: readonly number[]) =>
    values.reduce((sum, value) => sum + value, 0) / values.length;
  const rss = all.map(({ rssBytes }) => rssBytes / MB);
  const own = all.map(({ privateBytes = Number.NaN }) => privateBytes / MB);
  return [mean(rss), Math.max(...rss), mean(own)].map((value) => `${value.toFixed(0)} MB`);
}

const stopAll = (lunas: readonly Luna[]) => Promise.all(lunas.map(({ stop }) => stop()));

/** Steps a second of all processes together, and their memory after it. */
async function speedOf(daemon: string, processes: number, concurrency: number): Promise<string[]> {
  const lunas = await Promise.all(
    Array.from({ length: processes }, () => startInstance(daemon, concurrency)),
  );
  await Promise.all(lunas.map((luna) => paint(luna, concurrency)));
  const startedAtMs = performance.now();
  await Promise.all(lunas.map((luna) => paint(luna, pictures / processes)));
  const seconds = (performance.now() - startedAtMs) / 1000;
  const row = [`${processes}`, `${concurrency}`, ((pictures * steps) / seconds).toFixed(1)];
  const memory = memoryOf(lunas);
  await stopAll(lunas);
  return [...row, ...memory];
}

try {
  const serve = ["serve", "--port", "0", "--socket", "off", "--device", "cpu"];
  const daemon = await start(serve, /WebSocket server running on localhost(:\d+)/);
  const url = `ws://127.0.0.1${daemon.url}`;
  const rows: string[][] = [];
  for (const count of flags.processes.split(",").map(Number)) {
    const lunas: Luna[] = [];
    // One after another: a machine of two cores has no use for 32 starts at once.
    while (lunas.length < count) lunas.push(await startInstance(url, 1));
    await Promise.all(lunas.map((luna) => paint(luna, 1)));
    rows.push([`${count}`, ...memoryOf(lunas)]);
    await stopAll(lunas);
  }
  console.log(textTable(["processes", "mean", "largest", "private"], rows));
  const speeds: string[][] = [];
  for (const [processes, concurrency] of [
    [1, 1],
    [1, 8],
    [8, 1],
  ] as const) {
    speeds.push(await speedOf(url, processes, concurrency));
  }
  const head = ["processes", "prompts at once", "steps/s", "mean", "largest", "private"];
  console.log(`\n${textTable(head, speeds)}`);
} finally {
  for (const child of children) child.kill("SIGKILL");
  await rm(root, { recursive: true, force: true });
}
