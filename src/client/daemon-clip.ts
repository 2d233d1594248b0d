import { fromFloat, type Tensor } from "../tensor/index.ts";
import { takeTensor } from "./daemon-model.ts";
import { LoraStack } from "./lora-stack.ts";
import { type LunaLink, loraSpecs } from "./luna-link.ts";
import type {
  CallOptions,
  LoraRef,
  ModelInfo,
  TextInputs,
  TextModel,
  TextOutputs,
} from "./types.ts";

/** The text encoders of a served checkpoint (the seed's DaemonCLIP). */
export class DaemonClip implements TextModel {
  readonly info: ModelInfo;
  readonly #link: LunaLink;
  readonly #stack: LoraStack;

  constructor(link: LunaLink, info: ModelInfo, loras: readonly LoraRef[] = []) {
    this.#link = link;
    this.info = info;
    this.#stack = new LoraStack(loras);
  }

  get loras(): readonly LoraRef[] {
    return this.#stack.loras;
  }

  async encode(inputs: TextInputs, options?: CallOptions): Promise<TextOutputs> {
    const { encoder, layer, isLayerNormed } = inputs;
    const loras = loraSpecs(this.loras, "strengthClip");
    const { tensors } = await this.#link.run(
      { op: "clip_encode", model: this.info.id, encoder, layer, isLayerNormed, loras },
      { own: textTensors(inputs) },
      options,
    );
    const hidden = takeTensor(tensors, "hidden");
    const pooled = takeTensor(tensors, "pooled");
    if (!tensors.has("projected")) return { hidden, pooled };
    return { hidden, pooled, projected: takeTensor(tensors, "projected") };
  }

  /** The seed's `add_lora_by_name`: changes this proxy's stack and nothing else. */
  addLoraByName(name: string, strengthModel: number, strengthClip: number): void {
    this.#stack.add({ name, strengthModel, strengthClip });
    const size = this.loras.length;
    this.#link.say(
      `[DaemonCLIP] Added LoRA '${name}' (clip_str=${strengthClip}), stack size: ${size}`,
    );
  }

  clearLoras(): void {
    this.#stack.clear();
  }

  withLora(lora: LoraRef): DaemonClip {
    return new DaemonClip(this.#link, this.info, [...this.loras, lora]);
  }

  clone(): DaemonClip {
    return new DaemonClip(this.#link, this.info, this.loras);
  }
}

/** tokens I64 [rows, 77]; embeddings F32 [m, width] at embedding_positions I64 [m, 2]. */
function textTensors({ tokens, embeddings = [] }: TextInputs): Map<string, Tensor> {
  const columns = tokens[0]?.length ?? 0;
  const tensors = new Map([["tokens", integers([tokens.length, columns], tokens.flat())]]);
  if (embeddings.length === 0) return tensors;
  const width = embeddings[0]?.vector.length ?? 0;
  const data = new Float32Array(embeddings.length * width);
  for (const [index, { vector }] of embeddings.entries()) data.set(vector, index * width);
  tensors.set("embeddings", fromFloat({ shape: [embeddings.length, width], data }));
  const positions = embeddings.flatMap(({ row, column }) => [row, column]);
  return tensors.set("embedding_positions", integers([embeddings.length, 2], positions));
}

function integers(shape: readonly number[], values: readonly number[]): Tensor {
  const data = BigInt64Array.from(values, BigInt);
  return { dtype: "I64", shape, bytes: new Uint8Array(data.buffer) };
}
