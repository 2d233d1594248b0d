/** One weight that an adapter may change: an input pair of the graph stands beside it. */
export type AdapterTarget = Readonly<{
  /** Canonical layer name without ".weight": "input_blocks.1.1.transformer_blocks.0.attn1.to_q". */
  name: string;
  /** A norm has no matrix: only its 1-D weights change. Its channels are `outputs`. */
  kind: "linear" | "conv" | "layer-norm" | "group-norm";
  inputs: number;
  outputs: number;
  /** [1, 1] for linear layers and 1x1 convolutions. */
  kernel: readonly [number, number];
}>;

/**
 * How the operators of a graph are written for one execution provider. Model code is one; only
 * these choices differ. `fused` = com.microsoft.MultiHeadAttention, `plain` = MatMul, Softmax, MatMul.
 */
export type OpChoices = Readonly<{
  attention: "fused" | "plain";
  /** Element type the graph computes in; stored weights of another type are cast once. */
  compute: "float32" | "float16";
  /** Smallest legal LoRA rank: 0, or 1 where empty inputs are not (WebGPU). */
  rankMin: 0 | 1;
}>;

/** A finished ONNX graph whose weights are external data of one file. */
export type BuiltGraph = Readonly<{
  /** Serialized ModelProto; external data location is `externalFile`. */
  model: Uint8Array;
  externalFile: string;
  adapterTargets: readonly AdapterTarget[];
  /** Norms with affine weights, which adapters may shift in a full graph. */
  normTargets: readonly AdapterTarget[];
}>;

export type GraphOptions = Readonly<{
  choices: OpChoices;
  /** Location of the weights, relative to the model's folder. */
  externalFile: string;
  /**
   * Every feature has its inputs, neutral where a batch row does not use it (adapters.ts, unet.ts).
   * False by default: those inputs cost time on each run, and few requests need them.
   */
  isFull?: boolean;
}>;
