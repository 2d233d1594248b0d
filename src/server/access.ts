/**
 * Who may connect. A browser page of any site can send requests to 127.0.0.1, and by DNS rebinding
 * under a name of its own: so an Origin must be our own, and the Host a name we go by.
 */
import { createHash, timingSafeEqual } from "node:crypto";
import { isIP } from "node:net";
import { LunaError, type TokenGrant } from "../kernel/index.ts";
import { OPEN_GRANT } from "./allowances.ts";

export type Knock = Readonly<{
  host: string | undefined;
  origin: string | undefined;
  authorization: string | undefined;
  /** Address of this side of the connection; undefined on a Unix socket. */
  localAddress: string | undefined;
}>;

const LOOPBACK_NAMES = ["localhost", "127.0.0.1", "[::1]"];

/** True for addresses that only this machine can reach. */
export function isLoopback(address: string): boolean {
  return address === "localhost" || address === "::1" || /^127\.\d+\.\d+\.\d+$/.test(address);
}

/** The token's line, if there is one. Compares with each in constant time, whatever the lengths. */
export function findGrant(
  given: string | undefined,
  tokens: readonly TokenGrant[],
): TokenGrant | undefined {
  if (given === undefined) return undefined;
  const digest = (text: string) => createHash("sha256").update(text).digest();
  const wanted = digest(given);
  return tokens.reduce<TokenGrant | undefined>(
    (found, grant) => (timingSafeEqual(wanted, digest(grant.token)) ? grant : found),
    undefined,
  );
}

function hostName(authority: string): string {
  return authority.replace(/:\d*$/, "").toLowerCase();
}

/** The address as a Host header writes it: brackets around IPv6, no IPv4-in-IPv6. */
function asHost(address: string): string {
  const plain = address.replace(/^::ffff:/, "");
  return isIP(plain) === 6 ? `[${plain}]` : plain;
}

function isConfigured(host: string, allowedHosts: readonly string[]): boolean {
  return allowedHosts.some((name) => name.toLowerCase() === hostName(host));
}

/** Throws ORIGIN_REFUSED for a browser page of another site or a host name that is not ours. */
export function checkOrigin(
  { host, origin, localAddress }: Knock,
  allowedHosts: readonly string[],
): void {
  const names = [...LOOPBACK_NAMES, ...allowedHosts.map((name) => name.toLowerCase())];
  if (localAddress !== undefined) names.push(asHost(localAddress));
  if (host === undefined || !names.includes(hostName(host))) {
    throw new LunaError(
      "ORIGIN_REFUSED",
      `The host name ${JSON.stringify(host ?? "").slice(0, 80)} is not one of this daemon's; ` +
        "add it to the allowed hosts if it is meant.",
    );
  }
  if (origin === undefined || origin === `http://${host}`) return;
  // A proxy that ends TLS goes by a configured name; on loopback there is none.
  if (origin === `https://${host}` && isConfigured(host, allowedHosts)) return;
  throw new LunaError(
    "ORIGIN_REFUSED",
    `Pages of ${JSON.stringify(origin).slice(0, 80)} may not use this daemon.`,
  );
}

/** What the shown token allows; undefined when none is shown. Throws UNAUTHORIZED for a wrong one. */
export function checkToken(
  { authorization }: Knock,
  tokens: readonly TokenGrant[],
): TokenGrant | undefined {
  if (tokens.length === 0) return OPEN_GRANT;
  if (authorization === undefined) return undefined;
  const grant = findGrant(/^Bearer (.+)$/i.exec(authorization)?.[1], tokens);
  if (grant !== undefined) return grant;
  throw new LunaError("UNAUTHORIZED", "The token is not one of this daemon's.");
}
