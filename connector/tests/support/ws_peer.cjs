// The npm package `ws` as the other side; see web_socket_interop.rs, and ws_peer.py, which does
// the same.
//
//   client URL [AUTHORITY.pem]   plays on a Play server, ends well if all was as it has to be
//   raw URL                      talks to an echo of messages
//   server                       serves /ws (packets) and /echo; says `port N`, ends with its input
'use strict';

const assert = require('node:assert');
const fs = require('node:fs');
const { WebSocket, WebSocketServer } = require('ws');

const LIMIT = 2 << 20;
const HEAD = (id) => 1 + id.length + 2 + 8 + 2 + 4;

function pattern(length) {
  const bytes = Buffer.alloc(length);
  for (let n = 0; n < length; n++) bytes[n] = n * 31 + Math.floor(n / 251);
  return bytes;
}

// A packet with its length: from a client, or with an error code from a server.
function packet(id, seq, stage, payload, error) {
  const fixed = error === undefined ? 10 : 16;
  const head = Buffer.alloc(4 + 1 + id.length + fixed);
  head.writeInt32LE(head.length - 4 + payload.length, 0);
  head.writeUInt8(id.length, 4);
  head.write(id, 5);
  const at = 5 + id.length;
  head.writeUInt16LE(seq, at);
  head.writeBigInt64LE(BigInt(stage), at + 2);
  if (error !== undefined) head.writeUInt16LE(error, at + 10);
  return Buffer.concat([head, payload]);
}

function parse(body, fixed) {
  const at = 1 + body.readUInt8(0);
  const of = { id: body.toString('utf8', 1, at), seq: body.readUInt16LE(at) };
  of.stage = Number(body.readBigInt64LE(at + 2));
  if (fixed === 16) {
    of.error = body.readUInt16LE(at + 10);
    assert.equal(body.readInt32LE(at + 12), 0, 'not compressed');
  }
  of.payload = body.subarray(at + fixed);
  return of;
}

// Messages are pieces of a stream of packets.
class Packets {
  constructor(fixed) {
    this.fixed = fixed;
    this.rest = Buffer.alloc(0);
  }

  take(data) {
    this.rest = Buffer.concat([this.rest, data]);
    const packets = [];
    while (this.rest.length >= 4 && this.rest.length >= 4 + this.rest.readInt32LE(0)) {
      const end = 4 + this.rest.readInt32LE(0);
      packets.push(parse(this.rest.subarray(4, end), this.fixed));
      this.rest = this.rest.subarray(end);
    }
    return packets;
  }
}

// What was said to a socket, one after the other.
class Inbox {
  constructor(socket, packets) {
    this.items = [];
    this.waiting = [];
    const say = (item) => {
      const waiter = this.waiting.shift();
      if (waiter) waiter(item); else this.items.push(item);
    };
    socket.on('message', (data, binary) => {
      if (!packets) return say({ data, binary });
      assert(binary);
      for (const one of packets.take(data)) say(one);
    });
    socket.on('pong', (data) => say({ pong: data.toString() }));
    socket.on('close', (code, reason) => say({ code, reason: reason.toString() }));
    socket.on('error', (error) => say({ error }));
  }

  next() {
    const item = this.items.shift();
    if (item) return Promise.resolve(item);
    return new Promise((resolve) => this.waiting.push(resolve));
  }
}

async function open(url, authority, packets) {
  const options = { maxPayload: 64 << 20 };
  if (authority) Object.assign(options, { ca: fs.readFileSync(authority), servername: 'play.test' });
  const socket = new WebSocket(url, options);
  const inbox = new Inbox(socket, packets);
  await new Promise((resolve, reject) => {
    socket.on('open', resolve);
    socket.on('error', reject);
  });
  assert.equal(socket.extensions, '', 'none is agreed on');
  return { socket, inbox };
}

