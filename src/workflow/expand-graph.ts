/** Nodes that a node put in its own place, as nodes of the prompt. */
import { LunaError } from "../kernel/index.ts";
import type { ExpandedGraph } from "../nodes/index.ts";
import type { Json } from "./json.ts";
import { linkedNodes, type Prompt, type PromptNode } from "./prompt.ts";
import { toLink } from "./run-node.ts";
import type { Definitions } from "./validate-prompt.ts";

export type Expansion = Readonly<{
  /** The node that returned them, and which of its runs. */
  parent: string;
  run: number;
  graph: ExpandedGraph;
}>;

/** Ids as ComfyUI gives them: "parent.run.0.id". */
export function childId({ parent, run, graph }: Expansion, id: string): string {
  return Object.hasOwn(graph, id) ? `${parent}.${run}.0.${id}` : id;
}

/** Throws WORKFLOW_INVALID for unknown classes and nodes, and for cycles. */
export function expandGraph(
  expansion: Expansion,
  prompt: Prompt,
  definitions: Definitions,
): Map<string, PromptNode> {
  const children = new Map<string, PromptNode>();
  for (const [id, { class_type: classType, inputs }] of Object.entries(expansion.graph)) {
    if (!definitions.has(classType)) {
      throw new LunaError(
        "WORKFLOW_INVALID",
        `It made a node of the class ${classType}, which is unknown.`,
      );
    }
    const linked = Object.entries(inputs).map(([name, value]) => {
      const link = toLink(value);
      return [name, link ? [childId(expansion, link.node), BigInt(link.slot)] : value] as const;
    });
    // Values that are not JSON stay as they are: only nodes see them.
    const given = new Map(linked) as Map<string, Json>;
    const fields = new Map<string, Json>([
      ["class_type", classType],
      ["inputs", given],
    ]);
    children.set(childId(expansion, id), { classType, title: undefined, inputs: given, fields });
  }
  checkLinks(children, prompt);
  return children;
}

function checkLinks(children: ReadonlyMap<string, PromptNode>, prompt: Prompt): void {
  const done = new Set<string>();
  const path = new Set<string>();
  const visit = (id: string) => {
    const node = children.get(id);
    if (node === undefined && !prompt.has(id)) {
      throw new LunaError("WORKFLOW_INVALID", `A node that it made links to ${id}: no such node.`);
    }
    if (node === undefined || done.has(id)) return;
    if (path.has(id)) {
      throw new LunaError("WORKFLOW_INVALID", `Nodes that it made form a cycle through ${id}.`);
    }
    path.add(id);
    for (const source of linkedNodes(node)) visit(source);
    path.delete(id);
    done.add(id);
  };
  for (const id of children.keys()) visit(id);
}
