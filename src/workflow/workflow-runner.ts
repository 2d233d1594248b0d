/**
 * Runs checked prompts: ready nodes in ComfyUI's order, one at a time or several, results kept
 * until the next prompt no longer needs them. Emits what a client wants to see on the way.
 */
import { LunaError } from "../kernel/index.ts";
import type { NodeContext, NodeServices, NodeUi, Progress } from "../nodes/index.ts";
import { type Json, type JsonObject, toPythonJson } from "./json.ts";
import { type Plan, planRun, stepsToOutput, type Task, uncachedKeys } from "./plan-run.ts";
import { type Prompt, parsePrompt, promptToJson } from "./prompt.ts";
import { ReadyQueue } from "./ready-queue.ts";
import { runNode, type TaskResult } from "./run-node.ts";
import { type Definitions, type Validation, validatePrompt } from "./validate-prompt.ts";

export type WorkflowEvent =
  | Readonly<{ type: "started"; nodes: readonly string[] }>
  | Readonly<{ type: "cached"; nodes: readonly string[] }>
  | Readonly<{ type: "executing"; node: string; classType: string }>
  | Readonly<{ type: "progress"; node: string } & Progress>
  /** A node with something to show, run or cached. */
  | Readonly<{ type: "executed"; node: string; ui: NodeUi | undefined }>
  | Readonly<{ type: "finished"; node: string }>
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

type ExecutionOptions = Readonly<{
  options: RunnerOptions;
  run: RunOptions;
  cache: ReadonlyMap<string, TaskResult>;
}>;

class Execution {
  /** What the next run may find: results that this prompt uses. */
  readonly results = new Map<string, TaskResult>();
  readonly #validation: Validation;
  readonly #given: ExecutionOptions;
  readonly #abort = new AbortController();
  readonly #executed: string[] = [];
  readonly #ui = new Map<string, NodeUi>();
  #metadata: readonly (readonly [string, string])[] | undefined;

  constructor(validation: Validation, given: ExecutionOptions) {
    this.#validation = validation;
    this.#given = given;
  }

  async run(): Promise<RunResult> {
    const { signal } = this.#given.run;
    const stop = () => this.#abort.abort(signal?.reason);
    if (signal?.aborted === true) stop();
    signal?.addEventListener("abort", stop, { once: true });
    try {
      return await this.#runPlan();
    } finally {
      signal?.removeEventListener("abort", stop);
    }
  }

  async #runPlan(): Promise<RunResult> {
    const { prompt, outputs } = this.#validation;
    const { definitions } = this.#given.options;
    this.#emit({ type: "started", nodes: outputs });
    const contextOf = (nodeId: string) => this.#context(nodeId);
    const plan = await planRun(prompt, { definitions, outputs, contextOf });
    for (const key of plan.tasks.keys()) {
      const kept = this.#given.cache.get(key);
      if (kept !== undefined) this.results.set(key, kept);
    }
    const cached = [...plan.keyOf].filter(([, key]) => this.results.has(key)).map(([id]) => id);
    this.#emit({ type: "cached", nodes: cached });
    const pending = uncachedKeys(plan, (key) => this.results.has(key));
    for (const task of plan.tasks.values()) if (this.results.has(task.key)) this.#show(task);
    await this.#runTasks(plan, pending);
    this.#emit({ type: "succeeded" });
    const validation = this.#validation;
    return { outputs: this.#ui, executed: this.#executed, cached, validation };
  }

