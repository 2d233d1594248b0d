/** What `npm pack` makes, put alone into a clean folder beside its dependencies, serves a picture. */
import { execFileSync, spawn } from "node:child_process";
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { afterAll, expect, test } from "vitest";
import { writeTinyCheckpoint } from "../support/tiny-checkpoint.ts";

/** A build and a daemon's start, on a machine that is busy with other things. */
const BUILD_MS_MAX = 600_000;

const root = join(import.meta.dirname, "../..");
const folder = mkdtempSync(join(tmpdir(), "luna-package-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

type Packed = { filename: string; size: number };
/** The embedded model is nearly all of it. */
const PACKED_BYTES_MAX = 64 * 2 ** 20;

type Manifest = { version: string; files: string[]; dependencies: Record<string, string> };
const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as Manifest;

/** Builds in a copy, so that the working tree's dist stays as it is, and unpacks what npm packs. */
function packAndUnpack(): string {
  const copy = join(folder, "copy");
  const sources = ["src", "tsconfig.json", "tsconfig.build.json", "package.json"];
  for (const name of [...sources, ...manifest.files.filter((file) => file !== "dist")]) {
    cpSync(join(root, name), join(copy, name), { recursive: true });
  }
  symlinkSync(join(root, "node_modules"), join(copy, "node_modules"), "junction");
  const run = (file: string, args: string[]) =>
    execFileSync(process.execPath, [file, ...args], { cwd: copy, encoding: "utf8" });
  run(join(root, "node_modules/typescript/bin/tsc"), ["-p", "tsconfig.build.json"]);
  // npm has no fixed place; where it was not started by npm, the shell finds it.
  const isWindows = process.platform === "win32";
  const options = { cwd: copy, encoding: "utf8", shell: isWindows } as const;
  const args = ["pack", "--ignore-scripts", "--json", "--pack-destination", folder];
  const [packed] = JSON.parse(execFileSync("npm", args, options)) as [Packed];
  expect(packed.size).toBeLessThan(PACKED_BYTES_MAX);
  const modules = join(folder, "clean", "node_modules");
  mkdirSync(modules, { recursive: true });
  execFileSync("tar", ["-xzf", join(folder, packed.filename), "-C", modules]);
  renameSync(join(modules, "package"), join(modules, "luna-daemon"));
  for (const name of Object.keys(manifest.dependencies)) {
    mkdirSync(dirname(join(modules, name)), { recursive: true });
    symlinkSync(join(root, "node_modules", name), join(modules, name), "junction");
  }
  return join(modules, "luna-daemon");
}

test(
  "the package runs in a clean folder",
  async () => {
    const main = join(packAndUnpack(), "dist/cli/main.js");
    const version = execFileSync(process.execPath, [main, "--version"], { encoding: "utf8" });
    expect(version.trim()).toBe(manifest.version);
    for (const door of ["", "/client", "/protocol", "/safetensors"]) {
      const text = `import * as all from "luna-daemon${door}"; console.log(Object.keys(all).length)`;
      const args = ["--input-type=module", "-e", text];
      const options = { cwd: join(folder, "clean"), encoding: "utf8" } as const;
      expect(Number(execFileSync(process.execPath, args, options)), door).toBeGreaterThan(0);
    }
    const models = join(folder, "models");
    mkdirSync(join(models, "checkpoints"), { recursive: true });
    await writeTinyCheckpoint(join(models, "checkpoints", "tiny.safetensors"));
    const serve = ["serve", "--port", "0", "--device", "cpu", "--threads", "1", "--models", models];
    const child = spawn(process.execPath, [main, ...serve], { cwd: join(folder, "clean") });
    try {
      const port = await new Promise<string>((resolve, reject) => {
        createInterface({ input: child.stdout }).on("line", (line) => {
          const found = /running on localhost:(\d+)/.exec(line)?.[1];
          if (found !== undefined) resolve(found);
        });
        child.once("exit", (code) => reject(new Error(`luna serve ended with ${code}`)));
      });
      const address = `http://127.0.0.1:${port}`;
      expect(await (await fetch(address)).text()).toContain("<title>Luna Daemon</title>");
      expect((await fetch(`${address}/dashboard/app.js`)).status).toBe(200);
      const picture = await fetch(`${address}/v1/try`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({
          ...{ name: "test", model: "tiny.safetensors", prompt: "moon", negative: "" },
          ...{ loras: [], seed: 1, steps: 1, cfg: 1, width: 64, height: 64 },
        }),
      });
      const lines = (await picture.text()).trim().split("\n");
      expect(JSON.parse(lines.at(-1) ?? "")).toMatchObject({ type: "picture" });
    } finally {
      const exited = new Promise((resolve) => child.once("exit", resolve));
      child.kill("SIGTERM");
      await exited;
    }
  },
  BUILD_MS_MAX,
);
