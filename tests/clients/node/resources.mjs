// Account, hardware, models, versions, trainings, deployments, and lists of several pages.

import { client, ended, given, step, text, version } from "./steps.mjs";

const { actor, copier, echo } = given;
const LIMITS = { hardware: "cpu", min_instances: 0, max_instances: 1 };

await step("account", () => client.accounts.current());
await step("hardware", () => client.hardware.list());
await step("collections", () => client.collections.list());
await step("collection", async () => (await client.collections.get("local")).models.length > 0);

const create = (name) =>
  client.models.create("local", name, { visibility: "private", hardware: "cpu" });
await step("model", () => create("node-marmalade"));
await step("model again", () => create("node-marmalade"));
await step("model found", () => client.models.get("local", "node-marmalade"));
await step("search", async () => {
  const found = await client.models.search("marmalade");
  return found.results.map(({ name }) => name);
});
await step("versions", async () => {
  const { results } = await client.models.versions.list("acme", "echo");
  return results.map(({ id }) => id);
});
await step("version", () => client.models.versions.get("acme", "echo", version(echo)));

const train = (destination, input) =>
  client.trainings.create("acme", "actor", version(actor), { destination, input });
await step("training", async () => {
  await create("node-tuned");
  const training = await train("local/node-tuned", { data: "data:,notes" });
  return { first: training.status, ...(await ended("trainings", training)) };
});
await step("tuned", async () => {
  const { latest_version } = await client.models.get("local", "node-tuned");
  return client.run(`local/node-tuned:${latest_version.id}`, { input: { text: "x" } });
});
await step("training canceled", async () => {
  await create("node-never");
  const training = await train("local/node-never", { data: "data:,x", steps: 2000 });
  await client.trainings.cancel(training.id);
  const { results } = await client.trainings.list();
  return results.find(({ id }) => id === training.id).status;
});
await step("training nowhere", () => train("local/nowhere", { data: "data:,x" }));

await step("deployment", () =>
  client.deployments.create({
    name: "node",
    model: "acme/copier",
    version: version(copier),
    ...LIMITS,
  }),
);
await step("deployment found", () => client.deployments.get("local", "node"));
await step("deployment listed", async () => {
  const { results } = await client.deployments.list();
  return results.some(({ name }) => name === "node");
});
await step("deployment used", async () => {
  const input = { paper: Buffer.from("ink") };
  const made = await client.deployments.predictions.create("local", "node", { input, wait: true });
  return text(made.output);
});
await step("deployment changed", () =>
  client.deployments.update("local", "node", { max_instances: 2 }),
);
await step("deployment deleted", () => client.deployments.delete("local", "node"));
await step("deployment gone", () => client.deployments.get("local", "node"));

async function pages(kind) {
  const found = [];
  for await (const page of client.paginate(client[kind].list)) found.push(page);
  return found;
}
await step("pages of models", async () => {
  const made = await Promise.all([...Array(26).keys()].map((at) => create(`node-page-${at}`)));
  const found = await pages("models");
  const names = found.flat().map(({ owner, name }) => `${owner}/${name}`);
  return {
    first: found[0].length,
    all: made.every(({ name }) => names.includes(`local/${name}`)),
    twice: names.length - new Set(names).size,
  };
});
await step("pages of predictions", async () => {
  const one = () =>
    client.predictions.create({ version: version(echo), input: { text: "x" } });
  const made = await Promise.all([...Array(101)].map(one));
  const found = await pages("predictions");
  const ids = found.flat().map(({ id }) => id);
  return {
    first: found[0].length,
    all: made.every(({ id }) => ids.includes(id)),
    twice: ids.length - new Set(ids).size,
  };
});
