/**
 * From a checked prompt to tasks: which nodes compute the same thing, what a cached result is
 * named by, and what has to run. The name of a result is a digest of its node type, constants and
 * the names of what it is linked to, so ids play no part and a renamed node finds its result.
 */
import { createHash, randomUUID } from "node:crypto";
import type { NodeContext, NodeDefinition } from "../nodes/index.ts";
import { isJson, type Json, type JsonObject, toPythonJson } from "./json.ts";
import { linkedNodes, type Prompt, type PromptNode, readLink } from "./prompt.ts";
import type { Definitions } from "./validate-prompt.ts";

/** One computation; several nodes may share it. */
export type Task = Readonly<{
  key: string;
  /** Nodes that show this result, the first of them runs. */
  nodes: readonly string[];
  /** Keys of the tasks whose results it starts from; what feeds lazy inputs alone is not among them. */
  sources: readonly string[];
  isOutput: boolean;
}>;

export type Plan = Readonly<{
  /** Sources before their users. */
  tasks: ReadonlyMap<string, Task>;
  keyOf: ReadonlyMap<string, string>;
}>;

export type PlanOptions = Readonly<{
  definitions: Definitions;
  /** Nodes to make; of a whole prompt its output nodes. */
  outputs: readonly string[];
  /** Nodes that have their keys already, when a node adds others to the prompt. */
  known?: ReadonlyMap<string, string>;
  contextOf(nodeId: string): NodeContext;
}>;

/** Names every node that feeds the outputs. The prompt is valid: no cycles, no missing nodes. */
export async function planRun(prompt: Prompt, options: PlanOptions): Promise<Plan> {
  const keyOf = new Map(options.known);
  const tasks = new Map<string, Task>();
  const nodeOf = (id: string) => {
    const node = prompt.get(id);
    if (node === undefined) throw new Error(`The prompt links to node ${id}, which it lacks.`);
    return node;
  };
  for (const id of inOrder(options.outputs, nodeOf)) {
    if (keyOf.has(id)) continue;
    const node = nodeOf(id);
    const key = await resultKey(id, { node, keyOf, options });
    keyOf.set(id, key);
    const twin = tasks.get(key);
    const isOutput = options.outputs.includes(id) || twin?.isOutput === true;
    const definition = options.definitions.get(node.classType ?? "");
    const eager = [...node.inputs].filter(([name]) => definition?.inputs[name]?.isLazy !== true);
    const sources = linkedNodes({ inputs: new Map(eager) }).map((each) => keyOf.get(each) ?? "");
    tasks.set(key, { key, nodes: [...(twin?.nodes ?? []), id], sources, isOutput });
  }
  return { tasks, keyOf };
}

function constantsOf(inputs: JsonObject): Record<string, unknown> {
  return Object.fromEntries([...inputs].filter(([, value]) => readLink(value) === undefined));
}

/** Ancestors of the outputs, sources first, without recursion: chains may be long. */
function inOrder(outputs: readonly string[], nodeOf: (id: string) => PromptNode): string[] {
  const ordered = new Set<string>();
  const stack = [...outputs].reverse();
  while (stack.length > 0) {
    const id = stack.at(-1) ?? "";
    const missing = linkedNodes(nodeOf(id)).filter((source) => !ordered.has(source));
    if (missing.length > 0 && !ordered.has(id)) stack.push(...missing.reverse());
    else {
      ordered.add(id);
      stack.pop();
    }
  }
  return [...ordered];
}

async function resultKey(
  id: string,
  {
    node,
    keyOf,
    options,
  }: { node: PromptNode; keyOf: ReadonlyMap<string, string>; options: PlanOptions },
): Promise<string> {
  const definition = options.definitions.get(node.classType ?? "");
  const inputs = [...node.inputs].map(([name, value]) => {
    const link = readLink(value);
    const text = link === undefined ? constantKey(value) : `@${keyOf.get(link.node)}.${link.slot}`;
    return `${JSON.stringify(name)}: ${text}`;
  });
  const change = await changeOf(definition, constantsOf(node.inputs), options.contextOf(id));
  const hash = createHash("sha256");
  for (const part of [node.classType ?? "", change, ...inputs.sort()]) hash.update(`${part}\n`);
  return hash.digest("hex");
}

/** Nodes that are made by nodes may hold any value; what is not JSON is like no other. */
function constantKey(value: Json): string {
  return isJson(value) ? toPythonJson(value) : randomUUID();
}

async function changeOf(
  definition: NodeDefinition | undefined,
  constants: Readonly<Record<string, unknown>>,
  context: NodeContext,
): Promise<string> {
  try {
    return (await definition?.changeKey?.(constants, context)) ?? "";
  } catch {
    // Whatever is wrong, the node itself will say it when it runs; it must run for that.
    return randomUUID();
  }
}

/** Keys that must run for `targets`: the uncached ones on the way back; a cached one hides its sources. */
export function uncachedKeys(
  plan: Plan,
  targets: readonly string[],
  isCached: (key: string) => boolean,
): Set<string> {
  const wanted = new Set<string>();
  const stack = [...targets];
  while (stack.length > 0) {
    const key = stack.pop() ?? "";
    if (wanted.has(key) || isCached(key)) continue;
    wanted.add(key);
    stack.push(...(plan.tasks.get(key)?.sources ?? []));
  }
  return wanted;
}

/**
 * Which of the ready tasks runs next, so that pictures appear early: an output, else what feeds an
 * output, else what is two steps away, else the first.
 */
export function pickNext(
  ready: readonly Task[],
  steps: ReadonlyMap<string, number>,
): Task | undefined {
  const distance = (task: Task) => steps.get(task.key) ?? Number.POSITIVE_INFINITY;
  return ready.reduce<Task | undefined>(
    (best, task) => (best === undefined || distance(task) < distance(best) ? task : best),
    undefined,
  );
}

/** Steps from a task to the nearest output, for tasks at most two away. */
export function stepsToOutput({ tasks }: Plan): Map<string, number> {
  const steps = new Map<string, number>();
  let reached = [...tasks.values()].filter(({ isOutput }) => isOutput);
  for (let step = 0; step <= 2; step++) {
    for (const { key } of reached) if (!steps.has(key)) steps.set(key, step);
    const sources = new Set(reached.flatMap((task) => task.sources));
    reached = [...sources].flatMap((key) => tasks.get(key) ?? []);
  }
  return steps;
}
