/**
 * Requests that may wait for the engine at once. A hundred instances hold one step each; beyond
 * this somebody floods, and waiting would take minutes.
 */
export const QUEUE_DEPTH_MAX = 1024;
/** Longest wait of an idle engine for a client that is due; a human sees nothing of it. */
export const WAIT_MS_MAX = 20;
/** Share of a run that waiting for more rows must save. */
export const WAIT_GAIN_MIN = 0.05;
/** Waits in vain in a row after which a client is not waited for until it is steady again. */
export const CADENCE_MISSES_MAX = 2;
/** Clients whose cadence is known; the daemon has 256 sessions in use at most at once. */
export const CLIENTS_MAX = 2048;
/** Rows a run of a new shape may have: what the daemon allows at most for pictures. */
export const CAP_LEVEL_START = 16;
/** A level costs more than the smaller ones only beyond this share: timers and pipes differ as much. */
export const LOSS_TOLERATED = 0.005;
/** Pairs of runs before a comparison says anything, and how many it remembers. */
export const PAIRS_MIN = 3;
export const PAIR_MEMORY = 128;
/** Largest difference of a pair that counts, as a share of its mean: a machine may be suspended. */
export const PAIR_OUTLIER = 1.5;
/** Pairs in a row that far off what is known, on one side, that make it void. */
export const SURPRISES_MAX = 3;
/** Runs after which a level in use is compared again, however clear its gain. */
export const TRIAL_RUNS_MAX = 128;
/** Rows of the smaller runs of a trial; more would tell little more and hold others up. */
export const REFERENCE_ROWS_MAX = 2;
/** Runs a trial waits for ones of the size it needs; then too few rows come. */
export const REFERENCE_RUNS_MAX = 12;
/** Share of rows in trials of a new level, and of one that was given up before. */
export const TRIAL_SHARE = 1 / 4;
export const RETRIAL_SHARE = 1 / 16;
/** Shapes whose rows are known; people use some ten sizes. */
export const CAP_KEYS_MAX = 256;
/** A context is repeated to a common length up to this many times the longer one. */
export const TOKENS_GROWTH_MAX = 2;
/** Bounds of what QUEUE_FULL says about when to come again. */
export const RETRY_MS_MIN = 20;
export const RETRY_MS_MAX = 60_000;
