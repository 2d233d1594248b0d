/**
 * Which browser pages may use an instance. Any site's page can send requests to 127.0.0.1, and by
 * DNS rebinding under a host name of its own; programs send no Origin and are let in.
 */
const LOOPBACK = ["localhost", "127.0.0.1", "[::1]"];

export type Knock = Readonly<{
  host: string | undefined;
  origin: string | undefined;
  /** The browser's own word on where a request comes from. */
  fetchSite: string | undefined;
}>;

/** False: answer 403. ComfyUI refuses the same requests, and host names that are not ours besides. */
export function mayEnter({ host, origin, fetchSite }: Knock, allowed: readonly string[]): boolean {
  if (fetchSite === "cross-site") return false;
  if (host === undefined) return false;
  const name = host.replace(/:\d*$/, "").toLowerCase();
  if (![...LOOPBACK, ...allowed.map((other) => other.toLowerCase())].includes(name)) return false;
  if (origin === undefined) return true;
  return URL.canParse(origin) && new URL(origin).host === host.toLowerCase();
}
