export { type ModelFile, ModelFiles } from "./model-files.ts";
export {
  ALL_KINDS,
  type ExtraFolder,
  type ExtraPathsContext,
  isModelKind,
  type ModelFolders,
  type ModelKind,
  modelFolders,
  parseExtraModelPaths,
} from "./model-folders.ts";
export {
  type Lease,
  type LoraFile,
  type Model,
  ModelRegistry,
  type ModelRegistryOptions,
  type ModelStatus,
} from "./model-registry.ts";
export type { Loader, NetStatus } from "./net-pool.ts";
