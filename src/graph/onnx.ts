/**
 * Writes ONNX models. The numbers are the field numbers of onnx.proto3,
 * https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3; each message is named beside them.
 */
import {
  bytesField,
  type Encoded,
  floatField,
  integerField,
  joinBytes,
  messageField,
  textField,
} from "./protobuf.ts";

/** TensorProto.DataType. */
export const ONNX_TYPE = {
  float32: 1,
  int64: 7,
  float16: 10,
  float64: 11,
  bfloat16: 16,
  float8e4m3fn: 17,
  float8e5m2: 19,
} as const;
export type OnnxType = keyof typeof ONNX_TYPE;

export type OnnxAttribute =
  | Readonly<{ type: "int"; value: number }>
  | Readonly<{ type: "ints"; value: readonly number[] }>
  | Readonly<{ type: "float"; value: number }>
  | Readonly<{ type: "text"; value: string }>;

export const int = (value: number): OnnxAttribute => ({ type: "int", value });
export const ints = (value: readonly number[]): OnnxAttribute => ({ type: "ints", value });
export const float = (value: number): OnnxAttribute => ({ type: "float", value });
export const text = (value: string): OnnxAttribute => ({ type: "text", value });

export type OnnxNode = Readonly<{
  opType: string;
  /** "" is ONNX itself, "com.microsoft" ONNX Runtime's own operators. */
  domain: string;
  /** "" leaves an optional input out. */
  inputs: readonly string[];
  outputs: readonly string[];
  attributes: Readonly<Record<string, OnnxAttribute>>;
}>;

/** A constant: its bytes are inline, or a range of an external file. */
export type OnnxInitializer = Readonly<{
  name: string;
  type: OnnxType;
  shape: readonly number[];
  data:
    | Readonly<{ type: "inline"; bytes: Uint8Array }>
    | Readonly<{ type: "external"; file: string; offset: number; length: number }>;
}>;

/** Axes of an input or output: a named one is dynamic; "unknown" leaves even their number open. */
export type OnnxShape = readonly (number | string)[] | "unknown";

export type OnnxValue = Readonly<{ name: string; type: OnnxType; shape: OnnxShape }>;

export type OnnxGraph = Readonly<{
  name: string;
  nodes: readonly OnnxNode[];
  initializers: readonly OnnxInitializer[];
  inputs: readonly OnnxValue[];
  outputs: readonly OnnxValue[];
}>;

/** Opset 19 is the first whose Cast reads 8-bit floats; IR version 9 goes with it. */
const OPSET = 19;
const IR_VERSION = 9;

/** AttributeProto: name 1, f 2, i 3, s 4, ints 8, type 20 (FLOAT 1, INT 2, STRING 3, INTS 7). */
function encodeAttribute(name: string, attribute: OnnxAttribute): Encoded[] {
  const head = textField(1, name);
  switch (attribute.type) {
    case "float":
      return [head, floatField(2, attribute.value), integerField(20, 1)];
    case "int":
      return [head, integerField(3, attribute.value), integerField(20, 2)];
    case "text":
      return [head, textField(4, attribute.value), integerField(20, 3)];
    case "ints":
      return [head, ...attribute.value.map((value) => integerField(8, value)), integerField(20, 7)];
  }
}

/** NodeProto: input 1, output 2, name 3, op_type 4, attribute 5, domain 7. */
function encodeNode(node: OnnxNode, index: number): Encoded[] {
  return [
    ...node.inputs.map((name) => textField(1, name)),
    ...node.outputs.map((name) => textField(2, name)),
    textField(3, `${node.opType}_${index}`),
    textField(4, node.opType),
    ...Object.entries(node.attributes).map(([name, attribute]) =>
      messageField(5, encodeAttribute(name, attribute)),
    ),
    textField(7, node.domain),
  ];
}

/**
 * TensorProto: dims 1, data_type 2, name 8, raw_data 9, external_data 13, data_location 14
 * (EXTERNAL 1). StringStringEntryProto: key 1, value 2.
 */
function encodeInitializer({ name, type, shape, data }: OnnxInitializer): Encoded[] {
  const head = [
    ...shape.map((axis) => integerField(1, axis)),
    integerField(2, ONNX_TYPE[type]),
    textField(8, name),
  ];
  if (data.type === "inline") return [...head, bytesField(9, data.bytes)];
  const place = { location: data.file, offset: `${data.offset}`, length: `${data.length}` };
  const entries = Object.entries(place).map(([key, value]) =>
    messageField(13, [textField(1, key), textField(2, value)]),
  );
  return [...head, ...entries, integerField(14, 1)];
}

/**
 * ValueInfoProto: name 1, type 2. TypeProto: tensor_type 1. TypeProto.Tensor: elem_type 1, shape 2.
 * TensorShapeProto: dim 1. Dimension: dim_value 1, dim_param 2.
 */
function encodeValue({ name, type, shape }: OnnxValue): Encoded[] {
  const tensor = [integerField(1, ONNX_TYPE[type])];
  if (shape !== "unknown") {
    const axes = shape.map((axis) => [
      typeof axis === "number" ? integerField(1, axis) : textField(2, axis),
    ]);
    tensor.push(
      messageField(
        2,
        axes.map((axis) => messageField(1, axis)),
      ),
    );
  }
  return [textField(1, name), messageField(2, [messageField(1, tensor)])];
}

/**
 * ModelProto: ir_version 1, producer_name 2, graph 7, opset_import 8 (domain 1, version 2).
 * GraphProto: node 1, name 2, initializer 5, input 11, output 12.
 */
export function serializeModel(graph: OnnxGraph): Uint8Array {
  const fields = [
    ...graph.nodes.map((node, index) => messageField(1, encodeNode(node, index))),
    textField(2, graph.name),
    ...graph.initializers.map((initializer) => messageField(5, encodeInitializer(initializer))),
    ...graph.inputs.map((value) => messageField(11, encodeValue(value))),
    ...graph.outputs.map((value) => messageField(12, encodeValue(value))),
  ];
  return joinBytes([
    integerField(1, IR_VERSION),
    textField(2, "luna-daemon"),
    messageField(7, fields),
    messageField(8, [textField(1, ""), integerField(2, OPSET)]),
    messageField(8, [textField(1, "com.microsoft"), integerField(2, 1)]),
  ]);
}
