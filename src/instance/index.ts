export type { InstanceFolders } from "./folders.ts";
export { CONCURRENCY_MAX } from "./limits.ts";
export { loadNodePacks } from "./load-node-packs.ts";
export { ModelClients } from "./model-clients.ts";
export { InstanceServices, type NodeServicesOptions } from "./node-services.ts";
export {
  createPreviewer,
  isPreviewMethod,
  PREVIEW_METHODS,
  type PreviewMethod,
} from "./previewers.ts";
export { type Instance, type InstanceOptions, startInstance } from "./start-instance.ts";
