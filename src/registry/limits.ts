/** Files listed below one folder: large collections hold some thousand LoRAs. */
export const FILES_MAX = 50_000;
/** Nested folders; links that lead in circles end here too. */
export const FOLDER_DEPTH_MAX = 16;
/** A model name as clients send it; the longest path Linux takes is 4,096 bytes. */
export const NAME_LENGTH_MAX = 1024;
/** Bytes of an extra_model_paths.yaml; real ones have some 2 KB. */
export const EXTRA_PATHS_BYTES_MAX = 1 << 20;
/** Parsed headers kept in memory; one of SDXL takes about 1 MB. */
export const HEADERS_MAX = 64;
/** A folder listing is read again for an unknown name, but not more often than this. */
export const LISTING_AGE_MS_MAX = 1000;
/** How long a file's size and time are believed: some ten steps, and less than a human notices. */
export const FINGERPRINT_AGE_MS_MAX = 500;
