import { pickNext, type Task } from "./plan-run.ts";

/** Tasks whose sources are all done, handed out one by one; the others wait for them. */
export class ReadyQueue {
  readonly #steps: ReadonlyMap<string, number>;
  readonly #missing = new Map<string, number>();
  readonly #users = new Map<string, Task[]>();
  readonly #ready: Task[] = [];

  /** `steps` is each task's distance to an output, see pickNext. */
  constructor(
    tasks: readonly Task[],
    isDone: (key: string) => boolean,
    steps: ReadonlyMap<string, number>,
  ) {
    this.#steps = steps;
    for (const task of tasks) {
      const missing = [...new Set(task.sources)].filter((key) => !isDone(key));
      for (const key of missing) this.#users.set(key, [...(this.#users.get(key) ?? []), task]);
      this.#missing.set(task.key, missing.length);
      if (missing.length === 0) this.#ready.push(task);
    }
  }

  take(): Task | undefined {
    const task = pickNext(this.#ready, this.#steps);
    if (task !== undefined) this.#ready.splice(this.#ready.indexOf(task), 1);
    return task;
  }

  finish(key: string): void {
    for (const user of this.#users.get(key) ?? []) {
      const missing = (this.#missing.get(user.key) ?? 0) - 1;
      this.#missing.set(user.key, missing);
      if (missing === 0) this.#ready.push(user);
    }
  }
}
