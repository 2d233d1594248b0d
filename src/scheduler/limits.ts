/**
 * Requests that may wait for the engine at once. A hundred instances hold one step each; beyond
 * this somebody floods, and waiting would take minutes.
 */
export const QUEUE_DEPTH_MAX = 1024;
