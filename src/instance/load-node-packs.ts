/** Nodes of other people: every .js or .mjs file of a folder whose exports are node definitions. */
import { readdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { LunaError } from "../kernel/index.ts";
import { defineNode, type NodeDefinition } from "../nodes/index.ts";

/**
 * Loads and completes them (docs/nodes.md). They run inside this process with all its rights: only
 * put code there that you trust. Throws CONFIG_INVALID naming the file and what is wrong with it.
 */
export async function loadNodePacks(folder: string): Promise<NodeDefinition[]> {
  const root = resolve(folder);
  const names = await readdir(root).catch((cause: unknown) => {
    throw new LunaError("CONFIG_INVALID", `--nodes: ${root} cannot be read.`, { cause });
  });
  const definitions: NodeDefinition[] = [];
  for (const name of names.filter((each) => /\.m?js$/.test(each)).sort()) {
    const path = join(root, name);
    const found = Object.values(await load(path)).filter(isObject);
    for (const candidate of found) definitions.push(complete(candidate, path));
  }
  return definitions;
}

async function load(path: string): Promise<Record<string, unknown>> {
  try {
    return (await import(pathToFileURL(path).href)) as Record<string, unknown>;
  } catch (cause) {
    const text = cause instanceof Error ? cause.message : String(cause);
    throw new LunaError("CONFIG_INVALID", `${path} cannot be loaded: ${text}`, { cause });
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function complete(candidate: Record<string, unknown>, path: string): NodeDefinition {
  const { name, inputs, outputs, run } = candidate;
  const problem =
    typeof name !== "string" || name === ""
      ? "needs a `name`"
      : !isObject(inputs) || !Object.values(inputs).every((spec) => isTyped(spec))
        ? `${name} needs \`inputs\`: {name: {type: "IMAGE"}, ...}`
        : !Array.isArray(outputs) || !outputs.every((each) => isTyped(each))
          ? `${name} needs \`outputs\`: [{type: "IMAGE", name: "IMAGE"}]`
          : typeof run !== "function"
            ? `${name} needs a function \`run\``
            : undefined;
  if (problem !== undefined) {
    throw new LunaError("CONFIG_INVALID", `${path}: a node ${problem}. See docs/nodes.md.`);
  }
  const given = candidate as unknown as Parameters<typeof defineNode>[0]; // Checked above.
  const outputsNamed = given.outputs.map((each) => ({ ...each, name: each.name ?? each.type }));
  return defineNode({
    ...given,
    displayName: given.displayName ?? given.name,
    category: given.category ?? "custom",
    outputs: outputsNamed,
  });
}

function isTyped(value: unknown): boolean {
  return isObject(value) && typeof value["type"] === "string";
}
