/** Time for one attempt to connect and greet, in ms: a daemon on this machine answers in 5. */
export const CONNECT_MS_MAX = 5_000;
/** How long a lost daemon may take to come back before requests fail: a restart takes seconds. */
export const RECONNECT_GRACE_MS = 20_000;
/** Pauses between attempts to reconnect double from the first to the last. */
export const RECONNECT_PAUSE_MS_MIN = 50;
export const RECONNECT_PAUSE_MS_MAX = 2_000;
/** A request without a deadline of its own: loading 10 GB from a slow disk is the longest wait. */
export const REQUEST_MS_MAX = 600_000;
/** Bytes that may wait unsent: one frame of the largest size. */
export const SEND_BUFFER_BYTES_MAX = 512 * 2 ** 20;
/** Tensors below this travel inside each request: naming them by digest saves nothing. */
export const SHARED_TENSOR_BYTES_MIN = 4096;
/** Digests remembered for one daemon; some 70 bytes each. */
export const DIGESTS_KNOWN_MAX = 10_000;
/** Steps kept for statistics: twenty pictures of 50 steps in each of ten instances. */
export const STEPS_KEPT_MAX = 10_000;
/** Bytes of tensors in one frame of an upload; a frame holds at least one tensor. */
export const UPLOAD_FRAME_BYTES = 64 * 2 ** 20;
