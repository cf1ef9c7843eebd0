// What the peers in JavaScript share: the command line and how they start and end.

import { isIP } from "node:net";

export const FRAME_MAX = 2 * 1024 * 1024; // bytes of a message; a longer one closes its connection
export const QUEUED_MAX = 1024 * 1024; // unsent bytes of a connection from which on it is slow
export const BACKLOG = 4096; // connections waiting for accept

const SHARDS_MAX = 64;
const USAGE = 2; // exit code: the command line is wrong

/** Reads the flags, and those in `switches`, which have no value. A wrong command line ends the
 * process. */
export function parse(name, switches = []) {
  const args = process.argv.slice(2);
  const options = { name, host: undefined, port: undefined, shards: 1, on: new Set() };
  const wrong = (message) => {
    const more = switches.map((flag) => ` [${flag}]`).join("");
    process.stderr.write(`${name}: ${message}\nusage: ${name} --listen ADDR [--shards N]${more}\n`);
    process.exit(USAGE);
  };
  for (let i = 0; i < args.length; i++) {
    if (switches.includes(args[i])) {
      options.on.add(args[i]);
      continue;
    }
    const [, flag, given] = /^([^=]*)(?:=(.*))?$/s.exec(args[i]);
    if (flag !== "--listen" && flag !== "--shards") wrong(`unknown flag ${args[i]}`);
    const value = given ?? args[++i] ?? "";
    if (flag === "--listen") {
      const [, v6, v4, port] = /^(?:\[(.*)\]|([^:]*)):(\d{1,5})$/.exec(value) ?? [];
      const host = v6 ?? v4;
      if (!isIP(host ?? "") || port > 65535) wrong(`--listen does not take "${value}"`);
      Object.assign(options, { host, port: Number(port) });
    } else {
      const shards = /^\d{1,3}$/.test(value) ? Number(value) : 0;
      if (shards < 1 || shards > SHARDS_MAX) wrong(`--shards does not take "${value}"`);
      options.shards = shards;
    }
  }
  if (options.host === undefined) wrong("--listen is missing");
  return options;
}

/** Says that the server is ready. */
export function announce({ host }, port) {
  process.stdout.write(`listening on ${isIP(host) === 6 ? `[${host}]` : host}:${port}\n`);
}

/** Calls `end` on the first signal that asks for the end; it returns the counters to print. */
export function endOnSignal({ name }, end) {
  let asked = false;
  const once = async () => {
    if (asked) return;
    asked = true;
    const counters = Object.entries(await end()).map(([key, count]) => `${key}=${count}`);
    process.stderr.write(`${name}: ${counters.join(" ")}\n`, () => process.exit(0));
  };
  process.on("SIGTERM", once);
  process.on("SIGINT", once);
}

/** Adds counters up. */
export function sum(all) {
  const total = {};
  for (const counters of all)
    for (const [key, count] of Object.entries(counters)) total[key] = (total[key] ?? 0) + count;
  return total;
}
