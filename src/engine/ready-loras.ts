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

  has(file: string, model: string): boolean {
    return this.#ready.get(file)?.has(model) === true;
  }

  /** Ends when the file is read, or refused; `isNew` tells that nobody has waited for it before. */
  wait(file: string, model: string): { read: Promise<void>; isNew: boolean } {
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
    this.release(file, model);
  }

  /** Whoever waits goes on without it. */
  release(file: string, model: string): void {
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
