/**
 * One node over lists: every output is a list of values, mostly of one. A node runs as often as its
 * longest input is long, shorter lists repeat their last item, and the results are gathered again.
 */
import { LunaError } from "../kernel/index.ts";
import type { NodeContext, NodeDefinition, NodeResult, NodeUi } from "../nodes/index.ts";
import { LIST_RUNS_MAX } from "./limits.ts";
import { usedInputs } from "./plan-run.ts";
import { type PromptNode, readLink } from "./prompt.ts";

/** A node's outputs as lists, and what clients are shown. */
export type TaskResult = Readonly<{ outputs: readonly (readonly unknown[])[]; ui?: NodeUi }>;

/** The output lists of a linked node. */
export type OutputsOf = (nodeId: string) => TaskResult;

export async function runNode(
  node: PromptNode,
  definition: NodeDefinition,
  { outputsOf, context }: { outputsOf: OutputsOf; context: NodeContext },
): Promise<TaskResult> {
  const lists = new Map<string, readonly unknown[]>();
  const inputs = usedInputs(node, definition);
  for (const [name, { type }] of Object.entries(definition.inputs)) {
    const value = inputs.get(name);
    if (value === undefined) continue;
    const link = readLink(value);
    const values = link === undefined ? [value] : (outputsOf(link.node).outputs[link.slot] ?? []);
    lists.set(
      name,
      requireValues(name, values).map((item) => toNodeValue(item, type)),
    );
  }
  if (definition.isInputList) {
    return gather([await definition.run(Object.fromEntries(lists), context)], definition);
  }
  const results: NodeResult[] = [];
  for (let index = 0; index < countRuns(lists); index++) {
    context.signal.throwIfAborted();
    const inputs = [...lists].map(([name, list]) => [name, list[Math.min(index, list.length - 1)]]);
    results.push(await definition.run(Object.fromEntries(inputs), context));
  }
  return gather(results, definition);
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

function gather(results: readonly NodeResult[], definition: NodeDefinition): TaskResult {
  const outputs = definition.outputs.map(({ isList }, slot) =>
    results.flatMap((result) => {
      const value = result.outputs[slot];
      return isList === true && Array.isArray(value) ? value : [value];
    }),
  );
  const shown = results.flatMap(({ ui }) => (ui === undefined ? [] : [ui]));
  return shown.length === 0 ? { outputs } : { outputs, ui: mergeUi(shown) };
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
