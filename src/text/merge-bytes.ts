/**
 * Byte-pair encoding of one word: the best merge (smallest id, then leftmost) is done until none is
 * left. A heap of candidates over a linked list keeps a hostile word of 100,000 letters cheap.
 */
import { BYTE_TO_ID, type MergeTable } from "./merge-table.ts";

/** Candidates are merge id * 2^32 + position: numbers that sort as they shall be taken. */
const POSITIONS = 2 ** 32;
const WORD_END_OFFSET = 256;

/** Token ids of the UTF-8 bytes of a word. */
export function mergeBytes(bytes: Uint8Array, table: MergeTable): number[] {
  const ids = Uint16Array.from(bytes, (byte) => BYTE_TO_ID[byte] ?? 0);
  const end = ids.length;
  ids[end - 1] = (ids[end - 1] ?? 0) + WORD_END_OFFSET;
  // next[i] is where the token after i begins; a token swallowed by its left neighbour is skipped.
  const next = Uint32Array.from(ids, (_, i) => i + 1);
  const previous = Int32Array.from(ids, (_, i) => i - 1);
  const heap: number[] = [];
  const idAt = (at: number) => ids[at] ?? 0;
  const mergeAt = (at: number) => {
    const right = next[at] ?? end;
    return right < end ? table.find(idAt(at), idAt(right)) : 0;
  };
  const offer = (at: number) => {
    const merged = at < 0 ? 0 : mergeAt(at);
    if (merged !== 0) push(heap, merged * POSITIONS + at);
  };
  for (let at = 0; at < end; at++) offer(at);
  for (let best = pop(heap); best !== undefined; best = pop(heap)) {
    const at = best % POSITIONS;
    const merged = Math.floor(best / POSITIONS);
    const right = next[at] ?? end;
    // The pair may have changed since it was offered, or its left token may be gone.
    if (right === GONE || mergeAt(at) !== merged) continue;
    const after = next[right] ?? end;
    ids[at] = merged;
    next[at] = after;
    next[right] = GONE;
    if (after < end) previous[after] = at;
    offer(at);
    offer(previous[at] ?? -1);
  }
  return [...ids].filter((_, at) => next[at] !== GONE);
}

const GONE = 2 ** 32 - 1;

/** Binary heap, smallest first. */
function push(heap: number[], value: number): void {
  let at = heap.push(value) - 1;
  while (at > 0) {
    const parent = (at - 1) >> 1;
    if ((heap[parent] ?? 0) <= value) break;
    heap[at] = heap[parent] ?? 0;
    at = parent;
  }
  heap[at] = value;
}

function pop(heap: number[]): number | undefined {
  const first = heap[0];
  const last = heap.pop();
  if (heap.length === 0 || last === undefined) return first;
  let at = 0;
  for (;;) {
    let child = 2 * at + 1;
    if (child >= heap.length) break;
    if ((heap[child + 1] ?? Number.POSITIVE_INFINITY) < (heap[child] ?? 0)) child++;
    if ((heap[child] ?? 0) >= last) break;
    heap[at] = heap[child] ?? 0;
    at = child;
  }
  heap[at] = last;
  return first;
}
