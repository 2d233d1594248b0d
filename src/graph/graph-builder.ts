/**
 * Collects the nodes, inputs and weights of one ONNX graph. Weights are external data: ranges of
 * the checkpoint file, never copied into the graph. A value is named by a string; an operator
 * takes values and gives the name of its result, so that model code reads like a forward pass.
 */
import assert from "node:assert";
import type { WeightRef, WeightTable } from "../checkpoint/index.ts";
import { LunaError } from "../kernel/index.ts";
import { type DType, elementCount, encodeHalf } from "../tensor/index.ts";
import {
  int,
  ONNX_TYPE,
  type OnnxAttribute,
  type OnnxInitializer,
  type OnnxNode,
  type OnnxShape,
  type OnnxType,
  type OnnxValue,
  serializeModel,
} from "./onnx.ts";
import type { AdapterTarget, BuiltGraph, OpChoices } from "./types.ts";

/** Name of a tensor inside the graph. */
export type Value = string;

export type BuilderOptions = Readonly<{
  /** Name of the graph, for logs and profiles. */
  name: string;
  weights: WeightTable;
  choices: OpChoices;
  /** Location of the weights: a file name relative to the model's folder. */
  externalFile: string;
  /** Linear and convolution layers get LoRA inputs. */
  hasAdapters: boolean;
  /** Adapters may also scale rows and columns and shift 1-D weights; see adapters.ts. */
  isFull?: boolean;
}>;

const STORED_TYPE: Partial<Record<DType, OnnxType>> = {
  F64: "float64",
  F32: "float32",
  F16: "float16",
  BF16: "bfloat16",
  F8_E4M3: "float8e4m3fn",
  F8_E5M2: "float8e5m2",
};

function storedType(name: string, ref: WeightRef): OnnxType {
  const type = STORED_TYPE[ref.dtype];
  if (type !== undefined) return type;
  throw new LunaError(
    "CHECKPOINT_UNSUPPORTED",
    `Weight "${name}" is stored as ${ref.dtype}; a floating-point type is needed.`,
  );
}

export class GraphBuilder {
  readonly choices: OpChoices;
  readonly hasAdapters: boolean;
  readonly isFull: boolean;
  readonly #options: BuilderOptions;
  readonly #nodes: OnnxNode[] = [];
  readonly #initializers = new Map<string, OnnxInitializer>();
  readonly #inputs: OnnxValue[] = [];
  readonly #outputs: OnnxValue[] = [];
  readonly #targets: AdapterTarget[] = [];
  readonly #norms: AdapterTarget[] = [];
  /** Weight name to the value that holds it in the compute type. */
  readonly #weights = new Map<string, { value: Value; shape: readonly number[] }>();
  #valueCount = 0;

  constructor(options: BuilderOptions) {
    this.choices = options.choices;
    this.hasAdapters = options.hasAdapters;
    this.isFull = options.isFull === true && options.hasAdapters;
    this.#options = options;
  }

  /** An operator with one result. */
  node(
    opType: string,
    inputs: readonly Value[],
    options: { domain?: string; attributes?: Readonly<Record<string, OnnxAttribute>> } = {},
  ): Value {
    const [output] = this.nodes(opType, inputs, { ...options, outputCount: 1 });
    assert(output !== undefined);
    return output;
  }

  /** An operator with `outputCount` results. */
  nodes(
    opType: string,
    inputs: readonly Value[],
    options: {
      domain?: string;
      attributes?: Readonly<Record<string, OnnxAttribute>>;
      outputCount: number;
    },
  ): Value[] {
    const { domain = "", attributes = {}, outputCount } = options;
    const outputs = Array.from({ length: outputCount }, () => `v${this.#valueCount++}`);
    this.#nodes.push({ opType, domain, inputs, outputs, attributes });
    return outputs;
  }

  hasInput(name: string): boolean {
    return this.#inputs.some((input) => input.name === name);
  }

  /** A graph input, of the compute type unless said otherwise; named axes are dynamic. */
  input(name: string, shape: OnnxShape, type: OnnxType = this.choices.compute): Value {
    this.#inputs.push({ name, type, shape });
    return name;
  }

