/**
 * One node over lists: every output is a list of values, mostly of one. A node runs as often as its
 * longest input is long, shorter lists repeat their last item, and the results are gathered again.
 */
import { LunaError } from "../kernel/index.ts";
import {
  ExecutionBlocker,
  type ExpandedGraph,
  type NodeContext,
  type NodeDefinition,
  type NodeResult,
  type NodeUi,
} from "../nodes/index.ts";
import { LIST_RUNS_MAX } from "./limits.ts";
import { type Link, type PromptNode, readLink } from "./prompt.ts";

/** A node's outputs as lists, and what clients are shown. */
export type TaskResult = Readonly<{ outputs: readonly (readonly unknown[])[]; ui?: NodeUi }>;

/** What the executor does for a node on the way. */
export type NodeSurroundings = Readonly<{
  context: NodeContext;
  /** Undefined for a source that was not made, which only feeds lazy inputs. */
  outputsOf: (nodeId: string) => TaskResult | undefined;
  make: (nodeIds: readonly string[]) => Promise<void>;
  /** Runs the nodes that run number `run` returned; gives what a link into them stands for. */
  expand: (
    graph: ExpandedGraph,
    links: readonly Link[],
    run: number,
  ) => Promise<(link: Link) => readonly unknown[]>;
  /** An input says that this node may not run, and why. */
  tellBlocked: (message: string) => void;
}>;

type Inputs = Readonly<Record<string, unknown>>;

export async function runNode(
  node: PromptNode,
  definition: NodeDefinition,
  surroundings: NodeSurroundings,
): Promise<TaskResult> {
  await makeLazyInputs(node, definition, surroundings);
  const { context } = surroundings;
  const results: TaskResult[] = [];
  for (const [index, inputs] of runsOf(node, definition, surroundings).entries()) {
    context.signal.throwIfAborted();
    const blocker = findBlocker(inputs, definition.isInputList);
    if (blocker === undefined) {
      const result = await definition.run(inputs, context);
      results.push(await toLists(result, definition, { surroundings, index }));
    } else {
      if (blocker.message !== undefined) surroundings.tellBlocked(blocker.message);
      // Told once: what depends on this node is stopped silently.
      results.push({ outputs: definition.outputs.map(() => [new ExecutionBlocker()]) });
    }
  }
  return gather(results, definition);
}

/** Makes the lazy inputs that the node wants, as long as it wants more. */
async function makeLazyInputs(
  node: PromptNode,
  definition: NodeDefinition,
  surroundings: NodeSurroundings,
): Promise<void> {
  const { neededInputs } = definition;
  if (neededInputs === undefined) return;
  for (;;) {
    const wanted = runsOf(node, definition, surroundings).flatMap((inputs) => neededInputs(inputs));
    const sources = wanted.flatMap((name) => readLink(node.inputs.get(name))?.node ?? []);
    const missing = sources.filter((id) => surroundings.outputsOf(id) === undefined);
    if (missing.length === 0) return;
    await surroundings.make([...new Set(missing)]);
  }
}

/** The inputs of each run. */
function runsOf(
  node: PromptNode,
  definition: NodeDefinition,
  { outputsOf }: NodeSurroundings,
): Inputs[] {
  const lists = new Map<string, readonly unknown[]>();
  for (const [name, { type, isLazy }] of Object.entries(definition.inputs)) {
    const value = node.inputs.get(name);
    if (value === undefined) continue;
    const link = readLink(value);
    const source = link && outputsOf(link.node);
    if (link !== undefined && source === undefined) {
      if (isLazy === true) continue;
      throw new Error(`Input ${name} has no value: node ${link.node} did not run.`);
    }
    const values = link === undefined ? [value] : (source?.outputs[link.slot] ?? []);
    lists.set(
      name,
      requireValues(name, values).map((item) => toNodeValue(item, type)),
    );
  }
  if (definition.isInputList) return [Object.fromEntries(lists)];
  return Array.from({ length: countRuns(lists) }, (_, index) =>
    Object.fromEntries(
      [...lists].map(([name, list]) => [name, list[Math.min(index, list.length - 1)]]),
    ),
  );
}

function findBlocker(inputs: Inputs, isInputList: boolean): ExecutionBlocker | undefined {
  const values = Object.values(inputs).flatMap((value) =>
    isInputList && Array.isArray(value) ? (value as unknown[]) : [value],
  );
  return values.find(ExecutionBlocker.is);
}

/** A loader gives undefined for a part that its file lacks. */
function requireValues(name: string, values: readonly unknown[]): readonly unknown[] {
  if (!values.includes(undefined)) return values;
  throw new LunaError(
    "CHECKPOINT_UNSUPPORTED",
    `Input ${name} is empty: the file that was loaded holds no such part. Load it from another file.`,
  );
}

/** Integers reach nodes as numbers, except seeds, which may need all 64 bits. */
function toNodeValue(value: unknown, type: string): unknown {
  if (type === "SEED" && typeof value === "number") return BigInt(Math.trunc(value));
  const isNumber = type === "INT" || type === "FLOAT";
  return isNumber && typeof value === "bigint" ? Number(value) : value;
}

function countRuns(lists: ReadonlyMap<string, readonly unknown[]>): number {
  let count = 1;
  for (const [name, list] of lists) {
    if (list.length === 0) {
      throw new LunaError("WORKFLOW_INVALID", `Input ${name} got an empty list.`);
    }
    count = Math.max(count, list.length);
  }
  if (count > LIST_RUNS_MAX) {
    throw new LunaError(
      "LIMIT_EXCEEDED",
      `An input is a list of ${count} items, limit ${LIST_RUNS_MAX}.`,
    );
  }
  return count;
}

/** One run's outputs as lists, links into the nodes it made followed. */
async function toLists(
  result: NodeResult,
  { outputs }: NodeDefinition,
  { surroundings, index }: { surroundings: NodeSurroundings; index: number },
): Promise<TaskResult> {
  const { expand: graph, ui } = result;
  const links = graph === undefined ? [] : result.outputs.flatMap((value) => toLink(value) ?? []);
  const follow = graph && (await surroundings.expand(graph, links, index));
  const lists = outputs.map(({ isList }, slot) => {
    const value = result.outputs[slot];
    const link = follow && toLink(value);
    if (link !== undefined) return follow?.(link) ?? [];
    return isList === true && Array.isArray(value) ? (value as unknown[]) : [value];
  });
  return { outputs: lists, ...(ui && { ui }) };
}

/** A link as a node writes it, with a plain number. */
export function toLink(value: unknown): Link | undefined {
  if (!Array.isArray(value) || value.length !== 2) return undefined;
  const [node, slot]: unknown[] = value;
  return typeof node === "string" && Number.isInteger(Number(slot)) && typeof slot !== "string"
    ? { node, slot: Number(slot) }
    : undefined;
}

function gather(results: readonly TaskResult[], { outputs }: NodeDefinition): TaskResult {
  const lists = outputs.map((_, slot) => results.flatMap((result) => result.outputs[slot] ?? []));
  const shown = results.flatMap(({ ui }) => (ui === undefined ? [] : [ui]));
  return { outputs: lists, ...(shown.length > 0 && { ui: mergeUi(shown) }) };
}

function mergeUi(shown: readonly NodeUi[]): NodeUi {
  const merged: Record<string, unknown[]> = {};
  for (const ui of shown) {
    for (const [key, items] of Object.entries(ui)) {
      merged[key] = [...(merged[key] ?? []), ...items];
    }
  }
  return merged;
}
