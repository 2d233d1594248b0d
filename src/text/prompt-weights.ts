/**
 * ComfyUI's prompt weights: `(text)` is 1.1 times the weight around it, `(text:1.3)` is exactly
 * 1.3, `\(` and `\)` are plain parentheses. Square brackets mean nothing. Unclosed and surplus
 * parentheses stay text, in the way that ComfyUI happens to read them.
 */
import { LunaError } from "../kernel/index.ts";
import { WEIGHT_NESTING_MAX } from "./limits.ts";

export type WeightedText = Readonly<{ text: string; weight: number }>;

const NESTED_FACTOR = 1.1;
/** Stand-ins for escaped parentheses while the others are matched; no prompt contains NUL pairs. */
const ESCAPED_CLOSE = "\u0000\u0001";
const ESCAPED_OPEN = "\u0000\u0002";
const PYTHON_FLOAT = /^[+-]?(?:\d+(?:_\d+)*\.?(?:\d+(?:_\d+)*)?|\.\d+(?:_\d+)*)(?:e[+-]?\d+)?$/i;

/** Splits a prompt into parts of one weight, in order. */
export function parsePromptWeights(prompt: string): WeightedText[] {
  const escaped = prompt.replaceAll("\\)", ESCAPED_CLOSE).replaceAll("\\(", ESCAPED_OPEN);
  return weigh(escaped, 1, 0).map(({ text, weight }) => ({
    text: text.replaceAll(ESCAPED_CLOSE, ")").replaceAll(ESCAPED_OPEN, "("),
    weight,
  }));
}

function weigh(text: string, weight: number, depth: number): WeightedText[] {
  if (depth > WEIGHT_NESTING_MAX) {
    throw new LunaError(
      "LIMIT_EXCEEDED",
      `A prompt nests more than ${WEIGHT_NESTING_MAX} parentheses. Write (text:weight) instead.`,
    );
  }
  return splitGroups(text).flatMap((part) => {
    if (part.length < 2 || !part.startsWith("(") || !part.endsWith(")")) {
      return [{ text: part, weight }];
    }
    const inner = part.slice(1, -1);
    const colon = inner.lastIndexOf(":");
    const explicit = colon > 0 ? parsePythonFloat(inner.slice(colon + 1)) : undefined;
    return explicit === undefined
      ? weigh(inner, weight * NESTED_FACTOR, depth + 1)
      : weigh(inner.slice(0, colon), explicit, depth + 1);
  });
}

/** Cuts at outermost parentheses, which stay on their part. A surplus `)` makes the level negative. */
function splitGroups(text: string): string[] {
  const parts: string[] = [];
  let level = 0;
  let begin = 0;
  const cut = (end: number) => {
    if (end > begin) parts.push(text.slice(begin, end));
    begin = end;
  };
  for (let at = 0; at < text.length; at++) {
    if (text[at] === "(") {
      if (level === 0) cut(at);
      level++;
    } else if (text[at] === ")") {
      level--;
      if (level === 0) cut(at + 1);
    }
  }
  cut(text.length);
  return parts;
}

function parsePythonFloat(text: string): number | undefined {
  const trimmed = text.trim();
  return PYTHON_FLOAT.test(trimmed) ? Number(trimmed.replaceAll("_", "")) : undefined;
}
