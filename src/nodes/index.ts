export { decimal, shortName } from "./apply-lora.ts";
export { SEED_MAX } from "./limits.ts";
export type {
  CheckpointPart,
  DaemonMode,
  DaemonStatus,
  FileKind,
  LatentPreview,
  NodeContext,
  NodeServices,
  OpenedCheckpoint,
  OpenRequest,
  OutputType,
  Progress,
  SavedFile,
} from "./node-context.ts";
export {
  type ComboInput,
  defineNode,
  ExecutionBlocker,
  type ExpandedGraph,
  type InputSpec,
  type InputSpecs,
  type NodeDefinition,
  type NodeResult,
  type NodeUi,
  type OutputSpec,
  output,
} from "./node-definition.ts";
export { NODE_DEFINITIONS } from "./node-definitions.ts";
export {
  pickChannel,
  readPictureFile,
  toPngFile,
  toSmallFile,
  withAlphaOf,
} from "./picture-file.ts";
export { encodePng, readPngText } from "./png.ts";
export { taesdNames } from "./taesd-vae.ts";
export { toPixels } from "./upscale.ts";
export type {
  Clip,
  Conditioning,
  ConditioningPart,
  Latent,
  Location,
  LoraStack,
  Model,
  SocketType,
  SocketValues,
  Vae,
} from "./values.ts";
