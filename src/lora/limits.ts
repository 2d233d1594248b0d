/**
 * Largest rank of one adapter on one layer. Trained LoRAs reach 512; a LoHa of dimension 32 is
 * exactly rank 1,024. More than that costs more than the layer itself.
 */
export const ADAPTER_RANK_MAX = 1024;
/** Bytes of all factors of one adapter, in float32: an SDXL LoRA of rank 256 takes 2.9 GB. */
export const ADAPTER_BYTES_MAX = 4 * 1024 ** 3;
/** Side of an OFT block; inverting one takes its cube. LyCORIS makes blocks of 4 to some 200. */
export const OFT_BLOCK_MAX = 1024;
/**
 * Memory of a file's factors comes in such pieces, ready ahead. SD1.5's largest factor of rank 64 takes
 * 2.6 MB; larger ones, and files that need less, get just what they need.
 */
export const FACTOR_PIECE_BYTES = 4 * 2 ** 20;
