// @supabase/stripe-sync-engine behind Node's own HTTP server: each POST is one signed Stripe event, handed to
// `processWebhook`, which verifies the signature and upserts; 200 once that is committed. Arguments: the port, the
// database's URL and the endpoint's secret. Its pool has ten connections, as its documentation shows.
"use strict";

const http = require("node:http");
const { StripeSync, runMigrations } = require("@supabase/stripe-sync-engine");

const [port, databaseUrl, secret] = process.argv.slice(2);
const sync = new StripeSync({
  poolConfig: { connectionString: databaseUrl, max: 10 },
  stripeSecretKey: "sk_test_of_nobody",
  stripeWebhookSecret: secret,
});

function answer(response, status, text) {
  response.writeHead(status, { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(text) });
  response.end(text);
}

function handle(request, response) {
  if (request.method === "GET") {
    answer(response, 200, '{"ready":true}');
    return;
  }
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    sync.processWebhook(Buffer.concat(chunks), request.headers["stripe-signature"]).then(
      () => answer(response, 200, '{"received":true}'),
      (error) => {
        process.stderr.write(`${error.message}\n`);
        answer(response, 400, '{"received":false}');
      },
    );
  });
}

async function main() {
  const logger = { info() {}, error: (error) => process.stderr.write(`${error}\n`) };
  await runMigrations({ databaseUrl, schema: "stripe", logger });
  const server = http.createServer({ keepAlive: true }, handle);
  server.keepAliveTimeout = 60_000;
  server.listen(Number(port), "127.0.0.1");
  process.on("SIGTERM", () => {
    server.closeAllConnections();
    server.close(() => sync.postgresClient.pool.end());
  });
}

main();
