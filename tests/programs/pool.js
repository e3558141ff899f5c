// As pool.c, in JavaScript: `node --perf-basic-prof`.
const net = require("net");

function open_connection(port) {
  const socket = net.connect(port, "127.0.0.1");
  return socket;
}

function release_to_pool(socket) {
  socket.destroy();
}

function handle_request(port, next) {
  const socket = open_connection(port);
  socket.on("connect", () => release_to_pool(socket));
  socket.on("close", next);
}

function expire_session(port, next) {
  const socket = open_connection(port);
  socket.on("connect", function expire_session() { socket.destroy(); });
  socket.on("close", next);
}

const forgotten = [];

function forget_session(port, next) {
  const socket = open_connection(port);
  socket.pause();
  socket.on("connect", next);
  forgotten.push(socket);
}

function repeat(times, work, port, then) {
  if (times === 0) return then();
  work(port, () => repeat(times - 1, work, port, then));
}

const [patient, hasty] = process.argv.slice(2).map(Number);
repeat(20, handle_request, patient, () =>
  repeat(5, expire_session, patient, () =>
    repeat(3, forget_session, hasty, () => {
      console.log("done");
      // Until its standard input is closed.
      process.stdin.on("end", () => process.exit()).resume();
    })));
