export type * from "./port.ts";
export { DEVICE_CHOICES, type DeviceChoice } from "./providers.ts";
export { type EngineOptions, type SupervisedEngine, startEngine } from "./supervised-engine.ts";
