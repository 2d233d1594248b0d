export { EnginePool } from "./engine-pool.ts";
export type * from "./port.ts";
export { DEVICE_CHOICES, type DeviceChoice } from "./providers.ts";
export { type EngineOptions, SupervisedEngine, startEngine } from "./supervised-engine.ts";
