/**
 * Runs checked prompts: ready nodes in ComfyUI's order, one at a time or several, results kept
 * until the next prompt no longer needs them. Emits what a client wants to see on the way.
 */
import { LunaError } from "../kernel/index.ts";
import type { NodeServices, NodeUi, Progress } from "../nodes/index.ts";
import { Execution } from "./execution.ts";
import type { Json, JsonObject } from "./json.ts";
import { type Prompt, parsePrompt } from "./prompt.ts";
import type { TaskResult } from "./run-node.ts";
import { type Definitions, type Validation, validatePrompt } from "./validate-prompt.ts";

export type WorkflowEvent =
  | Readonly<{ type: "started"; nodes: readonly string[] }>
  | Readonly<{ type: "cached"; nodes: readonly string[] }>
  | Readonly<{ type: "executing"; node: string; classType: string }>
  | Readonly<{ type: "progress"; node: string } & Progress>
  /** A node with something to show, run or cached. */
  | Readonly<{ type: "executed"; node: string; ui: NodeUi | undefined }>
  | Readonly<{ type: "finished"; node: string }>
  /** `node` put these nodes in its own place; it runs until they are done. */
  | Readonly<{ type: "expanded"; node: string; nodes: readonly string[] }>
  /** A node was told by one of its inputs not to run; the run goes on without it. */
  | Readonly<{ type: "blocked"; node: string; message: string; executed: readonly string[] }>
  | Readonly<{ type: "succeeded" }>;

export type RunOptions = Readonly<{
  signal?: AbortSignal;
  onEvent?: (event: WorkflowEvent) => void;
  /** Further PNG text chunks: ComfyUI's extra_pnginfo, usually the editor's `workflow`. */
  extraPngInfo?: JsonObject;
  targets?: readonly string[];
}>;

export type RunResult = Readonly<{
  /** By output node: `{images: [{filename, subfolder, type}]}` and the like. */
  outputs: ReadonlyMap<string, NodeUi>;
  /** Nodes that ran and nodes whose result was there. */
  executed: readonly string[];
  cached: readonly string[];
  validation: Validation;
}>;

export interface WorkflowRunner {
  /**
   * Parses, checks and runs. Throws WORKFLOW_INVALID (details: error, node_errors as ComfyUI sends
   * them), CANCELLED, or a node's own code with details {nodeId, nodeType, executed}.
   */
  run(prompt: string | Json, options?: RunOptions): Promise<RunResult>;
  /** Runs what `validatePrompt` has accepted; one run at a time. */
  execute(validation: Validation, options?: RunOptions): Promise<RunResult>;
  validate(prompt: Prompt, targets?: readonly string[]): Promise<Validation>;
  /** Forgets all kept results. */
  clear(): void;
}

export type RunnerOptions = Readonly<{
  definitions: Definitions;
  services: NodeServices;
  /** Nodes that run at once; 1 as in ComfyUI. More lets independent branches share a batch. */
  concurrency?: number;
}>;

export function createWorkflowRunner(options: RunnerOptions): WorkflowRunner {
  const { definitions, services } = options;
  let cache: ReadonlyMap<string, TaskResult> = new Map();
  const validate = (prompt: Prompt, targets?: readonly string[]) =>
    validatePrompt(prompt, {
      definitions,
      services,
      ...(targets === undefined ? {} : { targets }),
    });
  const execute = async (validation: Validation, run: RunOptions = {}): Promise<RunResult> => {
    const execution = new Execution(validation, { options, run, cache });
    try {
      return await execution.run();
    } finally {
      cache = execution.results;
    }
  };
  return {
    validate,
    execute,
    async run(source, run = {}) {
      const validation = await validate(parsePrompt(source), run.targets);
      if (validation.error !== undefined) throw invalidWorkflow(validation);
      return execute(validation, run);
    },
    clear() {
      cache = new Map();
    },
  };
}

/** The one error of a prompt that cannot run, with ComfyUI's JSON in its details. */
export function invalidWorkflow({ problems, error, nodeErrors }: Validation): LunaError {
  const text =
    problems.length === 0 ? (error?.message ?? "The prompt is invalid") : problems.join("; ");
  return new LunaError("WORKFLOW_INVALID", `${text}.`, {
    details: { error, node_errors: nodeErrors },
  });
}
