export { encodeHalf, fromFloat, toFloat } from "./convert.ts";
export { digestTensor } from "./digest.ts";
export { decodeHalves, decodeTransposed, isHalf } from "./halves.ts";
export {
  parseSafetensors,
  parseSafetensorsHeader,
  parseTensorEntry,
  type ReadAt,
  readSafetensorsHeader,
  type Safetensors,
  type SafetensorsHeader,
  serializeSafetensors,
  serializeSafetensorsHeader,
  serializeSafetensorsParts,
  type TensorEntry,
} from "./safetensors.ts";
export {
  DTYPE_BYTES,
  type DType,
  elementCount,
  type FloatTensor,
  floatTensor,
  isDType,
  type Tensor,
} from "./tensor.ts";
