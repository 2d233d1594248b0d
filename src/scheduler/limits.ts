/**
 * Requests that may wait for the engine at once. A hundred instances hold one step each; beyond
 * this somebody floods, and waiting would take minutes.
 */
export const QUEUE_DEPTH_MAX = 1024;
/** Longest wait of an idle engine for a client that is due; a human sees nothing of it. */
export const WAIT_MS_MAX = 20;
/** Waits in vain in a row after which a client is not waited for until it is steady again. */
export const CADENCE_MISSES_MAX = 2;
/** Clients whose cadence is known; the daemon has 256 sessions in use at most at once. */
export const CLIENTS_MAX = 2048;
/** A level of rows needs this many runs before it is judged, and is judged by the latest of them. */
export const CAP_SAMPLES_MIN = 3;
export const CAP_SAMPLES_MAX = 9;
/** A larger run must take at most this share of the time a row: below it noise would decide. */
export const CAP_GAIN_MIN = 1.03;
/** Every so many runs of a shape, each neighbour of its level is tried once. */
export const CAP_EXPLORE_RUNS = 128;
/** Shapes whose rows are known; people use some ten sizes. */
export const CAP_KEYS_MAX = 256;
/** A context is repeated to a common length up to this many times the longer one. */
export const TOKENS_GROWTH_MAX = 2;
/** Bounds of what QUEUE_FULL says about when to come again. */
export const RETRY_MS_MIN = 20;
export const RETRY_MS_MAX = 60_000;
