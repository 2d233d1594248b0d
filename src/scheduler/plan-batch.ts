/**
 * Which waiting jobs run together. Pure: the caller owns the queue. There are no phases and no
 * windows: samplers live in the clients, each step is a job, new work joins at the next batch.
 */
export type Job = Readonly<{
  /** Jobs of one key may share a run: same model, component and shapes, whatever their LoRAs. */
  batchKey: string;
  /** Rows of the batch axis the job brings. */
  rows: number;
  /** Rows at which a batch headed by this job is full; depends on shapes only, so on the key. */
  rowsMax: number;
}>;

/**
 * The next batch, oldest job first, in order of arrival; empty for an empty queue. A job larger
 * than `rowsMax` runs alone. Nothing overtakes a job of its own key, so large jobs do not starve.
 */
export function planBatch<J extends Job>(queue: readonly J[]): J[] {
  const [head] = queue;
  if (head === undefined) return [];
  const batch: J[] = [];
  let rows = 0;
  for (const job of queue) {
    if (job.batchKey !== head.batchKey) continue;
    if (batch.length > 0 && rows + job.rows > head.rowsMax) break;
    batch.push(job);
    rows += job.rows;
  }
  return batch;
}
