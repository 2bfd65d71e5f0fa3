-- The request that wrk sends, and its summary as one line of JSON.
wrk.method = "POST"
wrk.path = "/v1/chat/completions"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"model":"stand-in-0","max_tokens":1,"messages":[{"role":"user","content":"Hello!"}]}'

function done(summary, latency)
    local errors = summary.errors
    local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
    io.write(string.format('{"requests":%d,"seconds":%.4f,"p50_ms":%.4f,"p99_ms":%.4f,"failed":%d}\n',
        summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, failed))
end
