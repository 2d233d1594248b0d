/** Adapter files that one engine process has read, and who waits until one is. */
import type { LunaError } from "../kernel/index.ts";
import type { LoraUse } from "./port.ts";

export type FileSource = Extract<LoraUse["source"], { type: "file" }>;

/** Names a file's content, by path, size and time. */
export const fileKey = ({ path, key }: FileSource): string => `${key}\n${path}`;

type Waiting = Readonly<{
  promise: Promise<void>;
  resolve: () => void;
  reject: (error: LunaError) => void;
}>;

export class ReadyLoras {
  /** By file, then by the model whose layers its keys name. */
  readonly #ready = new Map<string, Set<string>>();
  readonly #waiting = new Map<string, Waiting>();

  /** Ends when all files of a stack are read; `ask` has those read that nobody has asked for. */
  async readAhead(
    model: string,
    loras: readonly LoraUse[],
    ask: (sources: readonly FileSource[]) => Promise<unknown>,
  ): Promise<void> {
    const missing = loras.flatMap(({ source }) =>
      source.type === "file" && !this.#has(fileKey(source), model) ? [source] : [],
    );
    if (missing.length === 0) return;
    const waits = missing.map((source) => ({ source, ...this.#wait(fileKey(source), model) }));
    const sources = waits.flatMap(({ source, isNew }) => (isNew ? [source] : []));
    // Whatever is wrong with the process, the run will say.
    const release = () => {
      for (const source of sources) this.#release(fileKey(source), model);
    };
    if (sources.length > 0) await ask(sources).catch(release);
    await Promise.all(waits.map(({ read }) => read));
  }

  #has(file: string, model: string): boolean {
    return this.#ready.get(file)?.has(model) === true;
  }

  /** Ends when the file is read, or refused; `isNew` tells that nobody has waited for it before. */
  #wait(file: string, model: string): { read: Promise<void>; isNew: boolean } {
    const key = `${file}\n${model}`;
    const known = this.#waiting.get(key);
    if (known !== undefined) return { read: known.promise, isNew: false };
    let [resolve, reject]: [Waiting["resolve"], Waiting["reject"]] = [() => {}, () => {}];
    const promise = new Promise<void>((onRead, onError) => {
      [resolve, reject] = [onRead, onError];
    });
    promise.catch(() => undefined); // Who waits hears of it.
    this.#waiting.set(key, { promise, resolve, reject });
    return { read: promise, isNew: true };
  }

  settle(file: string, model: string, error?: LunaError): void {
    if (error === undefined) {
      this.#ready.set(file, (this.#ready.get(file) ?? new Set()).add(model));
    } else {
      this.#waiting.get(`${file}\n${model}`)?.reject(error);
    }
    this.#release(file, model);
  }

  /** Whoever waits goes on without it. */
  #release(file: string, model: string): void {
    const key = `${file}\n${model}`;
    this.#waiting.get(key)?.resolve();
    this.#waiting.delete(key);
  }

  /** The process had to drop them. */
  forget(files: readonly string[]): void {
    for (const file of files) this.#ready.delete(file);
  }

  /** The process has ended: whoever waits goes on, and the run reads what it needs. */
  close(): void {
    this.#ready.clear();
    for (const { resolve } of this.#waiting.values()) resolve();
    this.#waiting.clear();
  }
}
