/** SD has 4 levels (UNet and autoencoder), SDXL 3. */
export const LEVELS_MAX = 8;
/** SD and SDXL have 2 residual blocks a level, 3 on the way up. */
export const RES_BLOCKS_MAX = 16;
/** The deepest transformer of SDXL has 10 blocks. */
export const TRANSFORMER_DEPTH_MAX = 64;
/** OpenCLIP-G has 32 layers. */
export const TEXT_LAYERS_MAX = 128;
/** The widest layer of SDXL has 10,240 outputs (GEGLU of 1,280 channels); CLIP has 49,408 tokens. */
export const AXIS_MAX = 1_000_000;
/** Union ControlNets know 6 or 8 kinds of hints. */
export const UNION_TYPES_MAX = 64;
/** A scalar or a norm's bias is read whole for its value; SD2's is 320 numbers. */
export const VALUE_BYTES_MAX = 65_536;
