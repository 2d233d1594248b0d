import type { DaemonStatus } from "../protocol/index.ts";
import { STEP_SAMPLES_MAX } from "./limits.ts";

type Percentiles = Readonly<{ p50: number; p95: number }>;

/** The latest values of a figure, bounded, for percentiles. */
class Samples {
  readonly #values: number[] = [];
  #next = 0;

  add(value: number): void {
    this.#values[this.#next] = value;
    this.#next = (this.#next + 1) % STEP_SAMPLES_MAX;
  }

  percentiles(): Percentiles {
    const sorted = this.#values.toSorted((a, b) => a - b);
    // Nearest rank: the smallest value that at least this share does not exceed.
    const at = (share: number) => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? 0;
    return { p50: at(0.5), p95: at(0.95) };
  }
}

/** What a session has done, for `status`. */
export class SessionStats {
  readonly #overheadMs = new Samples();
  readonly #queueMs = new Samples();
  #steps = 0;
  #loras: DaemonStatus["sessions"][number]["loras"] = [];

  /** `totalMs` is from the arrival of the frame to its answer. */
  addStep(totalMs: number, timings: { queueMs: number; engineMs: number }): void {
    this.#steps++;
    this.#queueMs.add(timings.queueMs);
    this.#overheadMs.add(Math.max(0, totalMs - timings.queueMs - timings.engineMs));
  }

  setLoras(loras: DaemonStatus["sessions"][number]["loras"]): void {
    this.#loras = loras;
  }

  toStatus(): Pick<DaemonStatus["sessions"][number], "steps" | "loras" | "overheadMs" | "queueMs"> {
    return {
      steps: this.#steps,
      loras: this.#loras,
      overheadMs: this.#overheadMs.percentiles(),
      queueMs: this.#queueMs.percentiles(),
    };
  }
}
