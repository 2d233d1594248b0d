/** How urgent a request is: a preview somebody waits for, a picture, a batch overnight. */
export const PRIORITIES = ["interactive", "normal", "bulk"] as const;
export type Priority = (typeof PRIORITIES)[number];

/** Shares of the engine when all three wait; none of them ever starves another. */
export const PRIORITY_SHARE: Readonly<Record<Priority, number>> = {
  interactive: 16,
  normal: 4,
  bulk: 1,
};

export type Job = Readonly<{
  /** Jobs of one key may share a run: same model, component and shapes, whatever their LoRAs. */
  batchKey: string;
  /** Rows of the batch axis the job brings. */
  rows: number;
  /** Rows that no run headed by this job exceeds; depends on shapes only, so on the key. */
  rowsMax: number;
  /** Whose it is: fairness and the count of clients in a batch go by it. */
  client: string;
  /** Work of one row, in latent cells. */
  rowCost: number;
  /** More rows than fit into a run may go through the engine in several. */
  isSplittable?: boolean;
  /**
   * Tokens of its context. Jobs of different lengths share a run when the engine repeats each to the
   * common multiple, which is exact: attention over repeated keys is attention over the keys.
   */
  tokens?: number;
  priority?: Priority;
  /** Share of its client; 1 when not given. */
  weight?: number;
}>;

/** Rows [begin, begin + rows) of a job. */
export type Range = Readonly<{ begin: number; rows: number }>;
