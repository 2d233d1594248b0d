export { ModelClients } from "./model-clients.ts";
export {
  type InstanceFolders,
  InstanceServices,
  type NodeServicesOptions,
} from "./node-services.ts";
