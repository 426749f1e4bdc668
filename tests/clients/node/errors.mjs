// How refusals and failures reach the client.

import { client, connect, given, step } from "./steps.mjs";

const { actor } = given;
const run = (ref, input) => client.run(ref, { input });

await step("failed", () => run(actor, { text: "x", act: "fail" }));
await step("failed while polling", () =>
  client.run(actor, {
    input: { text: "x", act: "fail" },
    wait: { mode: "poll", interval: 20 },
  }),
);
await step("missing input", () => run(actor, {}));
await step("wrong input", () => run(actor, { text: "x", times: 99 }));
await step("unknown version", () => run(`acme/actor:${"0".repeat(64)}`, { text: "x" }));
await step("community model", () => run("acme/actor", { text: "x" }));
await step("no prediction", () => client.predictions.get("nothing"));
await step("no prediction to cancel", () => client.predictions.cancel("nothing"));
await step("no training", () => client.trainings.get("nothing"));
await step("no model", () => client.models.get("acme", "nothing"));
await step("no deployment", () => client.deployments.get("local", "nothing"));
await step("wrong token", () => connect({ auth: "r8_wrong" }).models.list());
