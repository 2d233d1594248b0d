/** CLIP's tokenizer over the vocabulary that comes with this package. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { ASSETS } from "./model-paths.ts";
import { type ClipTokenizer, createClipTokenizer } from "./text/index.ts";

/** The file is read for the first prompt. */
export function packagedTokenizer(): ClipTokenizer {
  return createClipTokenizer(() =>
    gunzipSync(readFileSync(join(ASSETS, "clip", "merges.txt.gz"))).toString("utf8"),
  );
}
