import type { Timings } from "../protocol/index.ts";
import { STEPS_KEPT_MAX } from "./limits.ts";
import type { LoraRef } from "./types.ts";

/** What one UNet step cost, in ms. */
export type StepTiming = Readonly<{
  /** From the call to the result. */
  totalMs: number;
  /** Inside the engine's session, for the whole batch this step was part of. */
  engineMs: number;
  /** Waiting for the engine to be free, or for the model to load. */
  queueMs: number;
  /** The rest: encoding, transport, decoding, copies. */
  overheadMs: number;
  /** Rows of the batch, of all clients. */
  batchRows: number;
  batchClients: number;
  /** The stack this step ran with, in its order; none of strength 0. */
  loras: readonly LoraRef[];
}>;

/** The latest steps of a client, for its table of figures. */
export class StepLog {
  #steps: StepTiming[] = [];
  #total = 0;

  add(totalMs: number, timings: Timings, loras: readonly LoraRef[] = []): void {
    const { engineMs, queueMs, batch } = timings;
    this.#total++;
    if (this.#steps.length >= STEPS_KEPT_MAX) this.#steps = this.#steps.slice(STEPS_KEPT_MAX / 2);
    const overheadMs = Math.max(0, totalMs - engineMs - queueMs);
    const { rows: batchRows, clients: batchClients } = batch;
    this.#steps.push({
      totalMs,
      engineMs,
      queueMs,
      overheadMs,
      batchRows,
      batchClients,
      loras: loras.filter((lora) => lora.strengthModel !== 0),
    });
  }

  /** Oldest first; at most the latest 10,000. */
  get steps(): readonly StepTiming[] {
    return this.#steps;
  }

  /** All steps ever made. */
  get count(): number {
    return this.#total;
  }
}
