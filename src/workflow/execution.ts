/**
 * One run of a checked prompt. Tasks run as soon as what they start from is there; a node may ask for
 * lazy inputs while it runs, or put other nodes in its own place: then those are made first, by the
 * same means, while the node waits.
 */
import { LunaError } from "../kernel/index.ts";
import type { NodeContext, NodeServices, NodeUi } from "../nodes/index.ts";
import { childId, type Expansion, expandGraph } from "./expand-graph.ts";
import { toPythonJson } from "./json.ts";
import { NODE_COUNT_MAX } from "./limits.ts";
import { type Plan, planRun, stepsToOutput, type Task, uncachedKeys } from "./plan-run.ts";
import { type Link, type Prompt, promptToJson } from "./prompt.ts";
import { ReadyQueue } from "./ready-queue.ts";
import { type NodeSurroundings, runNode, type TaskResult } from "./run-node.ts";
import type { Validation } from "./validate-prompt.ts";
import type { RunnerOptions, RunOptions, RunResult, WorkflowEvent } from "./workflow-runner.ts";

type ExecutionOptions = Readonly<{
  options: RunnerOptions;
  run: RunOptions;
  cache: ReadonlyMap<string, TaskResult>;
}>;

export class Execution {
  /** What the next run may find: results that this prompt uses. */
  readonly results = new Map<string, TaskResult>();
  readonly #validation: Validation;
  readonly #given: ExecutionOptions;
  readonly #abort = new AbortController();
  readonly #executed: string[] = [];
  readonly #ui = new Map<string, NodeUi>();
  /** The prompt, and the nodes that its nodes have made. */
  #prompt: Prompt;
  readonly #keyOf = new Map<string, string>();
  readonly #tasks = new Map<string, Task>();
  readonly #running = new Map<string, Promise<void>>();
  /** What tasks under way wait for, besides what they started from. */
  readonly #waits = new Map<string, readonly string[]>();
  /** Nodes that were made, and the node of the prompt that they stand for. */
  readonly #rootOf = new Map<string, string>();
  #metadata: readonly (readonly [string, string])[] | undefined;

  constructor(validation: Validation, given: ExecutionOptions) {
    this.#validation = validation;
    this.#prompt = validation.prompt;
    this.#given = given;
  }

  async run(): Promise<RunResult> {
    const { signal } = this.#given.run;
    const stop = () => this.#abort.abort(signal?.reason);
    if (signal?.aborted === true) stop();
    signal?.addEventListener("abort", stop, { once: true });
    try {
      return await this.#runPrompt();
    } finally {
      signal?.removeEventListener("abort", stop);
    }
  }

  async #runPrompt(): Promise<RunResult> {
    const { outputs } = this.#validation;
    this.#emit({ type: "started", nodes: outputs });
    const plan = await this.#plan(outputs);
    const cached = [...plan.keyOf].filter(([, key]) => this.results.has(key)).map(([id]) => id);
    this.#emit({ type: "cached", nodes: cached });
    for (const task of plan.tasks.values()) if (this.results.has(task.key)) this.#show(task);
    await this.#make(outputs);
    this.#emit({ type: "succeeded" });
    const validation = this.#validation;
    return { outputs: this.#ui, executed: this.#executed, cached, validation };
  }

  /** Names what the nodes need, and takes what the run before has left of it. */
  async #plan(outputs: readonly string[]): Promise<Plan> {
    const { definitions } = this.#given.options;
    const contextOf = (nodeId: string) => this.#context(nodeId);
    const known = this.#keyOf;
    const plan = await planRun(this.#prompt, { definitions, outputs, contextOf, known });
    for (const [id, key] of plan.keyOf) this.#keyOf.set(id, key);
    for (const [key, task] of plan.tasks) {
      const twin = this.#tasks.get(key);
      const nodes = [...(twin?.nodes ?? []), ...task.nodes];
      this.#tasks.set(key, { ...task, nodes, isOutput: task.isOutput || twin?.isOutput === true });
      const kept = this.#given.cache.get(key);
      if (kept !== undefined) this.results.set(key, kept);
    }
    return plan;
  }

