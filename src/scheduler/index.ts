export {
  type BatchFacts,
  BatchQueue,
  type BatchQueueOptions,
  type Execute,
  type Outcome,
  type QueueJob,
} from "./batch-queue.ts";
export { type Job, planBatch } from "./plan-batch.ts";