  /** Keeps up to `concurrency` tasks running; the first failure stops the rest and is thrown. */
  async #runTasks(plan: Plan, pending: ReadonlySet<string>): Promise<void> {
    const waiting = [...plan.tasks.values()].filter(({ key }) => pending.has(key));
    const queue = new ReadyQueue(waiting, (key) => this.results.has(key), stepsToOutput(plan));
    const running = new Set<Promise<void>>();
    const failures: LunaError[] = [];
    for (;;) {
      while (failures.length === 0 && running.size < (this.#given.options.concurrency ?? 1)) {
        const task = queue.take();
        if (task === undefined) break;
        const done: Promise<void> = this.#runTask(task, plan)
          .then(() => queue.finish(task.key))
          .catch((error: unknown) => {
            failures.push(this.#failure(task, error));
            this.#abort.abort(error);
          })
          .finally(() => running.delete(done));
        running.add(done);
      }
      if (running.size === 0) break;
      await Promise.race(running);
    }
    const [first] = failures;
    if (first !== undefined) throw first;
  }

  async #runTask(task: Task, plan: Plan): Promise<void> {
    this.#abort.signal.throwIfAborted();
    const [id = ""] = task.nodes;
    const node = this.#validation.prompt.get(id);
    const definition = this.#given.options.definitions.get(node?.classType ?? "");
    if (node === undefined || definition === undefined) throw new Error(`No node ${id} to run.`);
    this.#emit({ type: "executing", node: id, classType: definition.name });
    const outputsOf = (source: string) => {
      const result = this.results.get(plan.keyOf.get(source) ?? "");
      if (result === undefined) throw new Error(`Node ${id} ran before its source ${source}.`);
      return result;
    };
    const result = await runNode(node, definition, { outputsOf, context: this.#context(id) });
    this.#abort.signal.throwIfAborted();
    this.results.set(task.key, result);
    this.#executed.push(id);
    this.#show(task);
  }

  /** Tells of a result that is there: every node that shares it, with what it has to show. */
  #show(task: Task): void {
    const ui = this.results.get(task.key)?.ui;
    for (const node of task.nodes) {
      if (ui !== undefined) this.#ui.set(node, ui);
      if (ui !== undefined || task.isOutput) this.#emit({ type: "executed", node, ui });
      this.#emit({ type: "finished", node });
    }
  }

  #failure(task: Task, error: unknown): LunaError {
    const [nodeId = ""] = task.nodes;
    const nodeType = this.#validation.prompt.get(nodeId)?.classType ?? "";
    const cause = LunaError.from(error);
    const isCancelled = this.#given.run.signal?.aborted === true;
    const code = isCancelled ? "CANCELLED" : cause.code;
    const text = isCancelled ? "the run was cancelled" : cause.message;
    return new LunaError(code, `Node ${nodeId} (${nodeType}): ${text}`, {
      cause: error,
      details: { ...cause.details, nodeId, nodeType, executed: [...this.#executed] },
    });
  }

  #context(nodeId: string): NodeContext {
    const { services } = this.#given.options;
    return {
      // Methods of a class instance are on its prototype: a spread would lose them.
      ...bindServices(services),
      nodeId,
      signal: this.#abort.signal,
      progress: (progress) => {
        this.#abort.signal.throwIfAborted();
        this.#emit({ type: "progress", node: nodeId, ...progress });
      },
      metadata: () => {
        this.#metadata ??= this.#describeRun();
        return this.#metadata;
      },
    };
  }

  #describeRun(): (readonly [string, string])[] {
    const extra = [...(this.#given.run.extraPngInfo ?? [])];
    return [
      ["prompt", toPythonJson(promptToJson(this.#validation.prompt))],
      ...extra.map(([key, value]) => [key, toPythonJson(value)] as const),
    ];
  }

  #emit(event: WorkflowEvent): void {
    this.#given.run.onEvent?.(event);
  }
}

function bindServices(services: NodeServices): NodeServices {
  return {
    openCheckpoint: (request, signal) => services.openCheckpoint(request, signal),
    daemonStatus: () => services.daemonStatus(),
    listFiles: (kind) => services.listFiles(kind),
    listInputImages: () => services.listInputImages(),
    readInputImage: (name) => services.readInputImage(name),
    listOutputs: (type, subfolder) => services.listOutputs(type, subfolder),
    writeOutput: (file, bytes) => services.writeOutput(file, bytes),
    loadEmbedding: (name, encoder) => services.loadEmbedding(name, encoder),
    tokenizer: services.tokenizer,
    log: (line) => services.log(line),
    now: () => services.now(),
  };
}
