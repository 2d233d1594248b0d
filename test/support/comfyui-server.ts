/** A real ComfyUI on the CPU, with folders of its own, for comparisons. */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Json } from "./test-instance.ts";

/** Importing PyTorch on a busy machine. */
const START_MS_MAX = 300_000;
const PROMPT_MS_MAX = 300_000;

export type ComfyUi = Readonly<{
  input: string;
  /** Runs a prompt; gives each saved file by its node's id. */
  run: (prompt: Json) => Promise<Map<string, Buffer>>;
  close: () => Promise<void>;
}>;

/** `models` is laid out as ComfyUI's folder of that name; `nodes` holds packages of nodes. */
export async function startComfyUi(
  comfyui: string,
  { models, nodes }: { models: string; nodes: string },
): Promise<ComfyUi> {
  const root = await mkdtemp(join(tmpdir(), "luna-comfyui-"));
  const folder = (name: string) => join(root, name);
  for (const name of ["user", "input", "output", "temp"]) await mkdir(folder(name));
  const places = [
    "models:",
    `  base_path: ${models}`,
    "  checkpoints: checkpoints",
    "  loras: loras",
    `  custom_nodes: ${nodes}`,
  ];
  await writeFile(folder("models.yaml"), places.join("\n"));
  const port = await freePort();
  const python = process.env["COMFYUI_PYTHON"] ?? "python3";
  const folders = ["user", "input", "output", "temp"].flatMap((name) => [
    `--${name}-directory`,
    folder(name),
  ]);
  const args = ["--cpu", "--port", String(port), "--disable-api-nodes", "--preview-method", "none"];
  const child = spawn(
    python,
    [
      join(comfyui, "main.py"),
      ...args,
      ...folders,
      "--extra-model-paths-config",
      folder("models.yaml"),
    ],
    { cwd: root, stdio: ["ignore", "ignore", "pipe"] },
  );
  const errors: string[] = [];
  child.stderr.on("data", (text: Buffer) => errors.push(String(text)));
  const url = `http://127.0.0.1:${port}`;
  const close = async () => {
    child.kill("SIGKILL");
    await rm(root, { recursive: true, force: true });
  };
  try {
    await untilReady(url, child, errors);
  } catch (error) {
    await close();
    throw error;
  }
  return {
    input: folder("input"),
    run: (prompt) => runPrompt(url, prompt, folder("output")),
    close,
  };
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  return typeof address === "object" && address !== null ? address.port : 0;
}

async function untilReady(
  url: string,
  child: ChildProcess,
  errors: readonly string[],
): Promise<void> {
  const end = performance.now() + START_MS_MAX;
  while (performance.now() < end) {
    if (child.exitCode !== null) throw new Error(`ComfyUI ended: ${errors.join("").slice(-2000)}`);
    const isUp = await fetch(`${url}/prompt`).then(
      ({ ok }) => ok,
      () => false,
    );
    if (isUp) return;
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
  throw new Error(`ComfyUI did not start within ${START_MS_MAX} ms.`);
}

async function runPrompt(url: string, prompt: Json, output: string): Promise<Map<string, Buffer>> {
  const response = await fetch(`${url}/prompt`, {
    method: "POST",
    body: JSON.stringify({ prompt }),
  });
  const { prompt_id: id, ...rest } = (await response.json()) as Json;
  if (id === undefined) throw new Error(`ComfyUI refused: ${JSON.stringify(rest)}`);
  const end = performance.now() + PROMPT_MS_MAX;
  while (performance.now() < end) {
    const entry = ((await (await fetch(`${url}/history/${id}`)).json()) as Json)[id];
    if (entry !== undefined) {
      if (entry.status.status_str !== "success") throw new Error(JSON.stringify(entry.status));
      const files = new Map<string, Buffer>();
      for (const [node, ui] of Object.entries(entry.outputs as Record<string, Json>)) {
        const [file] = [...(ui.images ?? []), ...(ui.latents ?? [])];
        files.set(node, await readFile(join(output, file.subfolder, file.filename)));
      }
      return files;
    }
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  throw new Error(`ComfyUI took over ${PROMPT_MS_MAX} ms.`);
}
