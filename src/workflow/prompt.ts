/** A prompt is ComfyUI's API format: node id to {class_type, inputs, _meta}. */
import { LunaError } from "../kernel/index.ts";
import type { NodeDefinition } from "../nodes/index.ts";
import { isJsonObject, type Json, type JsonObject, parseJson } from "./json.ts";
import { NODE_COUNT_MAX } from "./limits.ts";

export type PromptNode = Readonly<{
  /** Undefined where the prompt has none: validation says so as ComfyUI does. */
  classType: string | undefined;
  title: string | undefined;
  inputs: JsonObject;
  /** The node as it came, for files and clients that want the prompt back. */
  fields: JsonObject;
}>;

/** In the order of the file. */
export type Prompt = ReadonlyMap<string, PromptNode>;

export type Link = Readonly<{ node: string; slot: number }>;

/** Reads a workflow file or an already parsed prompt. Throws WORKFLOW_INVALID. */
export function parsePrompt(source: string | Json): Prompt {
  const json = typeof source === "string" ? parseJson(source) : source;
  if (!isJsonObject(json)) {
    throw new LunaError("WORKFLOW_INVALID", "A prompt is an object of nodes by their id.");
  }
  if (Array.isArray(json.get("nodes")) && json.has("links")) {
    throw new LunaError(
      "WORKFLOW_INVALID",
      "This is a graph as ComfyUI's editor saves it. Export it with Workflow > Export (API).",
    );
  }
  if (json.size > NODE_COUNT_MAX) {
    throw new LunaError(
      "WORKFLOW_INVALID",
      `The prompt has ${json.size} nodes, limit ${NODE_COUNT_MAX}.`,
    );
  }
  return new Map([...json].map(([id, node]) => [id, parseNode(id, node)]));
}

function parseNode(id: string, node: Json): PromptNode {
  if (!isJsonObject(node)) {
    throw new LunaError(
      "WORKFLOW_INVALID",
      `Node ${id} is not an object with class_type and inputs.`,
    );
  }
  const classType = node.get("class_type");
  const meta = node.get("_meta");
  const title = isJsonObject(meta) ? meta.get("title") : undefined;
  const inputs = node.get("inputs") ?? new Map<string, Json>();
  if (!isJsonObject(inputs)) {
    throw new LunaError("WORKFLOW_INVALID", `The inputs of node ${id} are not an object.`);
  }
  return {
    classType: typeof classType === "string" ? classType : undefined,
    title: typeof title === "string" ? title : undefined,
    inputs,
    fields: node,
  };
}

/** A copy of the prompt with other inputs in some nodes. */
export function withInputs(prompt: Prompt, changed: ReadonlyMap<string, JsonObject>): Prompt {
  return new Map(
    [...prompt].map(([id, node]) => {
      const inputs = changed.get(id);
      return [id, inputs === undefined ? node : { ...node, inputs }];
    }),
  );
}

/**
 * `--set NODE.INPUT=VALUE`: VALUE is JSON where it is valid JSON, else a string. Throws
 * REQUEST_INVALID for a node or input there is none of: a run would leave it out without a word.
 */
export function setInput(
  prompt: Prompt,
  assignment: string,
  definitions: ReadonlyMap<string, NodeDefinition>,
): Prompt {
  const match = /^([^=]+)\.([^.=]+)=([\s\S]*)$/.exec(assignment);
  if (match === null) {
    throw new LunaError("REQUEST_INVALID", `"${assignment}" is not NODE.INPUT=VALUE.`);
  }
  const [, id = "", input = "", text = ""] = match;
  const node = prompt.get(id);
  if (node === undefined) {
    throw new LunaError(
      "REQUEST_INVALID",
      `"${assignment}": the prompt has no node ${id}, it has ${[...prompt.keys()].join(", ")}.`,
    );
  }
  const specs = definitions.get(node.classType ?? "")?.inputs;
  if (specs !== undefined && !Object.hasOwn(specs, input) && !node.inputs.has(input)) {
    const known = Object.keys(specs).join(", ");
    throw new LunaError(
      "REQUEST_INVALID",
      `"${assignment}": ${node.classType} has no input ${input}, it has ${known}.`,
    );
  }
  return withInputs(prompt, new Map([[id, new Map(node.inputs).set(input, looseJson(text))]]));
}

function looseJson(text: string): Json {
  try {
    return parseJson(text);
  } catch (error) {
    if (LunaError.isCode(error, "WORKFLOW_INVALID")) return text;
    throw error;
  }
}

/** The prompt as it runs, to write into files: converted inputs, everything else as it came. */
export function promptToJson(prompt: Prompt): JsonObject {
  return new Map(
    [...prompt].map(([id, { fields, inputs }]) => {
      // ComfyUI leaves its cache note in the node; a copy read back would keep a stale picture.
      const kept = [...fields].filter(([key]) => key !== "is_changed");
      return [id, new Map(kept.map(([key, value]) => [key, key === "inputs" ? inputs : value]))];
    }),
  );
}

/** A link is any [node id, slot]; other arrays are not, and neither is a constant. */
export function readLink(value: Json | undefined): Link | undefined {
  if (!Array.isArray(value) || value.length !== 2) return undefined;
  const [node, slot] = value;
  if (typeof node !== "string" || typeof slot !== "bigint") return undefined;
  return { node, slot: Number(slot) };
}

/** Node ids that feed a node, in the order of its inputs, each once. */
export function linkedNodes(node: Pick<PromptNode, "inputs">): string[] {
  const ids = [...node.inputs.values()].map((value) => readLink(value)?.node);
  return [...new Set(ids.filter((id) => id !== undefined))];
}
