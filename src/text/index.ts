export { type ClipTokenizer, createClipTokenizer } from "./clip-tokenizer.ts";
export {
  type EncodedPrompt,
  encodePrompt,
  type PromptEncoder,
  type PromptTexts,
  type TextEncoderShape,
} from "./encode-prompt.ts";
export type { EncodeTokens, TextEncoderInputs } from "./encode-rows.ts";
export { extractLoraTags, type LoraTag } from "./lora-tags.ts";
export { parsePromptWeights, type WeightedText } from "./prompt-weights.ts";
export { selectEmbedding } from "./select-embedding.ts";
export { refinerVector, type SizeConditioning, sdxlVector } from "./size-vector.ts";
export {
  type EncoderKind,
  type LoadEmbedding,
  type PromptToken,
  type TokenRow,
  tokenizePrompt,
} from "./tokenize-prompt.ts";
