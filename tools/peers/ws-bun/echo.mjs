// A WebSocket echo on Bun's built-in server, which has uWebSockets inside.
//
// It corks the socket while the messages of a read are handled, so their answers go out together.
// It has no way to stop reading for one connection, so one that does not read its answers is
// closed. Further shards are workers with a listener of their own on the same port.
import { Worker, isMainThread, parentPort, workerData } from "node:worker_threads";
import { FRAME_MAX, QUEUED_MAX, announce, endOnSignal, parse, sum } from "./options.mjs";

function serve(options, port) {
  const counters = { accepted: 0, messages: 0, bytes: 0 };
  const server = Bun.serve({
    hostname: options.host,
    port,
    reusePort: options.shards > 1,
    fetch(request, server) {
      if (server.upgrade(request)) return undefined;
      return new Response("a WebSocket echo\n", { status: 426, headers: { Upgrade: "websocket" } });
    },
    websocket: {
      perMessageDeflate: false,
      maxPayloadLength: FRAME_MAX,
      idleTimeout: 0,
      sendPings: false,
      // Its own closeOnBackpressureLimit only shuts the reading side down, and what comes is then
      // still read until nothing is there: from one that sends fast enough, for ever.
      backpressureLimit: QUEUED_MAX,
      open() {
        counters.accepted++;
      },
      message(ws, message) {
        counters.messages++;
        counters.bytes += message.length;
        // The bytes that were sent, so 0 for what was dropped, and for an empty message.
        if (ws.send(message) === 0 && message.length > 0) ws.terminate();
      },
    },
  });
  return { server, counters };
}

if (isMainThread) {
  const options = parse("peer-ws-bun");
  const { server, counters } = serve(options, options.port);
  const workers = await Promise.all(
    Array.from({ length: options.shards - 1 }, () => {
      const workerOptions = { workerData: { ...options, port: server.port } };
      const worker = new Worker(new URL(import.meta.url), workerOptions);
      return new Promise((ready) => worker.once("message", () => ready(worker)));
    }),
  );
  endOnSignal(options, async () => {
    server.stop(true);
    const others = workers.map((worker) => {
      worker.postMessage("end");
      return new Promise((done) => worker.once("message", done));
    });
    return sum([counters, ...(await Promise.all(others))]);
  });
  announce(options, server.port);
} else {
  const { server, counters } = serve(workerData, workerData.port);
  parentPort.on("message", () => {
    server.stop(true);
    parentPort.postMessage(counters);
  });
  parentPort.postMessage("listening");
}
