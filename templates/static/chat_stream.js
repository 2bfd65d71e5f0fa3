// One streamed chat completion.

import { call } from "./api.js";
import { events } from "./sse.js";

// Yields, in the order in which the service sends it: {progress} while the model loads, {reasoning}, {text},
// {tokensPerSecond}, {tokens}. Throws an Error with what went wrong, or an AbortError when `signal` ends it.
export async function* streamChat(body, signal) {
  const options = { stream: true, stream_options: { include_usage: true } };
  const response = await call("v1/chat/completions", { body: { ...body, ...options }, signal });
  for await (const { comment, data } of events(response.body)) {
    if (comment?.startsWith("loading ")) yield { progress: comment };
    if (data === "[DONE]") return;
    if (data) yield* parts(JSON.parse(data));
  }
  throw new Error("The answer was cut off.");
}

function* parts({ error, id, choices, usage, timings }) {
  if (error) throw new Error(error.message);
  const delta = choices?.[0]?.delta ?? {};
  // scheduling.loading_comments: reasoning_content; then progress is reasoning of a chunk of the proxy's own.
  const thought = delta.reasoning_content;
  if (thought) yield id?.startsWith("loading-") ? { progress: thought.trim() } : { reasoning: thought };
  if (delta.content) yield { text: delta.content };
  if (timings?.predicted_per_second) yield { tokensPerSecond: timings.predicted_per_second };
  if (usage?.completion_tokens) yield { tokens: usage.completion_tokens };
}
