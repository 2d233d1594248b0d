/** The first frame of a connection must come within this: a client sends it at once. */
export const HANDSHAKE_MS_MAX = 10_000;
/** Connections at once; an idle one takes some 20 KB. People run some ten instances. */
export const SESSIONS_MAX = 2048;
/** Requests one session may have in flight: a sampler has one, a tiled upscaler some dozens. */
export const PENDING_PER_SESSION_MAX = 64;
/** Bytes of the frames one session has in flight: two of the largest size. */
export const PENDING_BYTES_MAX = 2 ** 30;
/** Bytes that may wait for a client that reads slowly: one frame of the largest size. */
export const SEND_BUFFER_BYTES_MAX = 512 * 2 ** 20;
/** Path of a Unix socket: 104 bytes on macOS, 108 on Linux, the last one a zero. */
export const SOCKET_PATH_BYTES_MAX = 103;
/** Tensors held by digest for all clients; an SDXL context is 1.2 MB, its residuals 215 MB. */
export const TENSOR_STORE_BYTES_MAX = 2 ** 30;
/** LoRA factors held by digest, where no setting says more: rank 64 on all of SDXL is 0.7 GB in float32. */
export const LORA_STORE_BYTES_MAX = 2 ** 30;
/** Rank of one adapter on one layer; extracted ones reach 512. */
export const LORA_RANK_MAX = 1024;

/** Rows of one UNet request: CFG doubles a batch, people make 16 pictures at once at most. */
export const UNET_ROWS_MAX = 64;
/** Latent cells of one item: 2048x2048 pixels, beyond which full attention takes 100 GB. */
export const LATENT_CELLS_MAX = 256 * 256;
/** Tokens of a context: ComfyUI repeats prompts to a common multiple, up to 4 x 13 chunks of 77. */
export const CONTEXT_TOKENS_MAX = 4096;
/** Rows of 77 tokens in one text request: a prompt of 20,000 words. */
export const TEXT_ROWS_MAX = 256;
/** Pictures in one VAE request. */
export const VAE_ROWS_MAX = 16;
/** Latent cells of all pictures together: 6476x6476 pixels, whose 503 MB in float32 fit a frame. */
export const VAE_CELLS_MAX = 640 * 1024;
/** UNet cells a VAE cell counts as: SD1.5's decoder takes about 2.5 TFLOP for 64x64, its UNet 0.7. */
export const VAE_COST = 4;
/** Larger pictures go through the VAE in tiles: at 1536x1536 a decoder holds about 9 GB. */
export const VAE_WHOLE_CELLS_MAX = 192 * 192;
/** Tile size and overlap in pixels when the daemon tiles by itself; as ComfyUI's nodes default. */
export const VAE_TILE = { size: 512, overlap: 64 } as const;

/**
 * Latent cells of a whole UNet batch. Batching pays where one item leaves the device idle: 16 items
 * at 512x512 on one GPU ran 3.2 times faster, at 1024x1024 only 1.02 times.
 */
export const BATCH_CELLS_MAX = 16 * 64 * 64;
export const BATCH_ROWS_MAX = 16;

/** Steps from which a session's percentiles are taken. */
export const STEP_SAMPLES_MAX = 512;
/** How often a watcher gets all figures: as often as an eye can follow a number. */
export const WATCH_STATUS_MS = 1000;
/** Events are gathered this long, so that a fast engine does not send a frame a batch. */
export const WATCH_GATHER_MS = 100;
/** Events kept for a watcher between two sends; an engine runs some 100 batches a second at most. */
export const WATCH_EVENTS_MAX = 512;
/** A watcher with more than this unread gets nothing new until it has read. */
export const WATCH_BUFFER_BYTES_MAX = 2 ** 20;

/** Warnings remembered as said, for each session. */
export const WARNINGS_MAX = 1000;

/** Bytes of one uploaded UNet: SDXL in float32 has 10.3 GB. */
export const UPLOAD_BYTES_MAX = 16 * 2 ** 30;
/** An unfinished upload that has not grown for so long belongs to nobody: frames follow each other. */
export const PART_AGE_MS_MAX = 3_600_000;
/** Bytes of all uploaded files together. */
export const UPLOAD_FOLDER_BYTES_MAX = 64 * 2 ** 30;
/** Room for the header of an uploaded file, written last: SDXL's has 0.25 MB. */
export const UPLOAD_HEADER_BYTES = 2 ** 20;
/** Uploads one session may have under way. */
export const UPLOADS_PER_SESSION_MAX = 4;

/** A probe's patience: Docker's and Kubernetes' own default to a few seconds. */
export const READY_MS_MAX = 2000;
/** What the dashboard's "try it" may ask for: pictures to look at, not production. */
export const TRY_LIMITS = {
  /** Pictures being made at once: four tiles of the page, in two browsers. */
  running: 8,
  steps: 100,
  /** Pixels. */
  side: { min: 64, max: 1024 },
  cfg: 30,
  /** Characters. */
  prompt: 4000,
  name: 200,
  loras: 8,
  strength: 10,
  /** Whole numbers that JSON carries exactly. */
  seed: Number.MAX_SAFE_INTEGER,
  bodyBytes: 64 * 2 ** 10,
} as const;
/** Work of a control net beside that of the UNet's row: SD1.5's has 361 of 860 million weights. */
export const CONTROL_COST = 0.4;
