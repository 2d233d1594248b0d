/** Characters of a workflow file. Exported API prompts are 2 to 100 KB; UI graphs inside a PNG up to some MB. */
export const WORKFLOW_LENGTH_MAX = 20_000_000;
/** Arrays and objects inside each other; API prompts have 5 levels, UI graphs about 10. */
export const JSON_DEPTH_MAX = 100;
/** Nodes of a prompt; large published workflows have some hundred. */
export const NODE_COUNT_MAX = 10_000;
/** Digits of an integer: 2^64 has 20, and reading is quadratic in their number. */
export const INTEGER_DIGITS_MAX = 400;
/** Runs that one node makes over lists of inputs. */
export const LIST_RUNS_MAX = 10_000;
/** Choices that an error message lists; ComfyUI gives the count beyond. */
export const LISTED_CHOICES_MAX = 20;
