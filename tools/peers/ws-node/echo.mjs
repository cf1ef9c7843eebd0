// A WebSocket echo on Node with the `ws` package and its native masking, bufferutil.
//
// `ws` writes each answer by itself. With --cork the socket beneath it is corked from the first
// message of a read until the messages of that read are handled, so that their answers leave by one
// system call: nothing that the package offers, but Node does. A peer that does not read its
// answers is read no more until they are sent. Further shards are processes.
import cluster from "node:cluster";
import { once } from "node:events";
import { WebSocketServer } from "ws";
import { BACKLOG, FRAME_MAX, QUEUED_MAX, announce, endOnSignal, parse, sum } from "./options.mjs";

async function serve({ host, port, on }) {
  const corks = on.has("--cork");
  const counters = { accepted: 0, messages: 0, bytes: 0 };
  const server = new WebSocketServer({
    host,
    port,
    backlog: BACKLOG,
    perMessageDeflate: false,
    maxPayload: FRAME_MAX,
  });
  server.on("connection", (ws, { socket }) => {
    counters.accepted++;
    let corked = false;
    const uncork = () => {
      corked = false;
      socket.uncork();
      rest();
    };
    const rest = () => {
      if (ws.bufferedAmount > QUEUED_MAX) ws.pause();
    };
    ws.on("message", (message, isBinary) => {
      counters.messages++;
      counters.bytes += message.length;
      if (corks && !corked) {
        corked = true;
        socket.cork();
        process.nextTick(uncork);
      }
      ws.send(message, { binary: isBinary });
      if (!corks) rest();
    });
    socket.on("drain", () => ws.resume());
    ws.on("error", () => {}); // broken frames and resets cost the connection only
  });
  await once(server, "listening");
  return { server, counters };
}

/** Ends the server and its connections. */
function end(server) {
  for (const ws of server.clients) ws.terminate();
  server.close();
}

const options = parse("peer-ws-node", ["--cork"]);
if (options.shards === 1) {
  const { server, counters } = await serve(options);
  endOnSignal(options, () => {
    end(server);
    return counters;
  });
  announce(options, server.address().port);
} else if (cluster.isPrimary) {
  // The workers share the port that the first of them gets.
  const workers = Array.from({ length: options.shards }, () => cluster.fork());
  const ready = workers.map(async (worker) => (await once(worker, "message"))[0].port);
  const [port] = await Promise.all(ready);
  endOnSignal(options, async () => {
    const counts = workers.map(async (worker) => {
      worker.send("end");
      return (await once(worker, "message"))[0];
    });
    return sum(await Promise.all(counts));
  });
  announce(options, port);
} else {
  const { server, counters } = await serve(options);
  for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => {}); // the primary says when
  process.on("message", () => {
    end(server);
    process.send(counters, () => process.exit(0));
  });
  process.send({ port: server.address().port });
}
