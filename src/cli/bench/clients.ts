import { spawn } from "node:child_process";
import { extname } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { LunaError } from "../../kernel/index.ts";
import { processMemory } from "../process-memory.ts";
import { type BenchBed, type Figures, median } from "./bed.ts";
import { EMBEDDED } from "./models.ts";

const CLIENTS = 4;

/** Memory that one more client takes: its own process, and what it adds to daemon and engine. */
export async function clients(bed: BenchBed): Promise<Figures> {
  const name = await bed.unet("embedded", EMBEDDED);
  const daemon = await bed.daemon();
  const watcher = await bed.client(daemon.url, "watcher");
  const { model } = await watcher.registerCheckpoint({ name });
  const serverBytes = async () => {
    const { engine } = await watcher.status();
    return [daemon.pid, engine.pid].reduce(
      (sum, pid) => sum + (processMemory(pid)?.rssBytes ?? 0),
      0,
    );
  };
  const extension = extname(import.meta.url);
  const script = fileURLToPath(new URL(`./client-process${extension}`, import.meta.url));
  const loader = extension === ".ts" ? ["--import", import.meta.resolve("tsx")] : [];
  const rows: { rssBytes: number; privateBytes: number; serverBytes: number }[] = [];
  const children: ReturnType<typeof spawn>[] = [];
  try {
    for (let n = 0; n < CLIENTS; n++) {
      const before = await serverBytes();
      const child = spawn(
        process.execPath,
        [...loader, script, daemon.url, model?.info.id ?? name],
        {
          stdio: ["pipe", "pipe", "inherit"],
        },
      );
      children.push(child);
      await new Promise<void>((resolve, reject) => {
        createInterface({ input: child.stdout }).once("line", () => resolve());
        child.once("exit", (code) =>
          reject(new LunaError("INTERNAL", `A bench client ended with ${code}.`)),
        );
      });
      const { rssBytes = 0, privateBytes = 0 } = processMemory(child.pid ?? 0) ?? {};
      rows.push({ rssBytes, privateBytes, serverBytes: (await serverBytes()) - before });
    }
  } finally {
    for (const child of children) child.kill();
    await daemon.stop();
  }
  return {
    rssBytes: rows.at(-1)?.rssBytes ?? 0,
    privateBytes: rows.at(-1)?.privateBytes ?? 0,
    serverBytes: median(rows.map((row) => row.serverBytes)),
    clients: rows,
  };
}
