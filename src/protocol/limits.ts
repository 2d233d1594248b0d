/**
 * One frame. The largest honest one is a step with ControlNet residuals: SDXL at 1024x1024 with CFG
 * sends 215 MB in float32; an image of 4096x4096 has 201 MB. Twice that is room enough.
 */
export const FRAME_BYTES_MAX = 512 * 2 ** 20;
/** Header of one frame: a whole SDXL UNet (1,680 tensors) needs 0.2 MB; ten times a full LoRA. */
export const FRAME_HEADER_BYTES_MAX = 8 * 2 ** 20;
/** Tensors in one frame: a LoRA on every SDXL layer has about 2,300. */
export const FRAME_TENSORS_MAX = 16_384;
/** Characters of message JSON: a request with 64 LoRAs and 64 digests stays below 20 kB. */
export const MESSAGE_LENGTH_MAX = 2 ** 20;
/** The hello comes first and holds two names and a token: what is larger is no client of ours. */
export const HELLO_BYTES_MAX = 64 * 2 ** 10;
/** Names of models, LoRAs and clients: paths below a model folder; Windows ends at 260. */
export const NAME_LENGTH_MAX = 512;
/** LoRAs of one request: people stack up to about ten. */
export const LORAS_MAX = 64;
/** ComfyUI's LoRA loaders allow -100 to 100. */
export const STRENGTH_MAX = 100;
/** The deepest text encoder has 32 layers (OpenCLIP-G). */
export const LAYERS_MAX = 64;
/** ComfyUI's tile sizes end at 4096 pixels; tiles below 64 are all border. */
export const TILE_PIXELS_MAX = 4096;
export const TILE_PIXELS_MIN = 64;
/** Linux ends at 2^22, Windows and macOS below 2^32. */
export const PID_MAX = 2 ** 32 - 1;
/** Characters of a token: a 64-byte secret in hex has 128. */
export const TOKEN_LENGTH_MAX = 1024;
/** A deadline further away than a day is none. */
export const DEADLINE_MS_MAX = 24 * 3600 * 1000;
/** ComfyUI's sliders for FreeU end at 10. */
export const FREEU_SCALE_MAX = 1000;
/** SDXL has 70 transformer blocks; a name may stand for all of a block. */
export const PAG_BLOCKS_MAX = 128;
/** Control nets of one step: people chain up to three or four. */
export const CONTROLS_MAX = 16;
/** ComfyUI's sliders end at 10. */
export const CONTROL_STRENGTH_MAX = 1000;
/** Union ControlNets know 6 or 8 kinds of hints. */
export const CONTROL_TYPES_MAX = 64;
/** A step has at most 64 rows. */
export const CONTROL_ROWS_MAX = 64;