async function client(url, authority) {
  const { socket, inbox } = await open(url, authority, new Packets(16));
  socket.send(packet('AuthenticateRequest', 1, 1, Buffer.from('node')));
  const welcome = await inbox.next();
  assert.deepEqual([welcome.seq, welcome.error, welcome.stage], [1, 0, 1]);
  assert.equal(welcome.payload.toString(), 'welcome');
  let seq = 2;
  for (const length of [0, 1, 125, 126, 65535, 65536, 1 << 20, LIMIT - HEAD('Echo')]) {
    const payload = pattern(length);
    socket.send(packet('Echo', ++seq, 1, payload));
    const answer = await inbox.next();
    assert.deepEqual([answer.id, answer.seq, answer.error], ['Echo', seq, 0]);
    assert(answer.payload.equals(payload), `${length} bytes`);
  }
  // Several packets in a message, one in several messages, a message in several frames.
  const three = [7, 8, 9].map((n) => packet('Echo', n, 1, Buffer.from([n])));
  const stream = Buffer.concat(three);
  socket.send(stream);
  for (let at = 0; at < stream.length; at += 5) socket.send(stream.subarray(at, at + 5));
  socket.send(stream.subarray(0, 20), { fin: false });
  socket.ping('between');
  socket.send(stream.subarray(20, 40), { fin: false });
  socket.send(stream.subarray(40), { fin: true });
  let pongs = 0;
  for (let round = 0; round < 3; round++) {
    for (const n of [7, 8, 9]) {
      let answer = await inbox.next();
      if (answer.pong) {
        assert.equal(answer.pong, 'between');
        pongs++;
        answer = await inbox.next();
      }
      assert.deepEqual([answer.seq, answer.payload[0]], [n, n]);
    }
  }
  if (pongs === 0) assert.equal((await inbox.next()).pong, 'between');
  socket.close(1000, 'done');
  assert.equal((await inbox.next()).code, 1000);
}

async function raw(url) {
  const { socket, inbox } = await open(url);
  for (const length of [0, 125, 126, 65535, 65536, 1 << 20]) {
    socket.send(pattern(length));
    const answer = await inbox.next();
    assert(answer.binary && answer.data.equals(pattern(length)), `${length} bytes`);
  }
  socket.send('舞台');
  const answer = await inbox.next();
  assert(!answer.binary && answer.data.toString() === '舞台');
  socket.close(4000, 'enough');
  assert.equal((await inbox.next()).code, 4000);
}

// Answers as the tests expect: see `Room` in room.rs.
function play(socket) {
  const packets = new Packets(10);
  const send = (...of) => socket.send(packet(...of));
  socket.on('pong', (data) => send('Pong', 0, 1, data, 0));
  socket.on('message', (data, binary) => {
    assert(binary);
    for (const { id, seq, stage, payload } of packets.take(data)) {
      const answer = packet(id, seq, stage, payload, 0);
      if (id === 'AuthenticateRequest') send('Answer', seq, stage, Buffer.from('welcome'), 0);
      else if (id === 'Ping') socket.ping(payload);
      else if (id === 'Close') socket.close(4000, 'enough');
      else if (id === 'Bits') {
        const third = Math.floor(answer.length / 3);
        socket.send(answer.subarray(0, third), { fin: false });
        socket.ping('between');
        socket.send(answer.subarray(third, 2 * third), { fin: false });
        socket.send(answer.subarray(2 * third), { fin: true });
      } else if (seq > 0) socket.send(answer);
    }
  });
}

function server() {
  const listening = new WebSocketServer({ host: '127.0.0.1', port: 0, maxPayload: 64 << 20 });
  listening.on('connection', (socket, request) => {
    socket.on('error', () => socket.terminate());
    if (request.url === '/ws') return play(socket);
    socket.on('message', (data, binary) => socket.send(data, { binary }));
  });
  listening.on('listening', () => console.log(`port ${listening.address().port}`));
  process.stdin.on('end', () => process.exit(0)).resume();
}

const [what, ...rest] = process.argv.slice(2);
const run = { client, raw, server }[what](...rest);
Promise.resolve(run).then(() => what === 'server' || console.log('ok'), (error) => {
  console.error(error);
  process.exit(1);
});
