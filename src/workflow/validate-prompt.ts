/**
 * Says before a run which outputs can be made, in the JSON that ComfyUI's clients know. Only what
 * feeds an output is checked; one good output is enough for the prompt to be accepted.
 */
import type { InputSpec, NodeDefinition, NodeServices } from "../nodes/index.ts";
import { PythonError, pythonRepr } from "./convert-input.ts";
import { describeInput } from "./input-config.ts";
import type { Json } from "./json.ts";
import { type Prompt, type PromptNode, withInputs } from "./prompt.ts";
import {
  badLink,
  checkConstant,
  checkCustom,
  type InputError,
  missingInput,
  typeMismatch,
} from "./validate-inputs.ts";

export type Definitions = ReadonlyMap<string, NodeDefinition>;

export type NodeErrors = Readonly<
  Record<
    string,
    { errors: readonly InputError[]; dependent_outputs: readonly string[]; class_type: string }
  >
>;

export type Validation = Readonly<{
  /** With scalars converted: what runs, is cached and is written into files. */
  prompt: Prompt;
  /** Output nodes that can run. Empty exactly when `error` is there. */
  outputs: readonly string[];
  error?: InputError;
  nodeErrors: NodeErrors;
  /** One line a fault, for people. */
  problems: readonly string[];
}>;

export type ValidateOptions = Readonly<{
  definitions: Definitions;
  services: NodeServices;
  /** Only these output nodes; all of them when absent. */
  targets?: readonly string[];
}>;

/** Checks a prompt. Never throws for a faulty prompt: the verdict is the result. */
export async function validatePrompt(
  prompt: Prompt,
  options: ValidateOptions,
): Promise<Validation> {
  const { definitions, targets } = options;
  const outputs: string[] = [];
  for (const [id, node] of prompt) {
    const definition = definitions.get(node.classType ?? "");
    if (definition === undefined) return refuse(prompt, unknownNode(id, node));
    if (definition.isOutput && (targets === undefined || targets.includes(id))) outputs.push(id);
  }
  if (outputs.length === 0) {
    return refuse(prompt, {
      type: "prompt_no_outputs",
      message: "Prompt has no outputs",
      details: "",
      extra_info: {},
    });
  }
  return new PromptValidator(prompt, options).validate(outputs);
}

function refuse(prompt: Prompt, error: InputError): Validation {
  return { prompt, outputs: [], error, nodeErrors: {}, problems: [describe(error)] };
}

function describe({ message, details }: InputError): string {
  return details === "" ? message : `${message}: ${details}`;
}

function unknownNode(id: string, { classType, title }: PromptNode): InputError {
  const message =
    classType === undefined
      ? `Node '${title ?? `ID #${id}`}' has no class_type. The workflow may be corrupted or a custom node is missing.`
      : `Node '${title ?? classType}' not found. The custom node may not be installed.`;
  return {
    type: "missing_node_type",
    message,
    details: `Node ID '#${id}'`,
    extra_info: {
      node_id: id,
      class_type: classType ?? null,
      node_title: title ?? classType ?? null,
    },
  };
}

type Verdict = Readonly<{ isValid: boolean; errors: readonly InputError[] }>;

class PromptValidator {
  readonly #prompt: Prompt;
  readonly #options: ValidateOptions;
  readonly #verdicts = new Map<string, Verdict>();
  readonly #converted = new Map<string, Map<string, Json>>();
  readonly #cycles: string[] = [];
  /** Nodes between the output and the one that is checked. */
  readonly #path: string[] = [];

  constructor(prompt: Prompt, options: ValidateOptions) {
    this.#prompt = prompt;
    this.#options = options;
  }

