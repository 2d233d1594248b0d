/** One finding: what was looked at, how it is, and what to do about it. */
export type Finding = Readonly<{
  check: string;
  state: "ok" | "advice" | "problem";
  fact: string;
  todo?: string;
}>;
