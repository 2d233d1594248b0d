/** Node definitions in the JSON of ComfyUI's /object_info. */
import type { NodeDefinition, NodeServices } from "../nodes/index.ts";
import { describeInput } from "../workflow/index.ts";

type Lists = Pick<NodeServices, "listFiles" | "listInputImages">;

/** Lists of files are read anew each time, as ComfyUI does. */
export async function describeNodes(
  definitions: Iterable<NodeDefinition>,
  lists: Lists,
): Promise<Record<string, unknown>> {
  const cached = rememberLists(lists);
  const described: Record<string, unknown> = {};
  for (const definition of definitions) {
    described[definition.name] = await describeNode(definition, cached);
  }
  return described;
}

async function describeNode(definition: NodeDefinition, lists: Lists): Promise<unknown> {
  const input: Record<string, Record<string, unknown>> = { required: {} };
  for (const [name, spec] of Object.entries(definition.inputs)) {
    const group = spec.isOptional === true ? "optional" : "required";
    input[group] = { ...input[group], [name]: await describeInput(spec, lists) };
  }
  return {
    input,
    input_order: Object.fromEntries(
      Object.entries(input).map(([group, inputs]) => [group, Object.keys(inputs)]),
    ),
    is_input_list: definition.isInputList,
    output: definition.outputs.map(({ type }) => type),
    output_is_list: definition.outputs.map(({ isList }) => isList === true),
    output_name: definition.outputs.map(({ name }) => name),
    name: definition.name,
    display_name: definition.displayName,
    description: definition.description,
    python_module: "nodes",
    category: definition.category,
    output_node: definition.isOutput,
    has_intermediate_output: false,
    search_aliases: [],
  };
}

/** Asks for each folder once: many nodes list the same files. */
function rememberLists(lists: Lists): Lists {
  const known = new Map<string, Promise<readonly string[]>>();
  const remember = (key: string, list: () => Promise<readonly string[]>) => {
    const found = known.get(key) ?? list();
    known.set(key, found);
    return found;
  };
  return {
    listFiles: (kind) => remember(kind, () => lists.listFiles(kind)),
    listInputImages: () => remember("input images", () => lists.listInputImages()),
  };
}
