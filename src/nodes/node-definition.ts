/** A node type: what ComfyUI's INPUT_TYPES, RETURN_TYPES and FUNCTION say, as data and one function. */
import type { FileKind, NodeContext } from "./node-context.ts";
import type { SocketType, SocketValues } from "./values.ts";

type Common = Readonly<{
  isOptional?: boolean;
  isAdvanced?: boolean;
  tooltip?: string;
  /** Made only when `neededInputs` asks for it; until then, and without that, undefined. */
  isLazy?: boolean;
}>;

export type IntInput = Common &
  Readonly<{
    type: "INT";
    default?: number;
    min?: number;
    /** Beyond safe integers as bigint: seeds reach 2^64 - 1. */
    max?: number | bigint;
    step?: number;
  }>;
/** A seed, or another integer of 64 bits: passed to the node as bigint, no digit lost. */
export type SeedInput = Common & Readonly<{ type: "SEED"; min?: bigint; max?: bigint }>;
export type FloatInput = Common &
  Readonly<{
    type: "FLOAT";
    default?: number;
    min?: number;
    max?: number;
    step?: number;
    /** False: no digit of what is typed is cut off; absent, the editor rounds to the step. */
    round?: number | false;
  }>;
export type StringInput = Common &
  Readonly<{ type: "STRING"; default?: string; isMultiline?: boolean }>;
export type BooleanInput = Common & Readonly<{ type: "BOOLEAN"; default?: boolean }>;
/** One of a list: fixed, or the files of a folder at the time of the question; "VAEs" counts TAESDs in. */
export type ComboInput = Common &
  Readonly<{
    type: "COMBO";
    choices: readonly string[] | FileKind | "input images" | "VAEs";
    default?: string;
    /** The node itself deals with names that are not in the list. */
    isOpen?: boolean;
  }>;
export type SocketInput = Common & Readonly<{ type: SocketType }>;
/** A value of any type, linked or constant. */
export type AnyInput = Common & Readonly<{ type: "*" }>;

export type InputSpec =
  | IntInput
  | SeedInput
  | FloatInput
  | StringInput
  | BooleanInput
  | ComboInput
  | SocketInput
  | AnyInput;

export type InputSpecs = Readonly<Record<string, InputSpec>>;

type InputValue<Spec> = Spec extends { type: "INT" | "FLOAT" }
  ? number
  : Spec extends { type: "SEED" }
    ? bigint
    : Spec extends { type: "STRING" | "COMBO" }
      ? string
      : Spec extends { type: "BOOLEAN" }
        ? boolean
        : Spec extends { type: infer Type extends SocketType }
          ? SocketValues[Type]
          : unknown;

export type NodeInputs<Specs extends InputSpecs> = {
  readonly [Name in keyof Specs as Specs[Name] extends { isOptional: true }
    ? never
    : Name]: InputValue<Specs[Name]>;
} & {
  readonly [Name in keyof Specs as Specs[Name] extends { isOptional: true } ? Name : never]?:
    | InputValue<Specs[Name]>
    | undefined;
};

export type OutputSpec = Readonly<{
  type: SocketType | "STRING" | "INT" | "FLOAT" | "BOOLEAN" | "*";
  /** As ComfyUI shows it; the type where it has no name of its own. */
  name: string;
  isList?: boolean;
}>;

/** What clients of ComfyUI are shown of a run: `{images: [...]}`, `{text: [...]}`. */
export type NodeUi = Readonly<Record<string, readonly unknown[]>>;

/** A pack may bring a copy of this package of its own, with a class of its own. */
const BLOCKER = Symbol.for("luna-daemon.blocker");

/** An output that stops what depends on it; with a message, clients are told why. */
export class ExecutionBlocker {
  readonly message: string | undefined;
  readonly [BLOCKER] = true;

  constructor(message?: string) {
    this.message = message;
  }

  static is(value: unknown): value is ExecutionBlocker {
    return typeof value === "object" && value !== null && BLOCKER in value;
  }
}

/**
 * Nodes that run in place of the one that returns them, by ids of their own. Inputs are constants,
 * any value, or links [id, slot] to each other or to nodes of the prompt.
 */
export type ExpandedGraph = Readonly<
  Record<string, Readonly<{ class_type: string; inputs: Readonly<Record<string, unknown>> }>>
>;

export type NodeResult = Readonly<{
  /** One value for each output; with `expand`, links [id, slot] stand for what those nodes give. */
  outputs: readonly unknown[];
  ui?: NodeUi;
  expand?: ExpandedGraph;
}>;

export type NodeDefinition = Readonly<{
  name: string;
  displayName: string;
  category: string;
  description: string;
  inputs: InputSpecs;
  outputs: readonly OutputSpec[];
  isOutput: boolean;
  /** Takes all items of each input as a list at once instead of one run an item. */
  isInputList: boolean;
  /** Says what a cached result depends on besides the inputs; another string, another run. */
  changeKey?: (inputs: Readonly<Record<string, unknown>>, context: NodeContext) => Promise<string>;
  /**
   * Names of lazy inputs that are wanted, given the others and the lazy ones that are there. Asked
   * again after each answer until nothing new is named.
   */
  neededInputs?: (inputs: Readonly<Record<string, unknown>>) => readonly string[];
  /** Refuses inputs that look right: [input name, what is wrong with it]. */
  check?: (
    inputs: Readonly<Record<string, unknown>>,
    services: Pick<NodeContext, "readInputImage">,
  ) => Promise<readonly (readonly [input: string, problem: string])[]>;
  run(inputs: Readonly<Record<string, unknown>>, context: NodeContext): Promise<NodeResult>;
}>;

type TypedDefinition<Specs extends InputSpecs> = Omit<
  NodeDefinition,
  "inputs" | "run" | "isOutput" | "isInputList" | "description"
> &
  Readonly<{
    description?: string;
    isOutput?: boolean;
    isInputList?: boolean;
    inputs: Specs;
    run(inputs: NodeInputs<Specs>, context: NodeContext): NodeResult | Promise<NodeResult>;
  }>;

/** Writes a node with its inputs typed by their specs; the executor passes what validation let through. */
export function defineNode<const Specs extends InputSpecs>(
  definition: TypedDefinition<Specs>,
): NodeDefinition {
  return {
    description: "",
    isOutput: false,
    isInputList: false,
    ...definition,
    // Validation has checked each input against its spec, which is what NodeInputs says.
    run: async (inputs, context) => definition.run(inputs as NodeInputs<Specs>, context),
  };
}

/** An output named like its type. */
export function output(type: OutputSpec["type"], name: string = type): OutputSpec {
  return { type, name };
}
