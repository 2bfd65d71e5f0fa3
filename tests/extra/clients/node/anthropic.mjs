// @anthropic-ai/sdk: messages, a stream, token counts, an error.
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({ baseURL: process.env.BASE_URL, apiKey: process.env.KEY });
const question = { model: "demo", messages: [{ role: "user", content: "Hello!" }], max_tokens: 4 };

assert.equal((await client.messages.create(question)).usage.output_tokens, 4);
assert.equal((await client.messages.stream(question).finalMessage()).stop_reason, "max_tokens");
const { model, messages } = question;
assert((await client.messages.countTokens({ model, messages })).input_tokens > 0);
await assert.rejects(client.messages.create({ ...question, model: "nosuch" }), { status: 404, type: "not_found_error" });
