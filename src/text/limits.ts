/** Longest prompt, in UTF-16 units. Real ones stay below some thousands; this many make 1,400 rows. */
export const PROMPT_LENGTH_MAX = 100_000;
/** Parentheses inside parentheses; each level multiplies by 1.1, so ten levels are already 2.6. */
export const WEIGHT_NESTING_MAX = 200;
/** LoRA tags of one prompt; people stack a handful. */
export const LORA_TAGS_MAX = 64;
/** Rows of 77 tokens that one prompt may make: 100,000 characters are at most about 1,400. */
export const TOKEN_ROWS_MAX = 2_000;
/** CLIP's own number of merges; the file is refused when it differs. */
export const MERGE_COUNT = 48_894;
/** Vectors of one textual inversion; trained ones have 1 to 75. */
export const EMBEDDING_VECTORS_MAX = 1_024;
