// Running, following, streaming and canceling models.

import Replicate from "replicate";
import { client, connect, ended, given, step, text, version } from "./steps.mjs";

const { actor, counter, echo, painter } = given;
const DATA = "data:text/plain;base64,cGFwZXI=";
const MANY = { to: 2000, pause: 0.01 };

async function read(stream) {
  const events = [];
  for await (const event of stream) events.push([event.event, event.data, String(event)]);
  return events;
}

await step("text", () => client.run(actor, { input: { text: "hi", times: 2 } }));
await step("official", () => client.run("acme/echo", { input: { text: "by name" } }));
await step("polled", () =>
  client.run(actor, { input: { text: "hi" }, wait: { mode: "poll", interval: 20 } }),
);
await step("late", () =>
  client.run(actor, {
    input: { text: "late", act: "sleep", seconds: 1.2 },
    wait: { mode: "block", timeout: 1 },
  }),
);
await step("iterator", () => client.run(counter, { input: { to: 3 } }));

await step("files", () => client.run(painter, { input: { count: 2 } }));
await step("contents", async () => {
  const urls = await client.run(painter, { input: { count: 2 } });
  return Promise.all(urls.map(text));
});
await step("file output", async () => {
  const output = await client.run(echo, { input: { text: DATA } });
  return { url: String(output), text: await (await output.blob()).text() };
});
await step("no file output", () =>
  connect({ useFileOutput: false }).run(echo, { input: { text: DATA } }),
);

await step("progress", async () => {
  const seen = [];
  await client.run(
    actor,
    { input: { text: "x" }, wait: { mode: "poll", interval: 20 } },
    (prediction) => seen.push(prediction.status),
  );
  return seen;
});
await step("bar", async () => {
  const input = { text: "x" };
  const done = await client.predictions.create({ version: version(echo), input, wait: true });
  return Replicate.parseProgressFromLogs(done);
});
await step("created", async () => {
  const made = await client.predictions.create({ version: version(actor), input: { text: "x" } });
  const done = await client.wait(made, { interval: 20 });
  return { first: made.status, last: done.status, output: done.output, logs: done.logs };
});
await step("waited", () =>
  client.predictions.create({ version: version(actor), input: { text: "x" }, wait: 10 }),
);
await step("canceled", async () => {
  const made = await client.predictions.create({ version: version(counter), input: MANY });
  const canceled = await client.predictions.cancel(made.id);
  return [canceled.status, (await ended("predictions", made)).status];
});
await step("aborted", async () => {
  const abort = new AbortController();
  let id;
  await client.run(
    counter,
    { input: MANY, signal: abort.signal, wait: { mode: "poll", interval: 20 } },
    (prediction) => {
      id = prediction.id;
      if (prediction.status === "processing") abort.abort();
    },
  );
  return (await client.predictions.get(id)).status;
});

await step("stream", () => read(client.stream(counter, { input: { to: 3 } })));
await step("stream by name", () => read(client.stream("acme/counter", { input: { to: 3 } })));
await step("stream of text", () => read(client.stream(actor, { input: { text: "x" } })));
await step("broken stream", () =>
  read(client.stream(counter, { input: { to: 3, pause: -1 } })),
);
await step("canceled stream", async () => {
  const made = await client.predictions.create({ version: version(counter), input: MANY });
  const stream = fetch(made.urls.stream, { headers: { Accept: "text/event-stream" } });
  await client.predictions.cancel(made.id);
  return (await (await stream).text()).split("\n").filter(Boolean).at(-1);
});
