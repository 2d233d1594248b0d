export { factorsFromTensors } from "./factors-from-tensors.ts";
export {
  type ApplyChange,
  type FoldBase,
  foldStack,
  isAdditive,
  type Patches,
  type StackItem,
} from "./fold-stack.ts";
export { buffersOf } from "./layer-patch.ts";
export {
  activeAdapters,
  isMixed,
  joinFactors,
  needsFullGraph,
  packAdapters,
  rowFactors,
  rowScales,
  scaleRows,
  vectorRows,
} from "./pack-adapters.ts";
export { joinLoras, parseLora, parseShare, type Share } from "./parse-lora.ts";
export { type PieceSource, rawPiece } from "./read-factor.ts";
export { applyLowRank } from "./resolve-patch.ts";
export type * from "./types.ts";
