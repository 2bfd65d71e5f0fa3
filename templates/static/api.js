// Requests to the service. Addresses are relative to the page, which may be below a sub-path of another server.

// GET, or POST with a body, unless `method` is given. Returns the Response of a 2xx; throws an Error with the service's own message.
export async function call(path, { body, signal, method } = {}) {
  const options = { signal, method, cache: "no-store" };
  if (body !== undefined) {
    const headers = { "Content-Type": "application/json" };
    Object.assign(options, { method: "POST", body: JSON.stringify(body), headers });
  }
  const response = await fetch(path, options).catch((problem) => {
    throw problem.name === "AbortError" ? problem : new Error("The service does not answer.");
  });
  if (response.ok) return response;
  throw new Error(await messageOf(response));
}

async function messageOf(response) {
  const text = await response.text().catch(() => "");
  try {
    return JSON.parse(text).error.message;
  } catch {
    return `The answer was HTTP ${response.status}.`;
  }
}
