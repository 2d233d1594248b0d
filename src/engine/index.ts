export { EnginePool } from "./engine-pool.ts";
export type * from "./port.ts";
export { DEVICE_CHOICES, type DeviceChoice } from "./providers.ts";
export { SupervisedEngine, startEngine } from "./supervised-engine.ts";
