// Webhooks that arrive at a server of Node's own and pass the client's own check.

import { createServer } from "node:http";
import { validateWebhook } from "replicate";
import { client, given, step, version } from "./steps.mjs";

const waiting = [];
const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  response.end();
  waiting.shift()({ headers: request.headers, body: Buffer.concat(chunks).toString() });
});
await new Promise((done) => server.listen(0, "127.0.0.1", done));
const webhook = `http://127.0.0.1:${server.address().port}/hook`;
const message = () => new Promise((arrived) => waiting.push(arrived));

const secret = await client.webhooks.default.secret.get();
await step("secret", () => secret);
const next = message();
const input = { text: "h\u00e9llo" };
const made = await client.predictions.create({
  version: version(given.echo),
  input,
  webhook,
  webhook_events_filter: ["completed"],
});
const { headers, body } = await next;
await step("told", () => ({ ...JSON.parse(body), same: JSON.parse(body).id === made.id }));
await step("valid", () => validateWebhook({ headers, body }, secret.key));
await step("valid by parts", () =>
  validateWebhook({
    id: headers["webhook-id"],
    timestamp: headers["webhook-timestamp"],
    signature: headers["webhook-signature"],
    body,
    secret: secret.key,
  }),
);
await step("forged", () => validateWebhook({ headers, body: `${body} ` }, secret.key));
await step("wrong secret", () => validateWebhook({ headers, body }, "whsec_AAAA"));
server.close();