  /** Gives a value a public name as a graph output, in the compute type unless said otherwise. */
  output(name: string, value: Value, options: { shape: OnnxShape; type?: OnnxType }): void {
    this.#nodes.push({
      opType: "Identity",
      domain: "",
      inputs: [value],
      outputs: [name],
      attributes: {},
    });
    this.#outputs.push({
      name,
      type: options.type ?? this.choices.compute,
      shape: options.shape,
    });
  }

  /** A small int64 constant, by default with one axis: a shape, axes, sizes. */
  integers(values: readonly number[], shape: readonly number[] = [values.length]): Value {
    const bytes = new Uint8Array(BigInt64Array.from(values.map(BigInt)).buffer);
    return this.#constant({ type: "int64", shape, bytes, values });
  }

  /** A small constant of the compute type. */
  floats(values: readonly number[], shape: readonly number[] = [values.length]): Value {
    const type = this.choices.compute;
    const data =
      type === "float32"
        ? Float32Array.from(values)
        : Uint16Array.from(values, (value) => encodeHalf(value));
    return this.#constant({ type, shape, bytes: new Uint8Array(data.buffer), values });
  }

  #constant(constant: {
    type: OnnxType;
    shape: readonly number[];
    bytes: Uint8Array;
    values: readonly number[];
  }): Value {
    const { type, shape, bytes, values } = constant;
    const name = `const.${type}[${shape.join(",")}].${values.join(",")}`;
    this.#initializers.set(name, { name, type, shape, data: { type: "inline", bytes } });
    return name;
  }

  hasWeight(name: string): boolean {
    return this.#options.weights.has(name);
  }

  /** Where a weight is stored. Throws CHECKPOINT_UNSUPPORTED when the checkpoint lacks it. */
  weightRef(name: string): WeightRef {
    const ref = this.#options.weights.get(name);
    if (ref !== undefined) return ref;
    throw new LunaError("CHECKPOINT_UNSUPPORTED", `The checkpoint has no weight "${name}".`);
  }

  /**
   * A weight in the compute type, read as `shape` (the same elements in the same order; the
   * canonical shape by default). A transposed one comes out in its canonical orientation.
   */
  weight(name: string, shape: readonly number[] = this.weightRef(name).shape): Value {
    const ref = this.weightRef(name);
    if (!ref.isTransposed) return this.storedWeight(name, shape);
    const stored = this.storedWeight(name, shape.toReversed());
    return this.node("Transpose", [stored]);
  }

  /** The bytes of a weight as they lie in the file, read as `shape`, in the compute type. */
  storedWeight(name: string, shape: readonly number[]): Value {
    const known = this.#weights.get(name);
    if (known !== undefined) {
      assert.deepEqual(known.shape, shape, `weight ${name} is used with two shapes`);
      return known.value;
    }
    const type = this.#addWeight(name, shape);
    const compute = this.choices.compute;
    const value = type === compute ? name : this.cast(name, compute);
    this.#weights.set(name, { value, shape });
    return value;
  }

  /**
   * Rows of a table of vectors. Only the rows are cast to the compute type: a cast table would be
   * a private copy of it, 253 MB for OpenCLIP-G's tokens.
   */
  rows(name: string, indices: Value): Value {
    const type = this.#addWeight(name, this.weightRef(name).shape);
    // Gather takes no 8-bit floats.
    const isCastFirst = type === "float8e4m3fn" || type === "float8e5m2";
    const compute = this.choices.compute;
    if (isCastFirst) return this.node("Gather", [this.cast(name, compute), indices]);
    const picked = this.node("Gather", [name, indices]);
    return type === compute ? picked : this.cast(picked, compute);
  }

  #addWeight(name: string, shape: readonly number[]): OnnxType {
    const ref = this.weightRef(name);
    assert.equal(elementCount(shape), elementCount(ref.shape), `weight ${name} is misread`);
    const type = storedType(name, ref);
    this.#initializers.set(name, {
      name,
      type,
      shape,
      data: {
        type: "external",
        file: ref.file ?? this.#options.externalFile,
        offset: ref.begin,
        length: ref.end - ref.begin,
      },
    });
    return type;
  }

  cast(value: Value, type: OnnxType): Value {
    return this.node("Cast", [value], { attributes: { to: int(ONNX_TYPE[type]) } });
  }

  addAdapterTarget(target: AdapterTarget): void {
    this.#targets.push(target);
  }

  /** A norm may stand at several places of the graph; it is one target. */
  addNormTarget(target: AdapterTarget): void {
    if (this.#norms.every(({ name }) => name !== target.name)) this.#norms.push(target);
  }

  build(): BuiltGraph {
    const { name, externalFile } = this.#options;
    const model = serializeModel({
      name,
      nodes: this.#nodes,
      initializers: [...this.#initializers.values()],
      inputs: this.#inputs,
      outputs: this.#outputs,
    });
    return { model, externalFile, adapterTargets: this.#targets, normTargets: this.#norms };
  }
}
