/**
 * CLIP's tokenizer as ComfyUI runs it (Hugging Face's CLIPTokenizer of transformers 5): NFC, white
 * space folded, lower case, split into letters, single digits and the rest, byte pairs merged.
 */
import { LunaError } from "../kernel/index.ts";
import { PROMPT_LENGTH_MAX } from "./limits.ts";
import { mergeBytes } from "./merge-bytes.ts";
import { type MergeTable, parseMergeTable } from "./merge-table.ts";

export const START_TOKEN = 49_406;
export const END_TOKEN = 49_407;

const SPECIAL = /(<\|startoftext\|>|<\|endoftext\|>)/;
const WHITE_SPACE = /\p{White_Space}+/gu;
const PIECES = /'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\p{White_Space}\p{L}\p{N}]+/gu;

export type ClipTokenizer = Readonly<{
  /** Token ids of a text, without start, end or padding. Throws LIMIT_EXCEEDED for a huge text. */
  tokenize(text: string): number[];
}>;

/**
 * Makes the tokenizer. `readMerges` gives the text of assets/clip/merges.txt (uncompressed) and is
 * called once, at the first word.
 */
export function createClipTokenizer(readMerges: () => string): ClipTokenizer {
  let merges: MergeTable | undefined;
  const tokenizePlain = (text: string): number[] => {
    merges ??= parseMergeTable(readMerges());
    const table = merges;
    return (normalize(text).match(PIECES) ?? []).flatMap((piece) =>
      mergeBytes(encoder.encode(piece), table),
    );
  };
  return {
    tokenize(text) {
      if (text.length > PROMPT_LENGTH_MAX) {
        throw new LunaError(
          "LIMIT_EXCEEDED",
          `A prompt has ${text.length} characters, limit ${PROMPT_LENGTH_MAX}. Shorten it.`,
        );
      }
      return text.split(SPECIAL).flatMap((part) => {
        if (part === "<|startoftext|>") return [START_TOKEN];
        if (part === "<|endoftext|>") return [END_TOKEN];
        return part === "" ? [] : tokenizePlain(part);
      });
    },
  };
}

function normalize(text: string): string {
  const folded = text.normalize("NFC").replace(WHITE_SPACE, " ");
  // Character by character: a whole string would turn a final capital sigma into another letter.
  let lower = "";
  for (const character of folded) lower += character.toLowerCase();
  return lower;
}

const encoder = new TextEncoder();
