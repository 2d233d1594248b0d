export { BatchCaps, type CapStatus } from "./batch-caps.ts";
export {
  type BatchFacts,
  BatchQueue,
  type BatchQueueOptions,
  type Outcome,
  type Part,
} from "./batch-queue.ts";
export { type Job, PRIORITIES, type Priority, type Range } from "./job.ts";
