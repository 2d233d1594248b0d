/** A loaded net as the byte budget sees it. `usedAt` grows with each use. */
export type Resident = Readonly<{
  key: string;
  bytes: number;
  /** Runs that hold it now. */
  users: number;
  isPinned: boolean;
  usedAt: number;
}>;

/**
 * Which nets to unload, least recently used first, so that `bytes` more fit into `bytesMax`;
 * undefined when that cannot be reached. Nets that are pinned or in use always stay.
 */
export function planEviction(
  residents: readonly Resident[],
  bytes: number,
  bytesMax: number,
): readonly string[] | undefined {
  let excess = residents.reduce((sum, resident) => sum + resident.bytes, bytes) - bytesMax;
  const keys: string[] = [];
  const idle = residents.filter(({ users, isPinned }) => users === 0 && !isPinned);
  for (const resident of idle.sort((a, b) => a.usedAt - b.usedAt)) {
    if (excess <= 0) break;
    keys.push(resident.key);
    excess -= resident.bytes;
  }
  return excess <= 0 ? keys : undefined;
}
