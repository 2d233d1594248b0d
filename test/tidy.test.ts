import { readdirSync, readFileSync } from "node:fs";
import { join, relative, sep } from "node:path";
import { expect, test } from "vitest";

/** Who may import whom (docs/ARCHITECTURE.md); files directly in src/ wire everything. */
const ALLOWED: Record<string, readonly string[]> = {
  kernel: [],
  tensor: ["kernel"],
  checkpoint: ["kernel", "tensor"],
  graph: ["kernel", "tensor", "checkpoint"],
  lora: ["kernel", "tensor", "checkpoint", "graph"],
  protocol: ["kernel", "tensor"],
  engine: ["kernel", "tensor", "checkpoint", "graph", "lora", "protocol"],
  registry: ["kernel", "tensor", "checkpoint", "lora"],
  scheduler: ["kernel"],
  server: ["kernel", "tensor", "checkpoint", "protocol", "scheduler", "registry", "engine"],
  client: ["kernel", "tensor", "checkpoint", "protocol"],
  sampling: ["kernel", "tensor"],
  text: ["kernel", "tensor"],
  nodes: ["kernel", "tensor", "client", "sampling", "text"],
  workflow: ["kernel", "tensor", "nodes"],
  instance: ["kernel", "tensor", "client", "registry", "text", "nodes", "workflow"],
  cli: ["*"],
};
const root = join(import.meta.dirname, "..");
const source = join(root, "src");
const files = readdirSync(source, { recursive: true, encoding: "utf8" })
  .filter((path) => path.endsWith(".ts"))
  .map((path) => join(source, path));
const roomOf = (path: string): string | undefined => {
  const parts = relative(source, path).split(sep);
  return parts.length > 1 ? parts[0] : undefined;
};
const importsOf = (path: string): string[] =>
  [...readFileSync(path, "utf8").matchAll(/(?:from|import)\s*\(?\s*"([^"]+)"/g)].flatMap(
    (m) => m[1] ?? [],
  );

test("every room imports only the rooms it may, through their index", () => {
  const wrong: string[] = [];
  for (const file of files) {
    const room = roomOf(file);
    if (room === undefined) continue;
    const allowed = ALLOWED[room];
    if (allowed === undefined) wrong.push(`${room}: no such room`);
    for (const target of importsOf(file)) {
      if (!target.startsWith(".")) continue;
      const path = join(file, "..", target);
      const isSupport = path.startsWith(join(root, "test", "support"));
      if (isSupport && file.endsWith(".test.ts")) continue;
      const other = roomOf(path);
      if (other === room || allowed?.includes("*")) continue;
      if (other === undefined || !allowed?.includes(other))
        wrong.push(`${relative(source, file)} -> ${target}`);
      else if (!target.endsWith("/index.ts"))
        wrong.push(`${relative(source, file)} -> ${target} (not the index)`);
    }
  }
  expect(wrong).toEqual([]);
});

test("only the engine imports ONNX Runtime, only the configuration reads the environment", () => {
  const wrong: string[] = [];
  for (const file of files) {
    const name = relative(source, file).replaceAll(sep, "/");
    const text = readFileSync(file, "utf8");
    if (/from "onnxruntime/.test(text) && !name.startsWith("engine/"))
      wrong.push(`${name}: onnxruntime`);
    if (/process\.env/.test(text) && name !== "kernel/config.ts")
      wrong.push(`${name}: process.env`);
    if (/FIXME|XXX/.test(text)) wrong.push(`${name}: unfinished mark`);
  }
  expect(wrong).toEqual([]);
});

test("rooms that may run anywhere import nothing of Node", () => {
  const wrong = files.filter((file) => {
    const room = roomOf(file);
    if (room !== "protocol" && room !== "client" && room !== "sampling" && room !== "text")
      return false;
    if (file.endsWith(".test.ts")) return false;
    return importsOf(file).some((target) => target.startsWith("node:"));
  });
  expect(wrong.map((file) => relative(source, file))).toEqual([]);
});

test("no file is longer than 400 lines", () => {
  const long = files
    .map((file) => [relative(source, file), readFileSync(file, "utf8").split("\n").length] as const)
    .filter(([, lines]) => lines > 401);
  expect(long).toEqual([]);
});
