// openai for Node: the list, chat, a stream, responses, embeddings, an error.
import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.env.BASE_URL + "/v1", apiKey: process.env.KEY });
const chat = { model: "demo", messages: [{ role: "user", content: "Hello!" }], max_tokens: 4 };

const ids = [];
for await (const model of client.models.list()) ids.push(model.id);
assert(ids.includes("demo"));
assert.equal((await client.chat.completions.create(chat)).usage.completion_tokens, 4);
let reason;
for await (const chunk of await client.chat.completions.create({ ...chat, stream: true }))
  reason = chunk.choices[0]?.finish_reason ?? reason;
assert.equal(reason, "length");
assert.equal((await client.responses.create({ model: "demo", input: "Hello!", max_output_tokens: 4 })).status, "completed");
assert.equal((await client.embeddings.create({ model: "embedder", input: ["one", "two"] })).data.length, 2);
await assert.rejects(client.chat.completions.create({ ...chat, model: "nosuch" }), { status: 404, code: "model_not_found" });
