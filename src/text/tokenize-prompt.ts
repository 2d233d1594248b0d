/**
 * From a prompt to rows of 77 tokens, as ComfyUI's SDTokenizer makes them: words of fewer than 8
 * tokens are never cut by the end of a row, longer ones are; an embedding counts as one word.
 */
import { LunaError } from "../kernel/index.ts";
import type { FloatTensor } from "../tensor/index.ts";
import { type ClipTokenizer, END_TOKEN, START_TOKEN } from "./clip-tokenizer.ts";
import { TOKEN_ROWS_MAX } from "./limits.ts";
import { parsePromptWeights } from "./prompt-weights.ts";

/** Which text encoder: structurally the TextEncoderKind of a checkpoint. */
export type EncoderKind = "clip-l" | "clip-h" | "clip-g";

export const ROW_LENGTH = 77;
/** Words of at least this many tokens may straddle two rows. */
const LARGE_WORD_TOKENS = 8;

/** A token id, or the vector of a textual inversion that stands in its place. */
export type PromptToken = Readonly<{ token: number | Float32Array; weight: number }>;
/** Always 77 long: start, up to 75 tokens, end, padding. */
export type TokenRow = readonly PromptToken[];

/** Vectors [n, width] of a textual inversion for an encoder, or undefined when there is none. */
export type LoadEmbedding = (
  name: string,
  encoder: EncoderKind,
) => Promise<FloatTensor | undefined>;

export type TokenizeOptions = Readonly<{
  tokenizer: ClipTokenizer;
  encoder: EncoderKind;
  loadEmbedding?: LoadEmbedding;
  /** Hears of embeddings that do not exist; they are left out. */
  warn?: (line: string) => void;
}>;

/** CLIP-L was trained with the end token as padding, OpenCLIP with 0. */
export function padToken(encoder: EncoderKind): number {
  return encoder === "clip-l" ? END_TOKEN : 0;
}

/** Rows of a prompt; one row for an empty prompt. Throws LIMIT_EXCEEDED for absurd lengths. */
export async function tokenizePrompt(
  prompt: string,
  options: TokenizeOptions,
): Promise<TokenRow[]> {
  const words: PromptToken[][] = [];
  for (const { text, weight } of parsePromptWeights(prompt)) {
    for (const word of splitAtEmbeddings(text)) {
      for (const tokens of await wordTokens(word, options)) {
        words.push(tokens.map((token) => ({ token, weight })));
      }
    }
  }
  return fillRows(words, padToken(options.encoder));
}

const EMBEDDING = "embedding:";

/** "a embedding:b c" is "a" and "embedding:b c": an embedding begins a part. */
function splitAtEmbeddings(text: string): string[] {
  return text
    .split(/[ \n]embedding:/)
    .map((part, index) => (index === 0 ? part : EMBEDDING + part))
    .filter((part) => part !== "");
}

type WordTokens = (number | Float32Array)[];

async function wordTokens(word: string, options: TokenizeOptions): Promise<WordTokens[]> {
  const { tokenizer } = options;
  if (!word.startsWith(EMBEDDING)) return [tokenizer.tokenize(word)];
  const [name = "", ...others] = word.slice(EMBEDDING.length).trim().split(/\s+/);
  const found = await findEmbedding(name, options);
  if (found.vectors === undefined) options.warn?.(`Warning: embedding '${name}' not found`);
  // ComfyUI puts what follows the name, and the commas it stripped, through the tokenizer.
  const rest = [...(found.suffix === "" ? [] : [found.suffix]), ...others].join(" ");
  const tokens: WordTokens[] = found.vectors === undefined ? [] : [found.vectors];
  return rest === "" ? tokens : [...tokens, tokenizer.tokenize(rest)];
}

async function findEmbedding(
  name: string,
  { encoder, loadEmbedding }: TokenizeOptions,
): Promise<{ vectors?: Float32Array[]; suffix: string }> {
  const exact = name === "" ? undefined : await loadEmbedding?.(name, encoder);
  if (exact !== undefined) return { vectors: rowsOf(exact), suffix: "" };
  const stripped = name.replace(/^,+|,+$/g, "");
  if (stripped === name) return { suffix: "" };
  const found = stripped === "" ? undefined : await loadEmbedding?.(stripped, encoder);
  const suffix = name.slice(stripped.length);
  return found === undefined ? { suffix } : { vectors: rowsOf(found), suffix };
}

function rowsOf({ shape, data }: FloatTensor): Float32Array[] {
  const width = shape.at(-1) ?? 0;
  const count = width === 0 ? 0 : data.length / width;
  return Array.from({ length: count }, (_, i) => data.subarray(i * width, (i + 1) * width));
}

function fillRows(words: readonly PromptToken[][], pad: number): TokenRow[] {
  const start: PromptToken = { token: START_TOKEN, weight: 1 };
  const end: PromptToken = { token: END_TOKEN, weight: 1 };
  const padding: PromptToken = { token: pad, weight: 1 };
  const rows: PromptToken[][] = [];
  let row = [start];
  const finishRow = () => {
    row.push(end);
    while (row.length < ROW_LENGTH) row.push(padding);
    rows.push(row);
    if (rows.length > TOKEN_ROWS_MAX) {
      throw new LunaError(
        "LIMIT_EXCEEDED",
        `A prompt makes more than ${TOKEN_ROWS_MAX} rows of 75 tokens. Shorten it.`,
      );
    }
    row = [start];
  };
  for (const word of words) {
    const isLarge = word.length >= LARGE_WORD_TOKENS;
    let rest = word;
    while (row.length + rest.length > ROW_LENGTH - 1) {
      const space = ROW_LENGTH - 1 - row.length;
      if (isLarge) {
        row.push(...rest.slice(0, space));
        rest = rest.slice(space);
      }
      finishRow();
    }
    row.push(...rest);
  }
  finishRow();
  return rows;
}
