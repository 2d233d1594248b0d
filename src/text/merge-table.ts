/**
 * CLIP's byte-pair vocabulary without a string a token: ids 0..255 are the bytes in the order of
 * GPT-2's byte alphabet, 256..511 the same bytes at the end of a word, then one id a merge, best
 * merge first. So "which merge joins a and b" is the whole vocabulary, and it fits in a hash table
 * of integers (0.8 MB; a Map of strings takes 7 MB).
 */
import { LunaError } from "../kernel/index.ts";
import { MERGE_COUNT } from "./limits.ts";

const WORD_END = "</w>";
const BYTE_IDS = 256;
const FIRST_MERGE_ID = 2 * BYTE_IDS;
/** A power of two, more than twice the merges: probes stay short. */
const SLOTS = 131_072;
const NO_MERGE = 0;

/** Bytes that GPT-2's alphabet shows as themselves come first, the other 68 after them. */
const BYTE_ORDER: readonly number[] = [
  ...range(0x21, 0x7e),
  ...range(0xa1, 0xac),
  ...range(0xae, 0xff),
  ...range(0x00, 0x20),
  ...range(0x7f, 0xa0),
  0xad,
];
const FIRST_HIDDEN_BYTE = 188;

function range(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, i) => first + i);
}

/** Token id of a byte inside a word; add 256 where the word ends. */
export const BYTE_TO_ID: Uint8Array = Uint8Array.from({ length: BYTE_IDS }, (_, byte) =>
  BYTE_ORDER.indexOf(byte),
);

export type MergeTable = Readonly<{
  /** Id that the pair becomes, or 0 when they do not merge. Smaller ids merge first. */
  find(left: number, right: number): number;
}>;

function slotOf(key: number): number {
  return Math.imul(key, 0x9e3779b1) >>> 15; // 17 bits: SLOTS.
}

/**
 * Parses the text of CLIP's merges: a version line, then `left right` on each line.
 * Throws FILE_UNREADABLE when it is not that file.
 */
export function parseMergeTable(text: string): MergeTable {
  const lines = text.split("\n").slice(1, MERGE_COUNT + 1);
  if (lines.length !== MERGE_COUNT) {
    throw new LunaError(
      "FILE_UNREADABLE",
      `CLIP's merges have ${lines.length} lines, ${MERGE_COUNT} are needed.`,
    );
  }
  const keys = new Uint32Array(SLOTS);
  const ids = new Uint16Array(SLOTS);
  const names = byteNames();
  for (const [index, line] of lines.entries()) {
    const [left = "", right = ""] = line.trimEnd().split(" ");
    const a = names.get(left);
    const b = names.get(right);
    if (a === undefined || b === undefined) {
      throw new LunaError(
        "FILE_UNREADABLE",
        `Line ${index + 2} of CLIP's merges, "${line}", joins tokens that no line before it makes.`,
      );
    }
    const id = FIRST_MERGE_ID + index;
    names.set(left + right, id);
    const key = ((a << 16) | b) >>> 0;
    let slot = slotOf(key);
    while (ids[slot] !== NO_MERGE) slot = (slot + 1) % SLOTS;
    keys[slot] = key;
    ids[slot] = id;
  }
  return {
    find(left, right) {
      const key = ((left << 16) | right) >>> 0;
      let slot = slotOf(key);
      for (;;) {
        const id = ids[slot] ?? NO_MERGE;
        if (id === NO_MERGE || keys[slot] === key) return id;
        slot = (slot + 1) % SLOTS;
      }
    },
  };
}

/** The alphabet as the merges file writes it: hidden bytes stand as U+0100 and up. */
function byteNames(): Map<string, number> {
  const names = new Map<string, number>();
  for (const [id, byte] of BYTE_ORDER.entries()) {
    const code = id < FIRST_HIDDEN_BYTE ? byte : 256 + id - FIRST_HIDDEN_BYTE;
    names.set(String.fromCharCode(code), id);
    names.set(String.fromCharCode(code) + WORD_END, id + BYTE_IDS);
  }
  return names;
}