  async validate(outputs: readonly string[]): Promise<Validation> {
    const good: string[] = [];
    const own: InputError[] = [];
    // A node may have any id, "toString" too.
    const byNode = new Map<string, NodeErrors[string] & { dependent_outputs: string[] }>();
    for (const output of outputs) {
      const { isValid, errors } = await this.#check(output);
      if (isValid) {
        good.push(output);
        continue;
      }
      own.push(...errors);
      for (const [id, verdict] of this.#verdicts) {
        if (verdict.isValid || verdict.errors.length === 0) continue;
        const class_type = this.#prompt.get(id)?.classType ?? "";
        const known = byNode.get(id) ?? {
          errors: verdict.errors,
          dependent_outputs: [],
          class_type,
        };
        known.dependent_outputs.push(output);
        byNode.set(id, known);
      }
    }
    const nodeErrors: NodeErrors = Object.fromEntries(byNode);
    const problems = [...this.#cycles, ...listProblems(nodeErrors)];
    const prompt = withInputs(this.#prompt, this.#converted);
    if (good.length > 0) return { prompt, outputs: good, nodeErrors, problems };
    const error = {
      type: "prompt_outputs_failed_validation",
      message: "Prompt outputs failed validation",
      details: own.map(({ message, details }) => `${message}: ${details}`).join("\n"),
      extra_info: {},
    };
    return { prompt, outputs: [], error, nodeErrors, problems };
  }

  /** An output and all that feeds it. */
  async #check(output: string): Promise<Verdict> {
    try {
      return await this.#checkNode(output);
    } catch (error) {
      if (!(error instanceof PythonError)) throw error;
      const reason: InputError = {
        type: "exception_during_validation",
        message: "Exception when validating node",
        details: error.message,
        extra_info: { exception_type: error.type, traceback: [] },
      };
      const verdict = { isValid: false, errors: [reason] };
      this.#verdicts.set(output, verdict);
      return verdict;
    }
  }

  async #checkNode(id: string): Promise<Verdict> {
    const known = this.#verdicts.get(id);
    if (known !== undefined) return known;
    const cycleBegin = this.#path.indexOf(id);
    if (cycleBegin >= 0) {
      const cycle = [...this.#path.slice(cycleBegin), id];
      this.#cycles.push(`Nodes form a cycle: ${cycle.join(" -> ")}`);
      return { isValid: false, errors: [] };
    }
    this.#path.push(id);
    try {
      return await this.#checkInputs(id);
    } finally {
      this.#path.pop();
    }
  }

  async #checkInputs(id: string): Promise<Verdict> {
    const node = this.#node(id);
    const definition = this.#definition(node);
    const inputs = new Map(node.inputs);
    const errors: InputError[] = [];
    let isValid = true;
    for (const [name, spec] of Object.entries(definition.inputs)) {
      const value = inputs.get(name);
      if (value === undefined) {
        if (spec.isOptional !== true) errors.push(missingInput(name));
      } else if (Array.isArray(value)) {
        const found = await this.#checkLink(name, spec, value);
        errors.push(...found.errors);
        isValid &&= found.isValid;
      } else {
        const checked = await checkConstant([name, spec], value, this.#options.services);
        if ("error" in checked) errors.push(checked.error);
        else inputs.set(name, checked.value);
      }
    }
    if (errors.length === 0) {
      errors.push(...(await checkCustom(definition, inputs, this.#options.services)));
    }
    const verdict = { isValid: isValid && errors.length === 0, errors };
    this.#verdicts.set(id, verdict);
    this.#converted.set(id, inputs);
    return verdict;
  }

  async #checkLink(name: string, spec: InputSpec, value: readonly Json[]): Promise<Verdict> {
    const config = await describeInput(spec, this.#options.services);
    const [source, slot] = value;
    if (value.length !== 2 || source === undefined || slot === undefined) {
      return { isValid: false, errors: [badLink(name, config, [...value])] };
    }
    const received = this.#receivedType(source, slot);
    if (!canLink(received, config[0])) {
      const error = typeMismatch(name, config, { received, link: [...value] });
      return { isValid: false, errors: [error] };
    }
    const ancestor = String(source);
    try {
      const verdict = await this.#checkNode(ancestor);
      // The ancestor keeps its own errors; this node is only unable to run.
      return { isValid: verdict.isValid, errors: [] };
    } catch (error) {
      if (!(error instanceof PythonError)) throw error;
      const reason: InputError = {
        type: "exception_during_inner_validation",
        message: "Exception when validating inner node",
        details: error.message,
        extra_info: {
          input_name: name,
          input_config: config,
          exception_message: error.message,
          exception_type: error.type,
          traceback: [],
          linked_node: [...value],
        },
      };
      this.#verdicts.set(ancestor, { isValid: false, errors: [reason] });
      return { isValid: false, errors: [] };
    }
  }

  #node(id: Json): PromptNode {
    const node = typeof id === "string" ? this.#prompt.get(id) : undefined;
    // ComfyUI's words are those of a Python dictionary.
    if (node === undefined) throw new PythonError("KeyError", pythonRepr(id));
    return node;
  }

  #definition(node: PromptNode): NodeDefinition {
    const definition = this.#options.definitions.get(node.classType ?? "");
    if (definition === undefined)
      throw new PythonError("KeyError", pythonRepr(node.classType ?? null));
    return definition;
  }

  #receivedType(source: Json, slot: Json): string {
    const { outputs } = this.#definition(this.#node(source));
    if (typeof slot !== "bigint") {
      throw new PythonError("TypeError", "tuple indices must be integers or slices, not str");
    }
    const found = outputs[Number(slot)];
    if (found === undefined) throw new PythonError("IndexError", "tuple index out of range");
    return found.type;
  }
}

/** ComfyUI's rule: equal, anything, or unions ("IMAGE,MASK") that share a type. */
function canLink(received: string, wanted: string | readonly string[]): boolean {
  if (typeof wanted !== "string") return received === "*";
  if (received === wanted || received === "*" || wanted === "*") return true;
  const accepted = wanted.split(",");
  return received.split(",").every((type) => accepted.includes(type));
}

function listProblems(nodeErrors: NodeErrors): string[] {
  return Object.entries(nodeErrors).flatMap(([id, { errors, class_type }]) =>
    errors.map((error) => `Node ${id} (${class_type}): ${describe(error)}`),
  );
}
