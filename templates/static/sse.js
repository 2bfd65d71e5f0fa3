// Reads server-sent events and plain lines from a fetch: an EventSource sends no body and hides comments.

// Yields the decoded pieces of a body. Safari cannot iterate over a ReadableStream.
export async function* pieces(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
  } finally {
    reader.cancel().catch(() => {});
  }
}

// Yields lists of whole lines, without their ends: as many as arrived together.
export async function* lineGroups(body) {
  let rest = "";
  for await (const piece of pieces(body)) {
    const lines = (rest + piece).split("\n");
    rest = lines.pop();
    yield lines.map((line) => line.replace(/\r$/, ""));
  }
  if (rest) yield [rest];
}

// Yields {event, data} for each event, and {comment} for each comment.
export async function* events(body) {
  let event = "message", data = [];
  for await (const lines of lineGroups(body)) {
    for (const line of lines) {
      if (line === "") {
        if (data.length) yield { event, data: data.join("\n") };
        [event, data] = ["message", []];
      } else if (line.startsWith(":")) yield { comment: line.slice(1).trim() };
      else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
      else if (line.startsWith("event:")) event = line.slice(6).trim();
    }
  }
}
