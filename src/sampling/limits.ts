/** Sampling steps of one run, ComfyUI's own bound; useful runs have 4 to 150. */
export const STEPS_MAX = 10_000;

/**
 * Steps of the schedule behind a run with denoise below 1: steps / denoise is unbounded as denoise
 * goes to 0. 10,000 steps at denoise 0.01, the smallest a workflow can ask for.
 */
export const SCHEDULE_STEPS_MAX = 1_000_000;

/**
 * How often a context may be repeated to share a forward pass with a longer one (ComfyUI's own
 * bound): beyond it the extra attention costs more than a second pass.
 */
export const CONTEXT_REPEATS_MAX = 4;

/** Highest batch index of a noise draw; each index below it is drawn too. ComfyUI's nodes stop at 63. */
export const BATCH_INDEX_MAX = 4096;
