import type { TextModel } from "../client/index.ts";
import { LunaError } from "../kernel/index.ts";
import { type EncodedPrompt, encodePrompt, type PromptTexts } from "../text/index.ts";
import type { NodeContext } from "./node-context.ts";
import type { Clip, Conditioning, ConditioningPart } from "./values.ts";

/** A prompt through a CLIP as it comes out of a loader, its LoRAs and clip skip included. */
export function encodeWith(
  clip: Clip,
  prompt: string | PromptTexts,
  context: NodeContext,
): Promise<EncodedPrompt> {
  return encodePrompt(prompt, {
    tokenizer: context.tokenizer,
    encoders: clip.text.info.textEncoders,
    encode: (inputs) => clip.text.encode(inputs, { signal: context.signal }),
    ...(clip.layer === undefined ? {} : { layer: clip.layer }),
    loadEmbedding: (name, encoder) => context.loadEmbedding(name, encoder),
    warn: (line) => context.log(line),
  });
}

/** The conditioning of one prompt, with facts such as the picture's size. */
export async function conditionWith(
  clip: Clip,
  prompt: string | PromptTexts,
  options: { context: NodeContext; part?: Partial<ConditioningPart> },
): Promise<Conditioning> {
  const { context, pooled } = await encodeWith(clip, prompt, options.context);
  return [{ context, pooled, ...options.part }];
}

/** SDXL's two text encoders from two files as one. */
export class JoinedTextModel implements TextModel {
  readonly info: TextModel["info"];
  readonly #parts: readonly TextModel[];

  constructor(parts: readonly TextModel[]) {
    const [first] = parts;
    if (first === undefined) throw new LunaError("INTERNAL", "No text encoders to join.");
    this.#parts = parts;
    // CLIP-L stands before OpenCLIP-G in the context, whatever file came first.
    const textEncoders = parts
      .flatMap(({ info }) => info.textEncoders)
      .sort((a, b) => Number(a.kind !== "clip-l") - Number(b.kind !== "clip-l"));
    this.info = { ...first.info, textEncoders };
  }

  get loras(): TextModel["loras"] {
    return this.#parts[0]?.loras ?? [];
  }

  encode(...[inputs, options]: Parameters<TextModel["encode"]>): ReturnType<TextModel["encode"]> {
    const part = this.#parts.find(({ info }) =>
      info.textEncoders.some(({ kind }) => kind === inputs.encoder),
    );
    if (part === undefined) {
      throw new LunaError("INTERNAL", `None of the joined text encoders is ${inputs.encoder}.`);
    }
    return part.encode(inputs, options);
  }

  withLora(...lora: Parameters<TextModel["withLora"]>): TextModel {
    return new JoinedTextModel(this.#parts.map((part) => part.withLora(...lora)));
  }
}
