/**
 * CLIP's tokenizer as ComfyUI runs it (Hugging Face's CLIPTokenizer of transformers 5): NFC, white
 * space folded, lower case, split into letters, single digits and the rest, byte pairs merged.
 */
import { LunaError } from "../kernel/index.ts";
import { PROMPT_LENGTH_MAX } from "./limits.ts";
import { BYTE_TO_ID, type MergeTable, parseMergeTable } from "./merge-table.ts";

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
    return (normalize(text).match(PIECES) ?? []).flatMap((piece) => mergeBytes(piece, table));
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

/** Byte-pair encoding of one piece: the best pair is joined everywhere until none is left. */
function mergeBytes(piece: string, table: MergeTable): number[] {
  let ids = Array.from(encoder.encode(piece), (byte) => BYTE_TO_ID[byte] ?? 0);
  const last = ids.length - 1;
  ids[last] = (ids[last] ?? 0) + 256;
  while (ids.length > 1) {
    const best = bestMerge(ids, table);
    if (best === undefined) break;
    ids = joinPair(ids, best, table);
  }
  return ids;
}

function bestMerge(ids: readonly number[], table: MergeTable): number | undefined {
  let best: number | undefined;
  for (let i = 0; i + 1 < ids.length; i++) {
    const id = table.find(ids[i] ?? 0, ids[i + 1] ?? 0);
    if (id !== 0 && (best === undefined || id < best)) best = id;
  }
  return best;
}

function joinPair(ids: readonly number[], merged: number, table: MergeTable): number[] {
  const joined: number[] = [];
  for (let i = 0; i < ids.length; i++) {
    const left = ids[i] ?? 0;
    const right = ids[i + 1];
    if (right !== undefined && table.find(left, right) === merged) {
      joined.push(merged);
      i++;
    } else joined.push(left);
  }
  return joined;
}
