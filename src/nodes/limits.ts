/** Widest and highest picture that ComfyUI's inputs accept, in pixels. */
export const RESOLUTION_MAX = 16_384;
/** Sampler steps; ComfyUI's own limit. */
export const STEPS_MAX = 10_000;
/** Pictures of one batch; ComfyUI's own limit. */
export const BATCH_MAX = 4_096;
/** Seeds are 64 bits wide. */
export const SEED_MAX = 2n ** 64n - 1n;
/** Strongest LoRA either way; ComfyUI's own limit. */
export const LORA_STRENGTH_MAX = 100;
/** Numbers of a batch in all tensors of a picture, 4 GiB of float32: more is refused before it is made. */
export const VALUES_MAX = 2 ** 30;
/** Bytes of a picture file that is read; the upload limit of ComfyUI is 100 MiB too. */
export const IMAGE_BYTES_MAX = 100 * 2 ** 20;
/** Pixels of a picture file: 16,384 squared would be 1 GiB decoded, four times that as float32. */
export const IMAGE_PIXELS_MAX = 2 ** 26;
/** How often a file name is counted up while other instances write into the same folder. */
export const SAVE_ATTEMPTS_MAX = 1_000;
