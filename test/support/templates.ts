/** Templates of ComfyUI's editor, made small enough for the embedded model and a CPU. */
import type { Json } from "./test-instance.ts";

/** Nodes that the editor keeps for itself. */
const EDITOR_NODES = ["MarkdownNote", "Note", "PrimitiveNode", "Reroute"];
const SIDE_MAX = 128;
const STEPS = 4;
const SIZES = ["width", "height"];
/** Places of areas, in pixels. */
const PLACES = ["x", "y"];

/** Class names of a graph as the editor saves it, subgraphs included. */
export function templateNodes(graph: Json): string[] {
  const subgraphs: Json[] = graph.definitions?.subgraphs ?? [];
  const own = subgraphs.map(({ id }) => id);
  const nodes: Json[] = [graph, ...subgraphs].flatMap(({ nodes }) => nodes);
  const types = new Set(nodes.map(({ type }) => String(type)));
  return [...types].filter((type) => !EDITOR_NODES.includes(type) && !own.includes(type)).sort();
}

/** The prompt with files that are there, sides up to 128 pixels and four steps. */
export function smallPrompt(prompt: Json, objectInfo: Json): Json {
  const nodes: [string, Json][] = Object.entries(prompt);
  return Object.fromEntries(
    nodes.map(([id, node]) => {
      const { required, optional } = objectInfo[node.class_type].input;
      const specs = { ...required, ...optional };
      const inputs: [string, Json][] = Object.entries(node.inputs);
      const changed = inputs.map(([name, value]) => [
        name,
        smallInput(name, value, { choices: specs[name]?.[0], steps: node.inputs.steps }),
      ]);
      return [id, { ...node, inputs: Object.fromEntries(changed) }];
    }),
  );
}

function smallInput(
  name: string,
  value: Json,
  { choices, steps }: { choices: Json; steps: Json },
): Json {
  if (Array.isArray(choices) && !choices.includes(value)) return choices[0];
  if (typeof value !== "number") return value;
  if (name === "steps") return Math.min(value, STEPS);
  // A part of the steps stays that part of them.
  const isStep = name === "start_at_step" || name === "end_at_step";
  if (isStep && value <= steps) return Math.round((value * Math.min(steps, STEPS)) / steps);
  if (PLACES.includes(name)) return Math.min(value, SIDE_MAX / 2);
  return SIZES.includes(name) ? Math.min(value, SIDE_MAX) : value;
}
