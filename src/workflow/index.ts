export { describeInput, type InputConfig } from "./input-config.ts";
export {
  isJsonObject,
  type Json,
  type JsonObject,
  parseJson,
  toPythonJson,
} from "./json.ts";
export { type Prompt, type PromptNode, parsePrompt, promptToJson, setInput } from "./prompt.ts";
export type { InputError } from "./validate-inputs.ts";
export {
  type Definitions,
  type NodeErrors,
  type ValidateOptions,
  type Validation,
  validatePrompt,
} from "./validate-prompt.ts";
export {
  createWorkflowRunner,
  invalidWorkflow,
  type RunnerOptions,
  type RunOptions,
  type RunResult,
  type WorkflowEvent,
  type WorkflowRunner,
} from "./workflow-runner.ts";
