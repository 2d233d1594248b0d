/** One run told to its client: the runner's events in ComfyUI's words and order. */
import { LunaError } from "../kernel/index.ts";
import type { LatentPreview, NodeUi } from "../nodes/index.ts";
import { isJsonObject, type Json, promptToJson, type WorkflowEvent } from "../workflow/index.ts";
import type { Outcome, RunMessage, RunningPrompt } from "./prompt-queue.ts";
import type { SocketHub } from "./socket-hub.ts";

export type Previewer = (preview: LatentPreview) => Uint8Array | undefined;

export type RunMessagesOptions = Readonly<{
  hub: SocketHub;
  previewer: Previewer;
  /** Previews only for clients that announce the newer form: others may take them for results. */
  isPreviewShy: boolean;
  now: () => number;
}>;

type NodeState = { value: number; max: number; state: "running" | "finished" };

export class RunMessages {
  readonly #prompt: RunningPrompt;
  readonly #hub: SocketHub;
  readonly #options: RunMessagesOptions;
  readonly #states = new Map<string, NodeState>();
  readonly #outputs = new Map<string, NodeUi>();
  readonly #kept: RunMessage[] = [];
  /** Nodes that nodes have put in their own place. */
  readonly #origins = new Map<string, Readonly<{ parent: string; real: string }>>();
  #cached: ReadonlySet<string> = new Set();

  constructor(prompt: RunningPrompt, options: RunMessagesOptions) {
    this.#prompt = prompt;
    this.#hub = options.hub;
    this.#options = options;
  }

  tell(event: WorkflowEvent): void {
    switch (event.type) {
      case "started":
        this.#keep("execution_start", {});
        break;
      case "cached":
        this.#cached = new Set(event.nodes);
        this.#keep("execution_cached", { nodes: event.nodes });
        break;
      case "executing":
        this.#prompt.current.node = event.node;
        this.#states.set(event.node, { value: 0, max: 1, state: "running" });
        this.tellState();
        this.#send("executing", { node: event.node, display_node: this.#shownAs(event.node) });
        break;
      case "progress":
        this.#tellProgress(event);
        break;
      case "executed":
        this.#tellExecuted(event);
        break;
      case "expanded": {
        const real = this.#origins.get(event.node)?.real ?? event.node;
        for (const node of event.nodes) this.#origins.set(node, { parent: event.node, real });
        break;
      }
      case "blocked":
        this.#tellBlocked(event);
        break;
      case "finished":
        if (this.#isHidden(event.node)) break;
        this.#tellFinished(event.node);
        break;
      case "succeeded":
        this.#keep("execution_success", {});
        break;
    }
  }

  /** Also repeated while a node is silent: some clients take silence for a lost connection. */
  tellState(): void {
    const nodes = [...this.#states].map(([id, state]) => [id, { ...state, ...this.#place(id) }]);
    if (nodes.length > 0) this.#send("progress_state", { nodes: Object.fromEntries(nodes) });
  }

  succeeded(): Outcome {
    const origins = this.#origins;
    return { status: "success", outputs: this.#outputs, origins, messages: this.#kept };
  }

  /** Tells of the end by an error or an interruption. */
  failed(cause: unknown): Outcome {
    const error = LunaError.from(cause);
    const { nodeId = "", nodeType = "", executed = [] } = error.details ?? {};
    const where = { node_id: nodeId, node_type: nodeType, executed };
    const told = this.succeeded();
    if (error.code === "CANCELLED") {
      this.#keep("execution_interrupted", where);
      return { ...told, status: "cancelled" };
    }
    const origin = error.cause instanceof Error ? error.cause : error;
    this.#keep("execution_error", {
      ...where,
      exception_message: LunaError.from(origin).message,
      exception_type: error.code,
      traceback: (origin.stack ?? "").split("\n").map((line) => `${line}\n`),
      current_inputs: this.#inputsOf(String(nodeId)),
      current_outputs: executed,
    });
    return { ...told, status: "error" };
  }

  #tellProgress(event: WorkflowEvent & { type: "progress" }): void {
    const { node, value, max, preview, picture } = event;
    this.#states.set(node, { value, max, state: "running" });
    this.tellState();
    const { clientId } = this.#prompt;
    if (clientId === undefined) return;
    const isFirst = this.#hub.hasPreviewMetadata(clientId);
    const { previewer, isPreviewShy } = this.#options;
    const shown = preview && (isFirst || !isPreviewShy) ? previewer(preview) : undefined;
    const png = picture ?? shown;
    const send = () => png && this.#hub.sendPreview(clientId, png, this.#place(node));
    if (isFirst) send();
    this.#send("progress", { value, max, node });
    if (!isFirst) send();
  }

  #tellExecuted({ node, ui }: WorkflowEvent & { type: "executed" }): void {
    if (ui !== undefined) this.#outputs.set(node, ui);
    if (this.#isHidden(node) || (ui === undefined && !this.#cached.has(node))) return;
    this.#send("executed", { node, display_node: this.#shownAs(node), output: ui ?? null });
  }

  #tellFinished(node: string): void {
    const max = this.#states.get(node)?.max ?? 1;
    this.#states.set(node, { value: max, max, state: "finished" });
    this.tellState();
  }

  /** Of cached nodes only the outputs are shown; the others were not looked at. */
  #isHidden(node: string): boolean {
    return this.#cached.has(node) && !this.#prompt.validation.outputs.includes(node);
  }

  /** ComfyUI tells of this as of an error, but the run goes on and the history is silent about it. */
  #tellBlocked({ node, message, executed }: WorkflowEvent & { type: "blocked" }): void {
    this.#send("execution_error", {
      node_id: node,
      node_type: this.#prompt.validation.prompt.get(node)?.classType ?? "",
      executed,
      exception_message: `Execution Blocked: ${message}`,
      exception_type: "ExecutionBlocked",
      traceback: [],
      current_inputs: [],
      current_outputs: [],
    });
  }

  /** The node of the client's own prompt that a node belongs to. */
  #shownAs(node: string): string {
    return this.#origins.get(node)?.real ?? node;
  }

  #place(node: string) {
    const { parent = null, real = node } = this.#origins.get(node) ?? {};
    const names = { display_node_id: real, parent_node_id: parent, real_node_id: real };
    return { node_id: node, prompt_id: this.#prompt.id, ...names };
  }

  #inputsOf(node: string): Record<string, readonly Json[]> {
    const json = promptToJson(this.#prompt.validation.prompt).get(node);
    const inputs = isJsonObject(json) ? json.get("inputs") : undefined;
    if (!isJsonObject(inputs)) return {};
    return Object.fromEntries([...inputs].map(([name, value]) => [name, [value]]));
  }

  #keep(type: string, data: Readonly<Record<string, unknown>>): void {
    const message = { prompt_id: this.#prompt.id, ...data, timestamp: this.#options.now() };
    this.#kept.push([type, message]);
    this.#hub.send(this.#prompt.clientId, type, message);
  }

  #send(type: string, data: Readonly<Record<string, unknown>>): void {
    this.#hub.send(this.#prompt.clientId, type, { ...data, prompt_id: this.#prompt.id });
  }
}
