/** The checks of one node's own inputs; walking the links is validate-prompt's. */
import type { InputSpec, NodeDefinition, NodeServices } from "../nodes/index.ts";
import { convertScalar, PythonError, pythonRepr, pythonText, scalarType } from "./convert-input.ts";
import { describeInput, type InputConfig } from "./input-config.ts";
import { isJsonObject, type Json, pythonFloat } from "./json.ts";
import { LISTED_CHOICES_MAX } from "./limits.ts";

/** One fault, in the words and the shape of ComfyUI's execution.py. */
export type InputError = Readonly<{
  type: string;
  message: string;
  details: string;
  extra_info: Readonly<Record<string, unknown>>;
}>;

export function missingInput(name: string): InputError {
  return {
    type: "required_input_missing",
    message: "Required input is missing",
    details: name,
    extra_info: { input_name: name },
  };
}

export function badLink(name: string, config: InputConfig, value: Json): InputError {
  return {
    type: "bad_linked_input",
    message: "Bad linked input, must be a length-2 list of [node_id, slot_index]",
    details: name,
    extra_info: { input_name: name, input_config: config, received_value: value },
  };
}

export function typeMismatch(
  name: string,
  config: InputConfig,
  { received, link }: { received: string; link: Json },
): InputError {
  const wanted = typeof config[0] === "string" ? config[0] : pythonRepr([...config[0]]);
  return {
    type: "return_type_mismatch",
    message: "Return type mismatch between linked nodes",
    details: `${name}, received_type(${received}) mismatch input_type(${wanted})`,
    extra_info: {
      input_name: name,
      input_config: config,
      received_type: received,
      linked_node: link,
    },
  };
}

export type Checked = Readonly<{ value: Json } | { error: InputError }>;

/** A constant: unwrapped, converted, then checked against limits and choices. */
export async function checkConstant(
  [name, spec]: readonly [string, InputSpec],
  given: Json,
  services: NodeServices,
): Promise<Checked> {
  const wrapped = isJsonObject(given) ? given.get("__value__") : undefined;
  const raw = wrapped ?? given;
  const config = await describeInput(spec, services);
  const type = scalarType(spec);
  if (type !== undefined) return checkScalar({ name, type, config }, raw);
  if (spec.type === "*") return { value: raw };
  if (spec.type !== "COMBO") return { error: badLink(name, config, raw) };
  if (spec.isOpen === true || config[0].includes(pythonText(raw))) return { value: raw };
  const choices = [...config[0]];
  const isLong = choices.length > LISTED_CHOICES_MAX;
  const listed = isLong ? `(list of length ${choices.length})` : pythonRepr(choices);
  return {
    error: {
      type: "value_not_in_list",
      message: "Value not in list",
      details: `${name}: '${pythonText(raw)}' not in ${listed}`,
      extra_info: {
        input_name: name,
        input_config: isLong ? null : config,
        received_value: raw,
      },
    },
  };
}

type Scalar = Readonly<{
  name: string;
  type: "INT" | "FLOAT" | "STRING" | "BOOLEAN";
  config: InputConfig;
}>;

function checkScalar({ name, type, config }: Scalar, raw: Json): Checked {
  let value: Json;
  try {
    value = convertScalar(type, raw);
  } catch (error) {
    if (!(error instanceof PythonError)) throw error;
    return {
      error: {
        type: "invalid_input_type",
        message: `Failed to convert an input value to a ${type} value`,
        details: `${name}, ${pythonText(raw)}, ${error.message}`,
        extra_info: {
          input_name: name,
          input_config: config,
          received_value: raw,
          exception_message: error.message,
        },
      },
    };
  }
  const bound = outOfBounds(value, config[1]);
  if (bound === undefined) return { value };
  const limit = typeof value === "number" ? pythonFloat(Number(bound.limit)) : String(bound.limit);
  return {
    error: {
      type: bound.type,
      message: `Value ${pythonText(value)} ${bound.words} of ${limit}`,
      details: name,
      extra_info: { input_name: name, input_config: config, received_value: value },
    },
  };
}

type Bound = { type: string; words: string; limit: number | bigint };

function outOfBounds(value: Json, options: InputConfig[1]): Bound | undefined {
  if (typeof value !== "number" && typeof value !== "bigint") return undefined;
  const { min, max } = options as { min?: number | bigint; max?: number | bigint };
  if (min !== undefined && value < min) {
    return { type: "value_smaller_than_min", words: "smaller than min", limit: min };
  }
  if (max !== undefined && value > max) {
    return { type: "value_bigger_than_max", words: "bigger than max", limit: max };
  }
  return undefined;
}

/** A node's own verdict on inputs that look right. Links are left out, as ComfyUI does. */
export async function checkCustom(
  definition: NodeDefinition,
  inputs: ReadonlyMap<string, Json>,
  services: NodeServices,
): Promise<InputError[]> {
  const constants = Object.fromEntries([...inputs].filter(([, value]) => !Array.isArray(value)));
  const problems = (await definition.check?.(constants, services)) ?? [];
  return problems.map(([name, problem]) => ({
    type: "custom_validation_failed",
    message: "Custom validation failed for node",
    details: `${name} - ${problem}`,
    extra_info: { input_name: name },
  }));
}