  /** Runs what these nodes need, themselves included; up to `concurrency` tasks at once. */
  async #make(nodes: readonly string[]): Promise<void> {
    const targets = nodes.map((id) => this.#keyOf.get(id) ?? "");
    const plan: Plan = { tasks: this.#tasks, keyOf: this.#keyOf };
    const pending = uncachedKeys(plan, targets, (key) => this.results.has(key));
    const waiting = [...this.#tasks.values()].filter(({ key }) => pending.has(key));
    const queue = new ReadyQueue(waiting, (key) => this.results.has(key), stepsToOutput(plan));
    const running = new Set<Promise<void>>();
    const failures: unknown[] = [];
    for (;;) {
      while (failures.length === 0 && running.size < (this.#given.options.concurrency ?? 1)) {
        const task = queue.take();
        if (task === undefined) break;
        const done: Promise<void> = this.#runOnce(task)
          .then(() => queue.finish(task.key))
          .catch((error: unknown) => {
            failures.push(error);
            this.#abort.abort(error);
          })
          .finally(() => running.delete(done));
        running.add(done);
      }
      if (running.size === 0) break;
      await Promise.race(running);
    }
    if (failures.length > 0) throw failures[0];
  }

  /** Two nodes under way may need the same third one. */
  async #runOnce(task: Task): Promise<void> {
    if (this.results.has(task.key)) return;
    const known = this.#running.get(task.key);
    if (known !== undefined) return known;
    const done = this.#runTask(task)
      .catch((error: unknown) => {
        throw this.#failure(task, error);
      })
      .finally(() => this.#running.delete(task.key));
    this.#running.set(task.key, done);
    return done;
  }

  async #runTask(task: Task): Promise<void> {
    this.#abort.signal.throwIfAborted();
    const [id = ""] = task.nodes;
    const node = this.#prompt.get(id);
    const definition = this.#given.options.definitions.get(node?.classType ?? "");
    if (node === undefined || definition === undefined) throw new Error(`No node ${id} to run.`);
    const tell = () => this.#emit({ type: "executing", node: id, classType: definition.name });
    tell();
    const surroundings: NodeSurroundings = {
      context: this.#context(id),
      outputsOf: (source) => this.results.get(this.#keyOf.get(source) ?? ""),
      make: async (sources) => {
        await this.#makeFor(task, sources);
        tell();
      },
      expand: (graph, links, run) => this.#expand(task, { parent: id, run, graph }, links),
      tellBlocked: (message) =>
        this.#emit({ type: "blocked", node: id, message, executed: [...this.#executed] }),
    };
    const result = await runNode(node, definition, surroundings);
    this.#abort.signal.throwIfAborted();
    this.results.set(task.key, result);
    this.#executed.push(id);
    this.#show(this.#tasks.get(task.key) ?? task);
  }

  /** Makes nodes that a task under way waits for. */
  async #makeFor(task: Task, nodes: readonly string[]): Promise<void> {
    const wanted = nodes.map((id) => this.#keyOf.get(id) ?? "");
    if (this.#needs(wanted, task.key)) {
      throw new LunaError("WORKFLOW_INVALID", "It waits for nodes that wait for it.");
    }
    this.#waits.set(task.key, wanted);
    await this.#make(nodes);
    this.#waits.delete(task.key);
  }

  /** True when what is not there yet of these tasks needs the task `key`. */
  #needs(wanted: readonly string[], key: string): boolean {
    const seen = new Set<string>();
    const stack = [...wanted];
    for (let next = stack.pop(); next !== undefined; next = stack.pop()) {
      if (next === key) return true;
      if (seen.has(next) || this.results.has(next)) continue;
      seen.add(next);
      stack.push(...(this.#tasks.get(next)?.sources ?? []), ...(this.#waits.get(next) ?? []));
    }
    return false;
  }

  async #expand(task: Task, expansion: Expansion, links: readonly Link[]) {
    const { definitions } = this.#given.options;
    const { parent } = expansion;
    const children = expandGraph(expansion, this.#prompt, definitions);
    if (this.#prompt.size + children.size > NODE_COUNT_MAX) {
      throw new LunaError(
        "LIMIT_EXCEEDED",
        `With the nodes it made there are more than ${NODE_COUNT_MAX}.`,
      );
    }
    this.#prompt = new Map([...this.#prompt, ...children]);
    const root = this.#rootOf.get(parent) ?? parent;
    for (const id of children.keys()) this.#rootOf.set(id, root);
    this.#emit({ type: "expanded", node: parent, nodes: [...children.keys()] });
    const linked = links.map(({ node }) => childId(expansion, node));
    const shown = [...children].filter(
      ([, { classType = "" }]) => definitions.get(classType)?.isOutput,
    );
    const targets = [...new Set([...linked, ...shown.map(([id]) => id)])];
    await this.#plan(targets);
    await this.#makeFor(task, targets);
    return ({ node, slot }: Link) => {
      const key = this.#keyOf.get(childId(expansion, node)) ?? "";
      return this.results.get(key)?.outputs[slot] ?? [];
    };
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
    const [id = ""] = task.nodes;
    const cause = LunaError.from(error);
    // A node that this one has made failed, and has said so.
    if (cause.details?.["nodeId"] !== undefined) return cause;
    const nodeId = this.#rootOf.get(id) ?? id;
    const nodeType = this.#prompt.get(id)?.classType ?? "";
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
