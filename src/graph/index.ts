export { adapterInputs, adapterRankMin } from "./adapters.ts";
export type * from "./types.ts";
