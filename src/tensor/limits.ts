/** The safetensors header of a full SDXL checkpoint is about 0.3 MB; 100 MB is the format's own limit. */
export const HEADER_BYTES_MAX = 100_000_000;
/** SDXL has 2,515 tensors; a LoRA on all of its targets about 2,200. */
export const TENSOR_COUNT_MAX = 100_000;
/** No tensor of a supported model has more than 4 axes; frames use at most 5. */
export const RANK_MAX = 8;
/** A name is a dotted path of layers; real ones stay below 120 bytes. */
export const NAME_LENGTH_MAX = 1024;
/** `__metadata__` of trained LoRAs holds tag statistics, some hundred kilobytes. */
export const METADATA_ENTRIES_MAX = 10_000;
