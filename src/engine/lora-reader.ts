/**
 * Reads adapter files in threads of their own, so that a forward pass, which blocks the engine's
 * thread, goes on meanwhile. A file's layers are shared out among the threads.
 */
import { createRequire } from "node:module";
import { extname } from "node:path";
import { pathToFileURL } from "node:url";
import { Worker } from "node:worker_threads";
import { LunaError } from "../kernel/index.ts";
import {
  joinLoras,
  type LoraModel,
  type ParsedLora,
  type parseShare,
  type Share,
} from "../lora/index.ts";
import { readLoraFile } from "./lora-file.ts";
import { decodeError, type WireError } from "./messages.ts";

/** Undefined if the file is not there. */
export type LoraReader = (
  path: string,
  model: Readonly<{ key: string; model: () => LoraModel }>,
) => Promise<ParsedLora | undefined>;

/** Reads in the thread that asks. */
export const readHere: LoraReader = async (path, { model }) => {
  const parsed = await readLoraFile(path, model(), { index: 0, count: 1 });
  return parsed && joinLoras([parsed]);
};

export type ReadTask = Readonly<{
  id: number;
  path: string;
  modelKey: string;
  /** When the thread does not have it yet. */
  model?: LoraModel;
  share: Share;
}>;

export type ReadResult = Readonly<{
  id: number;
  parsed?: ReturnType<typeof parseShare>;
  error?: WireError;
}>;

/** Two take half the time where the engine is idle; more would wait for each other's memory. */
const THREADS = 2;

const EXTENSION = extname(import.meta.url);

/** From sources (tests) the thread needs the loader that the process has. */
function startThread(): Worker {
  const url = new URL(`./lora-thread${EXTENSION}`, import.meta.url);
  if (EXTENSION !== ".ts") return new Worker(url);
  const { resolve } = createRequire(import.meta.url);
  const loader = pathToFileURL(resolve("tsx/esm/api").replace(/\.cjs$/, ".mjs")).href;
  const [from, module] = [loader, url.href].map((each) => JSON.stringify(each));
  const code = `import(${from}).then(({ register }) => (register(), import(${module})))`;
  return new Worker(code, { eval: true, execArgv: [] });
}

class ReaderThread {
  #worker: Worker | undefined;
  readonly #waiting = new Map<number, (result: ReadResult) => void>();
  readonly #models = new Set<string>();
  #count = 0;

  start(): Worker {
    if (this.#worker !== undefined) return this.#worker;
    const worker = startThread();
    this.#worker = worker;
    worker.unref();
    worker.on("message", (result: ReadResult) => {
      this.#waiting.get(result.id)?.(result);
      this.#waiting.delete(result.id);
    });
    // A thread that ends (it may run out of memory) takes its files with it; the next has a new one.
    worker.on("error", (cause) => {
      const { code, message } = LunaError.from(cause);
      for (const [id, settle] of this.#waiting) settle({ id, error: { code, message } });
      this.#waiting.clear();
      this.#models.clear();
      this.#worker = undefined;
    });
    return worker;
  }

  async read(task: Omit<ReadTask, "id" | "model">, model: () => LoraModel) {
    const worker = this.start();
    const id = ++this.#count;
    const isKnown = this.#models.has(task.modelKey);
    this.#models.add(task.modelKey);
    const { parsed, error } = await new Promise<ReadResult>((resolve) => {
      this.#waiting.set(id, resolve);
      worker.ref();
      worker.postMessage({ ...task, id, ...(isKnown ? {} : { model: model() }) });
    });
    if (this.#waiting.size === 0) worker.unref();
    if (error !== undefined) throw decodeError(error);
    return parsed;
  }
}

/** Starts the threads ahead of their first use; from sources that would slow each test down. */
export function startLoraReader(): LoraReader {
  const threads = Array.from({ length: THREADS }, () => new ReaderThread());
  if (EXTENSION === ".js") for (const thread of threads) thread.start();
  return async (path, { key: modelKey, model }) => {
    const reads = threads.map((thread, index) =>
      thread.read({ path, modelKey, share: { index, count: THREADS } }, model),
    );
    const settled = await Promise.allSettled(reads);
    for (const part of settled) if (part.status === "rejected") throw part.reason;
    const parts = settled.flatMap((part) =>
      part.status === "fulfilled" && part.value !== undefined ? [part.value] : [],
    );
    // A file that went between the two reads is not there.
    return parts.length === THREADS ? joinLoras(parts) : undefined;
  };
}
