/** One frame between daemon and engine: a batch of 8 items with 200 MB of LoRA factors each fits. */
export const PIPE_FRAME_BYTES_MAX = 4_000_000_000;
/** A line on the engine's stderr; native crash reports are longer and get cut. */
export const LOG_LINE_LENGTH_MAX = 8192;
/** Starting a process, importing ONNX Runtime and the self-test take about 1 s; a cold disk more. */
export const START_MS_MAX = 120_000;
/** A step in progress cannot be interrupted: past this the process is killed on close. */
export const CLOSE_MS_MAX = 3_000;
/** Crashes without a good run between them that are healed in one window; beyond, restarts cure nothing. */
export const RESTARTS_MAX = 5;
export const RESTART_WINDOW_MS = 60_000;
/** A job that was running when the process died is tried again once: it may be the cause. */
export const JOB_CRASHES_MAX = 2;
/** A kill from outside says little about the job, unless the system does it again and again. */
export const JOB_KILLS_MAX = 4;
/** Parsed LoRAs kept in the engine: a rank-16 LoRA of SD1.5 takes about 13 MB in float32. */
export const LORA_CACHE_BYTES_DEFAULT = 1 << 30;
/** A LoRA of rank 256 on every SDXL layer is about 3.3 GB; larger files are no LoRAs. */
export const LORA_FILE_BYTES_MAX = 4_000_000_000;
/** Pieces of 4 MiB that each thread that reads adapter files keeps ready at most: enough for 27 MB of F16. */
export const SPARE_PIECES_MAX = 8;
/** Between two that are made ready, which takes 2 to 10 ms: steps come first. */
export const SPARE_PIECES_DELAY_MS = 40;
/** What was said once about a LoRA is remembered for this many (file, strength) pairs. */
export const ANNOUNCED_MAX = 4096;
/** Longest part of a message of ONNX Runtime that is passed on. */
export const RUNTIME_MESSAGE_LENGTH_MAX = 400;
/** Items of one batch; the scheduler's own cap is lower. */
export const BATCH_ITEMS_MAX = 256;
/**
 * Pixels of one VAE call beyond which it works in tiles: 1536 x 1536. A decode keeps some
 * 128 channels x 4 bytes x 3 buffers a pixel, 3.6 GB at this size.
 */
export const VAE_PIXELS_UNTILED_MAX = 1536 * 1536;
/** Tiles used when the caller named none, in latent cells: 512 pixels with 64 shared. */
export const VAE_TILE_DEFAULT = { size: 64, overlap: 8 } as const;
/** Smallest tile: below it the receptive field of the VAE is mostly outside the tile. */
export const VAE_TILE_SIZE_MIN = 8;
export const VAE_TILE_SIZE_MAX = 1024;
/** Batches (sizes, LoRA strengths) whose inputs are kept for one set of LoRAs, some 100 KB each. */
export const SCALES_MAX = 16;
/** Tensors kept in the engine because they come with every step: SDXL's context has 0.6 MB a row. */
export const SHARED_TENSOR_BYTES_MAX = 256 * 2 ** 20;
/** A larger one crosses with every step: it would push out all others. */
export const SHARED_TENSOR_BYTES_EACH_MAX = SHARED_TENSOR_BYTES_MAX / 4;
/** Names of sent LoRA factors and shared tensors that are remembered; beyond it all are sent once more. */
export const KNOWN_DIGESTS_MAX = 10_000;
/** Digests of requests that are refused because they ended the engine twice, 64 bytes each. */
export const POISONED_MAX = 1000;
/** Loading 10 GB from a slow disk, or the first pass of a large net on a slow CPU. */
export const REQUEST_MS_MAX = 600_000;
/** No run counts as hung before this: a machine may swap, or be suspended. */
export const HANG_MS_DEFAULT = 30_000;
/** A run is hung when it takes so many times what the slowest one of its net took, for its size. */
export const HANG_FACTOR = 20;
/** What control nets made of hints, kept for the steps of their pictures: 5 to 10 MB at 512x512. */
export const HINT_FEATURES_BYTES_MAX = 256 * 2 ** 20;
